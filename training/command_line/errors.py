"""The errors that a command shows its user as one line."""

from keras_transformer.errors import InputError


class UsageError(Exception):
    """The command line itself is wrong."""


class UnfitSettings(InputError):
    """A training fails because of its settings, not of its text or the machine: others may do."""
