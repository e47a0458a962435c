"""What must be decided before Keras is imported: its backend and the number of threads.

Keras reads the environment when it is imported and cannot change its backend afterwards, so
`run_command` looks for this one option before all others are parsed.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from training.command_line.errors import InputError

BACKENDS = ("tensorflow", "jax")
OPTION = "--backend"


def choose_backend(arguments: Sequence[str]) -> None:
    """Puts the backend that a command line names into the environment.

    Anything but the name of a backend is left for the parser to report.

    Raises:
        InputError: If the backend is not installed.
    """
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == OPTION and not value:
            value = "".join(arguments[place + 1 : place + 2])
        if name == OPTION and value in BACKENDS:
            if importlib.util.find_spec(value) is None:
                raise InputError(
                    f"{OPTION} {value} needs the package {value}. Received: none that is"
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


def limit_threads(threads: int) -> None:
    """Limits the threads of TensorFlow or JAX, in this process and in those it starts.

    Raises:
        RuntimeError: If TensorFlow has started in this process: it is too late then.
    """
    if "tensorflow" in sys.modules:
        threading = sys.modules["tensorflow"].config.threading
        threading.set_intra_op_parallelism_threads(threads)
        threading.set_inter_op_parallelism_threads(threads)
    names = "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
    for name in (*names, "NPROC"):  # XLA reads the last on a CPU, and so does JAX
        os.environ[name] = str(threads)
