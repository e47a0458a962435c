"""The model of some settings with its loss, metrics and optimizer: what is trained and measured."""

import keras

from keras_transformer.losses import LabelSmoothedCrossentropy
from keras_transformer.metrics import Perplexity, TokenAccuracy
from keras_transformer.optimizers import Adam
from keras_transformer.schedules import InverseSquareRootSchedule
from training.architectures import build_model
from training.settings import TrainingSettings


def compiled_model(
    settings: TrainingSettings, vocabulary_size: int, jit_compile: bool
) -> keras.Model:
    """A new model that `fit` trains as the settings say.

    Args:
        settings: The settings.
        vocabulary_size: Sub-words of the tokenizer, which may have fewer than the settings allow.
        jit_compile: Whether XLA compiles the update.
    """
    model = build_model(settings, vocabulary_size)
    steps = settings.accumulation_steps
    model.compile(
        optimizer=Adam(
            InverseSquareRootSchedule(settings.highest_rate, settings.warmup_steps),
            beta_1=settings.adam_beta_1,
            beta_2=settings.adam_beta_2,
            epsilon=settings.adam_epsilon,
            gradient_accumulation_steps=steps if steps > 1 else None,
            clip_norm=settings.clip_norm,
            ema_decay=settings.ema_decay,
            track_gradient_norm=True,
        ),
        loss=LabelSmoothedCrossentropy(settings.label_smoothing),
        # Not weighted_metrics: parts of a batch come with weights, which are the loss' alone.
        metrics=[Perplexity(), TokenAccuracy()],
        jit_compile=jit_compile,
    )
    return model
