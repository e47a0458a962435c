"""Picks elements by index, with a single operation on TensorFlow."""

import keras
from keras import ops

from keras_transformer.tensors import Tensor


def take(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """`ops.take` for indices from 0: negative ones cost TensorFlow three more operations.

    Args:
        x: Any (..., places, ...).
        index: Integer (picks...), from 0 to places - 1.
        axis: The axis of the places.

    Returns:
        Like `x`, with (picks...) instead of the places.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(x, index, axis=axis)
    return ops.take(x, index, axis=axis)


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """Picks with a separate index for each row: result[r, i, ...] = x[r, index[r, i], ...].

    On TensorFlow this is one operation, while `ops.take_along_axis` is about twenty.

    Args:
        x: Any (rows..., places, ...).
        index: Integer (rows..., picks), from 0 to places - 1.

    Returns:
        Like `x`, (rows..., picks, ...).
    """
    axis = len(index.shape) - 1
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(x, index, axis=axis, batch_dims=axis)
    ones = (1,) * (len(x.shape) - len(index.shape))
    return ops.take_along_axis(x, ops.reshape(index, (*index.shape, *ones)), axis=axis)


def gather_for_all_beams(x: Tensor, index: Tensor) -> Tensor:
    """Picks the same places in all beams of a sentence: result[b, i, j] = x[b, i, index[b, j]].

    Args:
        x: Any (batch, beams, places).
        index: Integer (batch, picks), from 0 to places - 1.

    Returns:
        Like `x`, (batch, beams, picks).
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(x, index, axis=2, batch_dims=1)
    index = ops.broadcast_to(index[:, None, :], (*x.shape[:2], index.shape[1]))
    return ops.take_along_axis(x, index, axis=2)
