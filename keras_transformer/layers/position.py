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
    exponents = np.arange(0, model_dim, 2) / model_dim
    rates = ops.convert_to_tensor((10_000.0**-exponents).astype("float32"))
    angles = ops.cast(positions, "float32")[:, None] * rates  # (length, model_dim / 2)
    pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # (length, model_dim / 2, 2)
    return ops.reshape(pairs, (-1, model_dim))  # (length, model_dim)
