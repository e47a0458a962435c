"""Reads what a translator needs from a finished run folder: its settings and its model."""

from pathlib import Path
from typing import Any

import keras

from keras_transformer.errors import InputError
from keras_transformer.forks import check_not_forked

_TYPES = {
    "beam_size": (int,),
    "length_penalty": (int, float),
    "length_normalization": (str,),
    "max_source_tokens": (int,),
}


def read_settings(path: Path) -> dict[str, Any]:
    """Reads the settings of a run that a `Translator` takes.

    Args:
        path: The run's `config.yaml`.

    Raises:
        InputError: The file is missing, or a setting is missing or invalid.
    """
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        settings = {"length_normalization": "gnmt", **settings}  # older runs lack it
        for name, types in _TYPES.items():
            if type(settings[name]) not in types:
                raise TypeError(f"{name}: {settings[name]!r}")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: must hold the settings of a run, as training.train wrote them. Received:"
            f" {' '.join(str(error).split())}. Check the path, or train again."
        ) from error
    return {name: settings[name] for name in _TYPES}


def read_model(path: Path) -> keras.Model:
    """Reads the model of a finished run, without compiling it.

    Raises:
        InputError: The file is missing, damaged or not a model.
    """
    check_not_forked()
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for truncated or foreign files
        what_to_do = "Check the path, or finish the training."
        if "Could not locate class" in str(error):
            what_to_do = (
                "Import the module that registers the class first: `import training.baselines`"
                " for a run of this project that is not a Transformer."
            )
        raise InputError(
            f"{path}: must be the model of a finished run. Received:"
            f" {' '.join(str(error).split())[:200]}. {what_to_do}"
        ) from error
