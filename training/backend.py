"""Which Keras backend a command runs on, if any; imported before anything that imports Keras.

Keras reads the environment when it is imported and cannot change its backend afterwards. Parsing
all options needs the settings, and these need the package, which imports Keras. So this one option
is looked for first, and so is --help, which needs no backend at all.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

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


def backend_name() -> str:
    """The backend that Keras runs on, or will once it is imported."""
    if "keras" in sys.modules:
        return sys.modules["keras"].backend.backend()
    name = os.environ.get("KERAS_BACKEND")
    if name:
        return name
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return str(json.loads((home / "keras.json").read_text())["backend"])
    except (OSError, ValueError, LookupError, TypeError):
        return BACKENDS[0]


def spare_keras_for_help(arguments: Sequence[str]) -> None:
    """Where a command line asks for help, keeps the library's root from being run.

    The root imports all of the library, thereby Keras and TensorFlow: four seconds. The options
    need only modules that do without, and those can be imported as ever.
    """
    if {"-h", "--help"} & {*arguments} and "keras_transformer" not in sys.modules:
        spec = importlib.util.find_spec("keras_transformer")
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
