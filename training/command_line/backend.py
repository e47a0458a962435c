"""What must be decided before Keras is imported: its backend, the threads, and when it is.

Keras reads the environment when it is imported and cannot change its backend afterwards. So this
one option is looked for before all others are parsed. Parsing needs the settings, and with them
modules of the library that do without Keras; the library's root, which imports all of it, has to
wait.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

BACKENDS = ("tensorflow", "jax")
OPTION = "--backend"
_LIBRARY = "keras_transformer"


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


def defer_library() -> None:
    """In a command, keeps the library's root from being run before it is asked for a name.

    The root imports all of the library, thereby Keras and TensorFlow: five seconds and 800 MB that
    neither --help nor a mistyped option should cost. The library's modules can be imported as ever.
    Programs that import commands have the root as it is: a model's file can be read only where all
    layers have been imported.
    """
    if not _is_a_command() or _LIBRARY in sys.modules:
        return
    spec = importlib.util.find_spec(_LIBRARY)
    root = importlib.util.module_from_spec(spec)

    def run_and_look_up(name: str):
        vars(root).pop("__getattr__", None)
        spec.loader.exec_module(root)
        return getattr(root, name)

    root.__getattr__ = run_and_look_up
    sys.modules[_LIBRARY] = root


def _is_a_command() -> bool:
    """Whether this process is `python -m training.NAME`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.split(".")[0] == __package__


def limit_threads(threads: int) -> None:
    """Has TensorFlow or JAX, here and in processes that are started, use so many threads at most.

    Raises:
        RuntimeError: If TensorFlow has started in this process: it does not listen any more.
    """
    if "tensorflow" in sys.modules:
        threading = sys.modules["tensorflow"].config.threading
        threading.set_intra_op_parallelism_threads(threads)
        threading.set_inter_op_parallelism_threads(threads)
    names = "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
    for name in (*names, "NPROC"):  # the last is what XLA asks for on a processor, so JAX, too
        os.environ[name] = str(threads)
