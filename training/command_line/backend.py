"""Sets what must be decided before Keras is imported: its backend and the number of threads.

Keras reads the environment on import and cannot change its backend afterwards, so `run_command`
looks for --backend before it parses the other options.
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
    """Sets KERAS_BACKEND to the backend that a command line names.

    Leaves anything except the name of a backend for the parser to report.

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
                    f"{OPTION} {value} needs the package {value}. Received: an environment"
                    f" without it. Install it, or leave out {OPTION}."
                )
            os.environ["KERAS_BACKEND"] = value


def backend_name() -> str:
    """Returns the backend that Keras uses, or will use once it is imported."""
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
    """Limits the threads of TensorFlow or JAX, in this process and its children.

    Raises:
        RuntimeError: If TensorFlow has already started in this process.
    """
    if "tensorflow" in sys.modules:
        threading = sys.modules["tensorflow"].config.threading
        threading.set_intra_op_parallelism_threads(threads)
        threading.set_inter_op_parallelism_threads(threads)
    names = "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
    for name in (*names, "NPROC"):  # XLA and JAX read NPROC on a CPU
        os.environ[name] = str(threads)
