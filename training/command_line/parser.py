"""The parser that all commands share."""

import argparse
import functools
import itertools
import sys
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from training.command_line.backend import limit_threads
from training.command_line.errors import UsageError
from training.command_line.option_types import from_text, in_words
from training.command_line.outputs import check_output_folder
from training.command_line.wording import closest

LEAVE_OUT = "Leave all but one out."


class Options(argparse.Namespace):
    """The values of the options, by name."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def get(self, name: str) -> Any:
        """Returns the value of an option; None if there is no such option."""
        return getattr(self, name, None)


class CommandParser(argparse.ArgumentParser):
    """Parses `python -m training.NAME`: options are typed, spelled out, and given once.

    Args:
        name: The name of the command.
        description: What the command does, for --help.
    """

    def __init__(self, name: str, description: str):
        super().__init__(
            prog=f"python -m training.{name}", description=description, allow_abbrev=False
        )
        self.obeys_threads = False
        self.output_folders = []
        self._instead_of_repeating = {"--help": LEAVE_OUT}

    def add_option(
        self,
        name: str,
        type_hint,
        default,
        help_text: str,
        *,
        least: float | None = None,
        above: float | None = None,
        **more,
    ) -> None:
        """Adds the option --some-name for the value `some_name`.

        Args:
            name: The value's name.
            type_hint: The value's type, as for `from_text`.
            default: The value if the option is not given.
            help_text: What the value is, for --help.
            least: The least value allowed, also of each value in a list.
            above: A number that each value must exceed, likewise.
            **more: Arguments for `argparse.ArgumentParser.add_argument`.
        """
        spelled = option_name(name)
        instead = LEAVE_OUT
        if "nargs" in more:
            instead = f"Give all values after one {spelled}."
        elif list[str] in typing.get_args(type_hint):
            instead = f"Give a list, {spelled} '[FIRST, SECOND]', or a pattern."
        self._instead_of_repeating[spelled] = instead
        self.add_argument(
            spelled,
            type=functools.partial(self._typed, spelled, type_hint, default, least, above),
            default=default,
            help=_escaped(f"{help_text} ({_form(type_hint, default)})"),
            **more,
        )

    def add_output_folder(self, name: str, default: str | None, help_text: str, **more) -> None:
        """Adds an option that names a folder to write, which `parse` checks."""
        self.output_folders.append(name)
        self.add_option(name, str, default, help_text, **more)

    def add_positional(self, name: str, help_text: str, **more) -> None:
        """Adds a required positional argument."""
        self.add_argument(name, help=_escaped(help_text), **more)

    def add_flag(self, name: str, help_text: str) -> None:
        """Adds the option --some-name, which takes no value and is false by default."""
        self._instead_of_repeating[option_name(name)] = LEAVE_OUT
        self.add_argument(option_name(name), action="store_true", help=_escaped(help_text))

    def add_threads(self) -> None:
        """Adds the option --threads, which `parse` applies."""
        self.obeys_threads = True
        self.add_option(
            "threads", int | None, None, "Threads to compute with (default: all cores)."
        )

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else [*args]
        self._check_names(args)
        return super().parse_known_args(args, Options() if namespace is None else namespace)

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ").rstrip(".")
        raise UsageError(f"{message}. See {self.prog} --help.")

    def _typed(self, name: str, type_hint, default, least, above, text: str) -> Any:
        try:
            value = from_text(text, type_hint)
        except ValueError as error:
            raise UsageError(
                f"{name} {error}. Received: {text or 'nothing'}. See {self.prog} --help."
            ) from error
        if value is not None and least is not None and value < least:
            raise UsageError(
                f"{name} must be at least {least}. Received: {value}. Choose {least} or more."
            )
        if value is not None and above is not None and not value > above:
            raise UsageError(
                f"{name} must be above {above}. Received: {value:g}. For example, choose"
                f" {default:g}."
            )
        return value

    def _check_names(self, arguments: Sequence[str]) -> None:
        """Refuses unknown or repeated options, before other errors are reported."""
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
        """Raises UsageError for the first of `arguments` and its values."""
        values = itertools.takewhile(lambda argument: argument[:1] != "-", arguments[1:])
        given = [arguments[0], *("" if "=" in arguments[0] else values)]
        close = closest(name, self._instead_of_repeating)
        hint = f"Did you mean {close}?" if close else f"See {self.prog} --help."
        raise UsageError(f"unrecognized arguments: {' '.join(given)}. {hint}")


def _escaped(help_text: str) -> str:
    """Escapes help text so that argparse shows it unchanged."""
    return help_text.replace("%", "%%")


def _form(type_hint, default) -> str:
    """Describes the type and the default of an option."""
    if default in (None, ""):
        return in_words(type_hint)
    shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    shown = shown.lower() if isinstance(default, bool) else shown
    return f"{in_words(type_hint)}; default: {shown}"


def option_name(name: str) -> str:
    """Returns the command-line option for a setting's name."""
    return "--" + name.replace("_", "-")


def parse(
    parser: CommandParser,
    arguments: Sequence[str] | None,
    from_file: Mapping[str, Any] | None = None,
) -> Options:
    """Parses a command line, limits the threads, and checks the folders to write.

    Args:
        parser: The command's parser.
        arguments: The command line; None means that of the process.
        from_file: Typed values of options, which the command line overrides.

    Raises:
        UsageError: If an option is wrong.
        InputError: If a folder cannot be written to.
    """
    options = parser.parse_args(arguments, Options(**(from_file or {})))
    if parser.obeys_threads and options.threads is not None:
        use_threads(options.threads)
    for name in parser.output_folders:
        check_output_folder(option_name(name), options[name])
    return options


def use_threads(threads: int) -> None:
    """Limits the threads of this process and its children.

    Raises:
        UsageError: If `threads` is below 1, or TensorFlow has started.
    """
    if threads < 1:
        raise UsageError(f"--threads must be at least 1. Received: {threads}. Choose 1 or more.")
    try:
        limit_threads(threads)
    except RuntimeError as error:
        raise UsageError(
            "--threads must be given before TensorFlow starts. Received: a process where it is"
            " running. Run the command in a process of its own."
        ) from error
