"""The errors that a command reports to the user as one line."""

import sys


class InputError(ValueError):
    """Raised if a file, a folder, a setting or the machine is at fault; exit code 1.

    Separate from `keras_transformer.errors.InputError`, because importing the library takes
    seconds. Catch both with `except input_errors() as error`.
    """


class UsageError(Exception):
    """Raised if the command line itself is wrong; exit code 2."""


class UnfitSettings(InputError):
    """Raised if only the settings make training fail, so that other settings may succeed."""


def input_errors() -> tuple[type[ValueError], ...]:
    """Returns `InputError`, and also the library's `InputError` if the library is imported."""
    library = sys.modules.get("keras_transformer.errors")
    return (InputError,) if library is None else (InputError, library.InputError)
