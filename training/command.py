"""What all commands share: their parser, one-line errors, exit codes and signals.

Exit codes: 0 done, 1 the input, a file or the disk is at fault, 2 the command line is at fault,
130 stopped by Ctrl-C, 143 stopped by SIGTERM. A bug keeps its traceback.
"""

import argparse
import contextlib
import difflib
import errno
import functools
import itertools
import logging
import os
import signal
import sys
import threading
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from training.backend import choose_backend, defer_library, limit_threads
from training.option_types import from_text, in_words


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
defer_library()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
with quiet_stderr():  # where it is not deferred, the package imports Keras, and Keras TensorFlow
    from keras_transformer.errors import InputError
    from training.outputs import check_output_folder

# From 0, nothing in common, to 1.5, the same: what is less alike is not suggested.
LEAST_LIKENESS = 0.8
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UsageError(Exception):
    """The command line itself is wrong."""


class UnfitSettings(InputError):
    """A training fails because of its settings, not of its text or the machine: others may do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the same clean stop as Ctrl-C, another exit code."""


class Options(argparse.Namespace):
    """What a command line gives, by name."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def get(self, name: str) -> Any:
        """The value; None if there is no such option."""
        return getattr(self, name, None)


class CommandParser(argparse.ArgumentParser):
    """The parser of `python -m training.NAME`: dashed options, spelled out, typed, given once.

    Args:
        name: The command.
        description: What it does, for --help.
    """

    def __init__(self, name: str, description: str):
        super().__init__(
            prog=f"python -m training.{name}", description=description, allow_abbrev=False
        )
        self.obeys_threads = False
        self.output_folders = []
        self._instead_of_repeating = {"--help": "Leave all but one out."}

    def add_option(self, name: str, type_hint, default, help_text: str, **more) -> None:
        """Adds the option --some-name for the value `some_name`."""
        spelled = option_name(name)
        instead = "Leave all but one out."
        if "nargs" in more:
            instead = f"Give all values after one {spelled}."
        elif list[str] in typing.get_args(type_hint):
            instead = f"Give a list, {spelled} '[FIRST, SECOND]', or a pattern."
        self._instead_of_repeating[spelled] = instead
        self.add_argument(
            spelled,
            type=functools.partial(self._typed, spelled, type_hint),
            default=default,
            help=_escaped(f"{help_text} ({_form(type_hint, default)})"),
            **more,
        )

    def add_output_folder(self, name: str, default: str | None, help_text: str, **more) -> None:
        """Adds the option for a folder to write, which `parse` looks at."""
        self.output_folders.append(name)
        self.add_option(name, str, default, help_text, **more)

    def add_positional(self, name: str, help_text: str, **more) -> None:
        """Adds a value that must be given, known by its place."""
        self.add_argument(name, help=_escaped(help_text), **more)

    def add_flag(self, name: str, help_text: str) -> None:
        """Adds the option --some-name, which takes no value and is false if not given."""
        self._instead_of_repeating[option_name(name)] = "Leave all but one out."
        self.add_argument(option_name(name), action="store_true", help=_escaped(help_text))

    def add_threads(self) -> None:
        """Adds the option --threads, which `parse` obeys."""
        self.obeys_threads = True
        self.add_option("threads", int | None, None, "Threads to compute with; all if not given.")

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else [*args]
        self._check_names(args)
        return super().parse_known_args(args, Options() if namespace is None else namespace)

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ").rstrip(".")
        raise UsageError(f"{message}. See {self.prog} --help.")

    def _typed(self, name: str, type_hint, text: str) -> Any:
        try:
            return from_text(text, type_hint)
        except ValueError as error:
            raise UsageError(
                f"{name} {error}. Received: {text or 'nothing'}. See {self.prog} --help."
            ) from error

    def _check_names(self, arguments: Sequence[str]) -> None:
        """Refuses options that are unknown or repeated, before anything else is complained of."""
        arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
        seen = Counter()
        for place, argument in enumerate(arguments):
            name = argument.partition("=")[0]
            if name in self._instead_of_repeating:
                seen[name] += 1
            elif argument.startswith("--") and " " not in argument:
                self._refuse_unknown(name, arguments[place:])
        for name, times in seen.items():
            if times > 1:
                raise UsageError(
                    f"{name} must be given once. Received: {name} {times} times."
                    f" {self._instead_of_repeating[name]}"
                )

    def _refuse_unknown(self, name: str, arguments: Sequence[str]) -> NoReturn:
        """Complains of the first argument, with the values that belong to it."""
        values = itertools.takewhile(lambda argument: argument[:1] != "-", arguments[1:])
        given = [arguments[0], *("" if "=" in arguments[0] else values)]
        close = closest(name, self._instead_of_repeating)
        hint = f"Did you mean {close}?" if close else f"See {self.prog} --help."
        raise UsageError(f"unrecognized arguments: {' '.join(given)}. {hint}")


def _escaped(help_text: str) -> str:
    """Help that argparse shows as it is."""
    return help_text.replace("%", "%%")


def _form(type_hint, default) -> str:
    """What a value must be, and what it is if it is not given."""
    if default in (None, ""):
        return in_words(type_hint)
    shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    shown = shown.lower() if isinstance(default, bool) else shown
    return f"{in_words(type_hint)}; default: {shown}"


def option_name(name: str) -> str:
    """The spelling of a setting on the command line."""
    return "--" + name.replace("_", "-")


def closest(name: str, names: Iterable[str]) -> str | None:
    """What a mistyped name was most probably meant to be; None if nothing is like it.

    People are surer of how a name begins, or of a part of it, than of all of it: --batchsize is
    nearer to --batch-tokens than to --beam-size, and --heads means --num-heads.
    """
    mine = _letters(name)

    def likeness(other: str) -> float:
        pairs = zip(mine, _letters(other), strict=False)
        beginning = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        whole = len(mine) if len(mine) > 2 and mine in _letters(other) else beginning
        return difflib.SequenceMatcher(None, mine, _letters(other)).ratio() + whole / len(mine) / 2

    best = max(names, key=likeness)
    return best if likeness(best) >= LEAST_LIKENESS else None


def shortened(text: str, most_characters: int = 200) -> str:
    """Text to show, cut where it gets long: a model that has learned little may write on and on."""
    if len(text) <= most_characters:
        return text
    return text[: most_characters - 3] + "..."


def _letters(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower() or name


def parse(
    parser: CommandParser,
    arguments: Sequence[str] | None,
    from_file: Mapping[str, Any] | None = None,
) -> Options:
    """The parsed options.

    Args:
        parser: Of the command.
        arguments: The command line; that of the process if None.
        from_file: Typed values to use for options that the command line leaves out.

    Raises:
        UsageError: If they are wrong; one line that says how.
        InputError: If a folder cannot be written.
    """
    options = parser.parse_args(arguments, Options(**(from_file or {})))
    if parser.obeys_threads and options.threads is not None:
        use_threads(options.threads)
    for name in parser.output_folders:
        check_output_folder(option_name(name), options[name])
    return options


def use_threads(threads: int) -> None:
    """Has all that computes use so many threads at most, child processes too.

    Raises:
        UsageError: If that is none, or comes too late.
    """
    if threads < 1:
        raise UsageError(f"--threads must be at least 1. Received: {threads}. Choose 1 or more.")
    try:
        limit_threads(threads)
    except RuntimeError as error:
        raise UsageError(
            "--threads must be given before TensorFlow starts. Received: a process in which it"
            " has. Run the command in a process of its own."
        ) from error


def run_command(command: Callable[[Sequence[str] | None], None], arguments=None) -> int:
    """Runs a command and turns what the user can mend into one line and an exit code."""
    if sys.stderr is None:  # closed by who started us; what is said must not go to stdout instead
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's has not
        # Progress shows in a pipe, too; names of files that the terminal cannot spell do no harm.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
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
