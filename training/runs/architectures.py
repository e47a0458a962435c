"""Builds the model that the setting `model` names: the Transformer, or one that it replaced."""

import dataclasses
from typing import Any

import keras

import training.baselines  # noqa: F401  adds the other models
from keras_transformer.architectures import architecture_named
from training.settings import TrainingSettings


def build_model(settings: TrainingSettings, vocabulary_size: int) -> keras.Model:
    """Builds a model from {"source_ids", "target_ids"} to logits; see `build_transformer`."""
    architecture = architecture_named(settings.model)
    return architecture.build(**_chosen(settings, vocabulary_size))


def num_parameters(settings: TrainingSettings, vocabulary_size: int) -> int:
    """Computes the number of parameters of the model that `build_model` would build."""
    architecture = architecture_named(settings.model)
    return architecture.num_parameters(**_chosen(settings, vocabulary_size))


def _chosen(settings: TrainingSettings, vocabulary_size: int) -> dict[str, Any]:
    values = {**dataclasses.asdict(settings), "vocabulary_size": vocabulary_size}
    return architecture_named(settings.model).chosen(values)
