"""What all commands share: their parser, one-line errors, exit codes and signals.

Exit codes: 0 done, 1 the input, a file or the disk is at fault, 2 the command line is at fault,
130 stopped by Ctrl-C, 143 stopped by SIGTERM. A bug keeps its traceback.
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


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drops what is written to stderr, by C++ code too.

    TensorFlow describes itself there when it is imported, before any setting of it works, and
    would bury the one line that matters. Where there is no stderr, there is nothing to drop.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # closed by who started us
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


FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the same clean stop as Ctrl-C, another exit code."""


def run_command(command: Callable[[Sequence[str] | None], None], arguments=None) -> int:
    """Runs a command and turns what the user can mend into one line and an exit code."""
    if sys.stderr is None:  # closed by who started us; what is said must not go to stdout instead
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's has not
        # Progress shows in a pipe, too; names of files that the terminal cannot spell do no harm.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    try:
        if arguments is None:
            choose_backend(sys.argv[1:])  # before Keras is imported
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
        # Who read our output has gone: nothing to say, and nothing may be flushed at exit.
        with contextlib.suppress(AttributeError, OSError):  # an output that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if not _is_the_users(error):
            raise
        return _complain(_file_complaint(error), 1)
    return 0


def tell(what: str) -> None:
    """Says what a command is about to do, beside its output."""
    if sys.stderr is not None:
        print(what, file=sys.stderr, flush=True)


def import_keras() -> None:
    """Imports Keras and its backend, without the lines that these write meanwhile."""
    if "keras" not in sys.modules:
        tell("starting Keras ...")
    with quiet_stderr():
        import keras  # noqa: F401


@contextlib.contextmanager
def handling_signals(handler: Callable, *numbers: int) -> Iterator[None]:
    """Has signals handled within the block, if this is the main thread.

    Python delivers signals to the main thread and lets no other set handlers. What runs in another
    one, as in a notebook or a Ray worker, is stopped by whoever owns the process.

    Args:
        handler: As `signal.signal` takes it.
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
            # None: it was not set from Python, and cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if earlier_handler is None else earlier_handler)


def import_tensorflow(what: str = "starting TensorFlow") -> None:
    """Imports TensorFlow and looks for a GPU, without the lines that it writes meanwhile.

    Args:
        what: What to say if that has not been done, because it takes seconds.
    """
    if "tensorflow" not in sys.modules:
        tell(f"{what} ...")
    with quiet_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()


def _raise_terminated(_signal_number, _frame):
    raise Terminated


def _complain(message, exit_code: int) -> int:
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    return exit_code


def _is_the_users(error: OSError) -> bool:
    return error.errno in FULL_DISK or (error.errno is not None and error.filename is not None)


def _file_complaint(error: OSError) -> str:
    where = error.filename or "a file"
    if error.errno in FULL_DISK:
        return (
            f"{where} must fit on the disk. Received: {error.strerror}. Make room and run the same"
            " command again."
        )
    return f"{where}: {error.strerror}"
