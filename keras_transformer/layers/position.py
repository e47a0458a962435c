"""Position encoding (section 3.5)."""

import numpy as np
from keras import ops

from keras_transformer.tensors import Tensor


def sinusoidal_encoding(positions: Tensor, model_dim: int) -> Tensor:
    """Returns PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos(the same).

    Source: section 3.5. Sine and cosine alternate along the width, as in the formula; many
        codebases put all sines first, which only reorders the columns.

    Args:
        positions: Integer (length,), counted from 0.
        model_dim: The width, an even number.

    Returns:
        Float32 (length, model_dim).
    """
    return _sines_and_cosines(positions, np.arange(0, model_dim, 2) / model_dim)


def marian_encoding(positions: Tensor, model_dim: int) -> Tensor:
    """Returns sines and cosines as in `sinusoidal_encoding`, with the rates that Marian uses.

    PE(pos, 2i) = sin(pos / 10000^(i/(d_model/2 - 1))), so that the slowest rate is exactly 1/10000.

    Source: Marian, after tensor2tensor, the paper's own code. Marian puts all sines first.

    Args:
        positions: Integer (length,), counted from 0.
        model_dim: The width, an even number of at least 4.

    Returns:
        Float32 (length, model_dim).
    """
    half = model_dim // 2
    return _sines_and_cosines(positions, np.arange(half) / (half - 1))


def _sines_and_cosines(positions: Tensor, exponents: np.ndarray) -> Tensor:
    rates = ops.convert_to_tensor((10_000.0**-exponents).astype("float32"))
    angles = ops.cast(positions, "float32")[:, None] * rates  # (length, model_dim / 2)
    pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # (length, model_dim / 2, 2)
    return ops.reshape(pairs, (-1, 2 * len(exponents)))  # (length, model_dim)
