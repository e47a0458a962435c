"""Builds the model that the setting `model` names: the Transformer, or one that it replaced."""

import keras

from keras_transformer.model import build_transformer
from training.baselines import build_convolutional, build_recurrent
from training.settings import RECURRENT_MODELS, TrainingSettings


def build_model(settings: TrainingSettings, vocabulary_size: int) -> keras.Model:
    """Builds a model from {"source_ids", "target_ids"} to logits; see `build_transformer`."""
    if settings.model == "transformer":
        return build_transformer(settings.model_config(vocabulary_size))
    sizes = {
        "vocabulary_size": vocabulary_size,
        "num_layers": settings.num_layers,
        "model_dim": settings.model_dim,
        "dropout": settings.dropout,
        "name": settings.model,
    }
    if settings.model in RECURRENT_MODELS:
        cell, _, attention = settings.model.partition("_")
        return build_recurrent(
            cell=cell, attention=bool(attention), recurrent_dim=settings.recurrent_dim, **sizes
        )
    return build_convolutional(
        kernel_size=settings.kernel_size,
        position_encoding=settings.position_encoding,
        max_positions=settings.max_positions,
        **sizes,
    )
