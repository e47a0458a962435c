"""The exception for unusable input, which commands print as a single line."""


class InputError(ValueError):
    """Raised for user input (a file, a line, a setting) that cannot be used.

    The message says what must hold, what was received and what to do. It begins with the file and
    line at fault, if any: `train.en:17: a line must be valid UTF-8. ...`. Commands print it as one
    line and exit with 1; in Python it is a `ValueError`.
    """
