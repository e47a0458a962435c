"""Runs a command: one-line errors, exit codes, signals, and quiet imports of Keras and TensorFlow.

Exit codes: 0 success; 1 a fault in the input, a file or the disk; 2 a fault in the command line;
130 stopped by Ctrl-C; 143 stopped by SIGTERM. A bug keeps its traceback.
"""

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from training.command_line.backend import choose_backend
from training.command_line.errors import UsageError, input_errors

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM: the same clean stop as Ctrl-C, with a different exit code."""


def run_command(command: Callable[[Sequence[str] | None], None], arguments=None) -> int:
    """Runs a command; turns errors that the user can fix into one line and an exit code."""
    if sys.stderr is None:  # closed by the caller; errors must not go to stdout instead
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's stdout has no such method
        # Shows progress in a pipe, too, and file names that the terminal cannot encode.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    try:
        if "keras" not in sys.modules:
            choose_backend(sys.argv[1:] if arguments is None else arguments)
        with handling_signals(_raise_terminated, signal.SIGTERM):
            command(arguments)
    except UsageError as error:
        return _complain(error, 2)
    except input_errors() as error:
        return _complain(error, 1)
    except Terminated:
        return 143
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output is gone: print nothing, and flush nothing at exit.
        with contextlib.suppress(AttributeError, OSError):  # the output is not a file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in FULL_DISK:
            return _complain(
                f"{error.filename or 'a file'} must fit on the disk. Received: {error.strerror}."
                " Make room and run the same command again.",
                1,
            )
        if error.errno is None or error.filename is None:
            raise
        return _complain(f"{error.filename}: {error.strerror}", 1)
    return 0


def _complain(message, exit_code: int) -> int:
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    return exit_code


def _raise_terminated(_signal_number, _frame):
    raise Terminated


@contextlib.contextmanager
def handling_signals(handler: Callable, *numbers: int) -> Iterator[None]:
    """Handles signals within the block, if this is the main thread.

    Python delivers signals only to the main thread, and only that thread may set handlers. In other
    threads, such as in a notebook or a Ray worker, the owner of the process stops the code.

    Args:
        handler: A handler as for `signal.signal`.
        *numbers: The signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier_handler in earlier.items():
            # None: the handler was not set from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if earlier_handler is None else earlier_handler)


def tell(what: str) -> None:
    """Prints to stderr what the command is about to do."""
    if sys.stderr is not None:
        print(what, file=sys.stderr, flush=True)


_started = []  # what this process has imported through the functions below


def import_keras() -> None:
    """Imports Keras and its backend, without their log lines."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "keras" not in sys.modules:
        tell("starting Keras ...")
        _started.append("keras")
    with quiet_stderr():
        import keras  # noqa: F401


def import_tensorflow(what: str | None = None) -> None:
    """Imports TensorFlow and looks for a GPU, without its log lines.

    Args:
        what: The line to show in a process that these functions started Keras in; None shows that
            TensorFlow starts, before the first import.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "tensorflow" not in sys.modules or (what and _started):
        tell(f"{what or 'starting TensorFlow'} ...")
    with quiet_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drops everything written to stderr, including by C++ code.

    During import, before any setting takes effect, TensorFlow writes lines there that would bury
    an error message.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # the caller closed stderr: nothing to drop
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
