"""Reads the weights in a `.keras` file, without Keras.

The configuration in the file is not used: it may name any class, and Keras would import and make
it. But a file whose configuration names a class that no run's model has is refused, since it may be
meant for those who open it with Keras.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.reading.archive import members_of, read_member
from keras_transformer.reading.files import DamagedFile, opened
from keras_transformer.reading.hdf5 import read_hdf5

_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
# A compiled model's optimizer, which runs of earlier versions kept.
_OPTIMIZER = "optimizer/"
# What Keras adds to the weights: names, times, and the configuration.
_MOST_OTHER_BYTES = 2**26
_MOST_CONFIGURATION_BYTES = 2**22

# The classes in the configuration of a run's model: this project's, and these of Keras.
_OUR_MODULES = ("keras_transformer.", "training.baselines.", "keras.src.ops.")
_KERAS_MODULES = ("keras.initializers", "keras.optimizers")
_CLASSES = {("keras", "DTypePolicy"), ("keras.layers", "InputLayer"), (None, "__keras_tensor__")}


def read_keras_weights(path: Path, num_parameters: int) -> dict[str, np.ndarray]:
    """Reads the weights in a `.keras` file.

    Args:
        path: The file.
        num_parameters: The number of parameters that the model must have.

    Returns:
        The weights by their path in the file, such as `layers/dense/vars/0`.

    Raises:
        DamagedFile: If the file is damaged, has something that Keras does not write, or holds
            another number of parameters, or names a class that no run's model has.
    """
    with opened(path) as file:
        members = members_of(file)
        if {*members} != _MEMBERS:
            raise DamagedFile(f"an archive of {', '.join(sorted(members))[:200] or 'nothing'}")
        configuration = members["config.json"]
        if configuration.size > _MOST_CONFIGURATION_BYTES:
            raise DamagedFile(f"config.json of {configuration.size:,} bytes")
        _check_classes(read_member(file, configuration))
        weights = members["model.weights.h5"]
        # With an optimizer, which has up to four numbers for each parameter.
        most = 5 * 4 * num_parameters + _MOST_OTHER_BYTES
        if weights.size > most:
            raise DamagedFile(
                f"{weights.size:,} bytes of weights for {num_parameters:,} parameters, as"
                " config.yaml describes"
            )
        arrays = read_hdf5(read_member(file, weights))
    arrays = {path: array for path, array in arrays.items() if not path.startswith(_OPTIMIZER)}
    found = sum(array.size for array in arrays.values())
    if found != num_parameters:
        raise DamagedFile(f"{found:,} parameters where config.yaml describes {num_parameters:,}")
    return arrays


def _check_classes(configuration: bytes) -> None:
    """Refuses a configuration that names other classes than those of the models of runs."""
    try:
        whole = json.loads(configuration)
    except (ValueError, RecursionError) as error:
        raise DamagedFile("config.json that is not JSON") from error
    for module, name in _classes_in(whole):
        is_ours = (
            isinstance(module, str)
            and isinstance(name, str)
            and (module.startswith(_OUR_MODULES) or module in _KERAS_MODULES)
        )
        if not is_ours and (str(module) if module else None, str(name)) not in _CLASSES:
            where = f"{module}.{name}" if module else str(name)
            raise DamagedFile(
                f"the class {where[:100]!r}, which no run's model has, in config.json"
            )


def _classes_in(whole: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the module and the name of each class that a configuration names."""
    parts = [whole]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                yield part.get("module"), part["class_name"]
            parts.extend(part.values())
        elif isinstance(part, list):
            parts.extend(part)
