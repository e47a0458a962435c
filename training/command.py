"""What all commands share: their parser, one-line errors, exit codes and signals.

Exit codes: 0 done, 1 the input, a file or the disk is at fault, 2 the command line is at fault,
130 stopped by Ctrl-C, 143 stopped by SIGTERM. A bug keeps its traceback.
"""

import argparse
import contextlib
import difflib
import errno
import logging
import os
import re
import signal
import sys
import threading
import typing
from collections.abc import Callable, Iterator, Sequence

from jsonargparse import ArgumentParser, Namespace

from training.backend import choose_backend, spare_keras_for_help


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


choose_backend(sys.argv[1:])  # before Keras is imported
spare_keras_for_help(sys.argv[1:])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
with quiet_stderr():  # the package imports Keras, and Keras TensorFlow
    from keras_transformer.errors import InputError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UsageError(Exception):
    """The command line itself is wrong."""


class UnfitSettings(InputError):
    """A training fails because of its settings, not of its text or the machine: others may do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the same clean stop as Ctrl-C, another exit code."""


class CommandParser(ArgumentParser):
    """The parser of `python -m training.NAME`: dashed options, spelled out, typed.

    Args:
        name: The command.
        description: What it does, for --help.
    """

    def __init__(self, name: str, description: str):
        super().__init__(
            prog=f"python -m training.{name}",
            description=description,
            exit_on_error=False,
            allow_abbrev=False,
        )
        self.type_hints = {}
        self.option_names = []

    def add_option(self, name: str, type_hint, default, help_text: str, **more) -> None:
        """Adds the option --some-name for the value `some_name`."""
        self.type_hints[name] = type_hint
        self.option_names.append(option_name(name))
        self.add_argument(
            option_name(name), type=type_hint, default=default, help=help_text, **more
        )

    def add_positional(self, name: str, help_text: str, **more) -> None:
        """Adds a value that must be given, known by its place."""
        self.type_hints[name] = str
        self.add_argument(name, type=str, help=help_text, **more)

    def add_flag(self, name: str, help_text: str) -> None:
        """Adds the option --some-name, which takes no value and is false if not given."""
        self.option_names.append(option_name(name))
        self.add_argument(option_name(name), action="store_true", help=help_text)


def option_name(name: str) -> str:
    """The spelling of a setting on the command line."""
    return "--" + name.replace("_", "-")


def in_words(type_hint) -> str:
    """What a value must be."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    words |= {type(None): "null", list[str]: "a list of texts", list[dict]: "a list of mappings"}
    if typing.get_origin(type_hint) is typing.Literal:
        return "one of " + ", ".join(typing.get_args(type_hint))
    if type_hint in words:
        return words[type_hint]
    return " or ".join(in_words(part) for part in typing.get_args(type_hint))


def parse(parser: CommandParser, arguments: Sequence[str] | None) -> Namespace:
    """The parsed options.

    Raises:
        UsageError: If they are wrong; one line that says how.
    """
    try:
        return parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(_usage_complaint(str(error), parser)) from error


def run_command(command: Callable[[Sequence[str] | None], None], arguments=None) -> int:
    """Runs a command and turns what the user can mend into one line and an exit code."""
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's has not
        sys.stdout.reconfigure(line_buffering=True)  # progress shows in a pipe, too
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    try:
        with handling_signals(_raise_terminated, signal.SIGTERM):
            command(arguments)
    except UsageError as error:
        return _complain(error, 2)
    except InputError as error:
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


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for a GPU, without the lines that it writes meanwhile."""
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


def _usage_complaint(message: str, parser: CommandParser) -> str:
    """One line about a wrong option, in the command line's own spelling."""
    key = re.match(r'Parser key "(\w+)"(?: element \d+)?:', message)
    if key and key[1] in parser.type_hints:
        received = re.search(r"(?:Got|Given) value: (.*)", message)
        return (
            f"{option_name(key[1])} must be {in_words(parser.type_hints[key[1]])}. Received:"
            f" {received[1] if received else 'something else'}. See {parser.prog} --help."
        )
    unknown = re.match(r"unrecognized arguments: (\S+)", message, re.IGNORECASE)
    spelled = unknown[1].split("=")[0].replace("_", "-") if unknown else ""
    close = difflib.get_close_matches(spelled, parser.option_names, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"See {parser.prog} --help."
    return f"{message.rstrip('.')}. {hint}"
