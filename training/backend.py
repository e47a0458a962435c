"""Which Keras backend a command runs on; imported before anything that imports Keras.

Keras reads the environment when it is imported and cannot change its backend afterwards. Parsing
all options needs the settings, and these need the package, which imports Keras. So this one option
is looked for first.
"""

import importlib.util
import os
from collections.abc import Sequence

BACKENDS = ("tensorflow", "jax")
OPTION = "--backend"


def choose_backend(arguments: Sequence[str]) -> None:
    """Puts the backend that a command line asks for into the environment, if it names one.

    Anything but the name of a backend is left for the parser to complain about.

    Raises:
        SystemExit: If the backend is not installed.
    """
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == OPTION and not value:
            value = "".join(arguments[place + 1 : place + 2])
        if name == OPTION and value in BACKENDS:
            if importlib.util.find_spec(value) is None:
                raise SystemExit(
                    f"error: {OPTION} {value} needs the package {value}. Received: none that is"
                    f" installed. Install it, or leave out {OPTION}."
                )
            os.environ["KERAS_BACKEND"] = value
