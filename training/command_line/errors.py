"""The errors that a command shows its user as one line."""

import sys


class InputError(ValueError):
    """A file, a folder, a setting or the machine does not allow what was asked; exit code 1.

    A class apart from `keras_transformer.errors.InputError`, because importing the library takes
    seconds. Catch both with `except input_errors() as error`.
    """


class UsageError(Exception):
    """The command line itself is wrong; exit code 2."""


class UnfitSettings(InputError):
    """Training fails because of its settings, not its text or the machine: others may succeed."""


def input_errors() -> tuple[type[ValueError], ...]:
    """`InputError`, and the library's once it has been imported."""
    library = sys.modules.get("keras_transformer.errors")
    return (InputError,) if library is None else (InputError, library.InputError)
