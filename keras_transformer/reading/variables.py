"""Assigns arrays to the variables of a model, by the paths that Keras gives them in a file."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras.src.saving import saving_lib

from keras_transformer.reading.files import DamagedFile


def variables_by_path(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns a model's weights by their paths in a `.keras` file, such as `layers/dense/vars/0`.

    Asks Keras, which walks over the model as it does to save it.
    """
    store = _Paths()
    saving_lib._save_state(  # there is no public function; a test compares it with files
        model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
    )
    return store.variables


class _Paths(saving_lib.H5IOStore):
    """Takes the place of the file that Keras saves to; keeps the variables themselves."""

    def __init__(self) -> None:  # opens no file
        self.variables: dict[str, keras.Variable] = {}
        self._path = ""

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: Any = None) -> "_Paths":
        self._path = path
        return self

    def __setitem__(self, key: str, value: keras.Variable) -> None:
        self.variables[f"{self._path}/vars/{key}".lstrip("/")] = value


def assign(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Assigns arrays to a model's weights.

    Raises:
        DamagedFile: If a path, a shape or a dtype differs, or a number is not finite. The model is
            then unchanged.
    """
    variables = variables_by_path(model)
    if variables.keys() != arrays.keys():
        other = min(variables.keys() ^ arrays.keys())
        raise DamagedFile(f"other weights than the settings describe, such as {other}")
    for path, variable in variables.items():
        expected = tuple(variable.shape), str(variable.dtype)
        found = arrays[path].shape, arrays[path].dtype.name
        if found != expected:
            raise DamagedFile(
                f"{path} of shape {found[0]} and dtype {found[1]}, where the settings describe"
                f" {expected[0]} and {expected[1]}"
            )
    check_finite(arrays)
    for path, variable in variables.items():
        variable.assign(arrays[path])


def check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuses weights that are not numbers, or infinite, as a diverged training leaves them.

    Raises:
        DamagedFile: If there is one.
    """
    for path, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DamagedFile(f"weights that are not finite numbers, in {path}")
