"""The one exception that a command shows its user as a single line."""


class InputError(ValueError):
    """Raised where what the user handed in (a file, a line, a setting) can't be used.

    The message has three parts: what must hold, what came, what to do. It begins with the file
    and line at fault where there is one: `train.en:17: a line must be valid UTF-8. ...`. Commands
    print it as one line and exit with 1; in Python it is a `ValueError` like any other.
    """
