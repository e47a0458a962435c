"""Builds the model that the setting `model` names: the Transformer, or one that it replaced."""

import dataclasses

import keras

import training.baselines  # noqa: F401  adds the other models
from keras_transformer.architectures import architecture_named
from training.command_line.errors import InputError
from training.settings import TrainingSettings


def build_model(settings: TrainingSettings) -> keras.Model:
    """Builds a model from {"source_ids", "target_ids"} to logits; see `build_transformer`.

    Args:
        settings: The settings, with the vocabulary sizes of the tokenizer; see
            `training.runs.record.with_sub_words_of`.
    """
    architecture = architecture_named(settings.model)
    values = dataclasses.asdict(settings)
    return architecture.build(**{name: values[name] for name in architecture.settings})


def num_parameters(settings: TrainingSettings) -> int:
    """Computes the number of parameters of the model that `build_model` would make.

    Raises:
        InputError: If a setting is beyond that of any run that this project reads.
    """
    architecture = architecture_named(settings.model)
    try:
        chosen = architecture.chosen(dataclasses.asdict(settings))
        return architecture.num_parameters(**chosen)
    except ValueError as error:
        raise InputError(
            f"config.yaml must hold the settings of a run, as training.train wrote them. Received:"
            f" {error}. Check the path, or train again."
        ) from error
