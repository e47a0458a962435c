"""The blocks of `stacks`, from states to states, Float (batch, length, model_dim)."""

import keras

from keras_transformer.layers.encoder import EncoderBlock
from keras_transformer.layers.residual import AddAndNorm
from training.baselines.recurrent import Recurrence
from training.experiments.stacks import CONVOLUTIONS, KERNEL

HEAD_DIM = 64  # of the paper, where the width is a multiple of it


def _self_attention(x, model_dim):
    num_heads = max(1, model_dim // HEAD_DIM)
    return EncoderBlock(num_heads, 4 * model_dim, dropout=0.0)(x)


def _gru(x, model_dim):
    for _ in range(2):
        x = AddAndNorm(0.0)(x, Recurrence("gru", model_dim)(x))
    return x


def _lstm(x, model_dim):
    for _ in range(2):
        states = Recurrence("lstm", model_dim * 3 // 4)(x)
        x = AddAndNorm(0.0)(x, keras.layers.Dense(model_dim)(states))
    return x


def _convolution(x, model_dim):
    for _ in range(CONVOLUTIONS):
        # Causal: all that it sees is behind it, where the recurrent layers look, too.
        convolution = keras.layers.Conv1D(model_dim, KERNEL, padding="causal", activation="relu")
        x = AddAndNorm(0.0)(x, convolution(x))
    return x


BLOCKS = {
    "self_attention": _self_attention,
    "gru": _gru,
    "lstm": _lstm,
    "convolution": _convolution,
}
