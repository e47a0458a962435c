"""Reads what a translator needs from a finished run folder: its settings and its model.

The folder may come from a stranger. The model is built from `config.yaml` with this package's own
classes, and only arrays are read from `model.keras`, see `keras_transformer.reading`.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transformer.architectures import Architecture, architecture_named
from keras_transformer.errors import InputError
from keras_transformer.forks import check_not_forked
from keras_transformer.reading.files import DamagedFile
from keras_transformer.reading.keras_file import read_keras_weights
from keras_transformer.reading.settings import read_scalars
from keras_transformer.reading.variables import assign

_TYPES = {
    "beam_size": (int,),
    "length_penalty": (int, float),
    "length_normalization": (str,),
    "max_source_tokens": (int,),
}
# Older runs lack these settings.
_DEFAULTS = {"length_normalization": "gnmt", "model": "transformer", "dtype_policy": "float32"}
_MOST_BEAMS = 1000  # a search takes memory for each
_DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def read_settings(path: Path) -> dict[str, Any]:
    """Reads the settings of a run that a `Translator` takes.

    Args:
        path: The run's `config.yaml`.

    Raises:
        InputError: The file is missing, or a setting is missing or invalid.
    """
    settings = _read_all(path)
    for name, types in _TYPES.items():
        if type(settings.get(name)) not in types:
            raise _not_settings(path, f"{name}={str(settings.get(name))[:80]!r}")
    if settings["beam_size"] > _MOST_BEAMS:
        raise _not_settings(path, f"beam_size={str(settings['beam_size'])[:80]}")
    return {name: settings[name] for name in _TYPES}


def read_model(path: Path) -> keras.Model:
    """Reads the model of a finished run, without compiling it.

    Builds it from `config.yaml` in the same folder, and reads its weights from the file.

    Args:
        path: The run's `model.keras`.

    Raises:
        InputError: A file is missing, damaged or does not fit the other, or a weight is not a
            finite number.
    """
    check_not_forked()
    config_path = path.with_name("config.yaml")
    settings = _read_all(config_path)
    architecture = _architecture(config_path, settings)
    try:
        chosen = architecture.chosen(settings)
        num_parameters = architecture.num_parameters(**chosen)
    except ValueError as error:
        raise _not_settings(config_path, str(error)) from error
    try:
        arrays = read_keras_weights(path, num_parameters)
        _check_layers(arrays, chosen)
        with _dtype_policy(settings["dtype_policy"]):
            model = architecture.build(**chosen)
        # The model's own policy is not part of a file; only its layers' policies are.
        model.dtype_policy = keras.config.dtype_policy()
        assign(model, arrays)
    except DamagedFile as error:
        raise InputError(
            f"{path}: must be the model of a finished run, as training.train wrote it. Received:"
            f" {error}. Check the path, or finish the training."
        ) from error
    except ValueError as error:
        raise _not_settings(config_path, str(error)) from error
    return model


def _read_all(path: Path) -> dict[str, Any]:
    try:
        return _DEFAULTS | read_scalars(path)
    except DamagedFile as error:
        raise _not_settings(path, str(error)) from error


def _architecture(path: Path, settings: Mapping[str, Any]) -> Architecture:
    name, policy = str(settings["model"])[:80], settings["dtype_policy"]
    architecture = architecture_named(name)
    if architecture is None:
        raise InputError(
            f"{path}: must name a model that is known. Received: model={name}. Import the package"
            " that adds it first: `import training.baselines` for a run of this project that is"
            " not a Transformer."
        )
    if policy not in _DTYPE_POLICIES:
        raise _not_settings(path, f"dtype_policy={str(policy)[:80]!r}")
    return architecture


def _check_layers(arrays: Mapping[str, np.ndarray], chosen: Mapping[str, Any]) -> None:
    """Refuses a file with fewer layers than the settings describe, before building them."""
    found = len({path.split("/")[1] for path in arrays if path.startswith("layers/")})
    num_layers = chosen.get("num_layers", 1)
    blocks = num_layers + (chosen.get("num_decoder_layers") or num_layers)
    if found < blocks:
        raise DamagedFile(f"{found} layers where config.yaml describes {blocks} or more")


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """Sets Keras' dtype policy, in this thread, within the block."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _not_settings(path: Path, found: str) -> InputError:
    return InputError(
        f"{path}: must hold the settings of a run, as training.train wrote them. Received:"
        f" {' '.join(found.split())[:400]}. Check the path, or train again."
    )
