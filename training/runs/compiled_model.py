"""Builds a model with the loss, metrics and optimizer that the settings specify."""

import contextlib
from collections.abc import Iterator

import keras

from keras_transformer.losses import LabelSmoothedCrossentropy
from keras_transformer.metrics import Perplexity, TokenAccuracy
from keras_transformer.optimizers import Adam
from keras_transformer.schedules import InverseSquareRootSchedule
from training.runs.architectures import build_model
from training.settings import TrainingSettings


@contextlib.contextmanager
def number_formats(dtype_policy: str) -> Iterator[None]:
    """Sets Keras' dtype policy, and floatx to float32, within the block.

    Otherwise the result would depend on floatx in the user's keras.json.
    """
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(dtype_policy)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def compiled_model(settings: TrainingSettings, jit_compile: bool) -> keras.Model:
    """Builds and compiles a model; with `jit_compile`, XLA compiles the update."""
    model = build_model(settings)
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
        # Not weighted_metrics: the weights of a batch's parts concern only the loss.
        metrics=[Perplexity(), TokenAccuracy()],
        jit_compile=jit_compile,
    )
    return model
