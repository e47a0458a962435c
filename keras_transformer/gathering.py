"""Picking by index with one operation on TensorFlow."""

import keras
from keras import ops


def take(x, index, axis=0):
    """`ops.take` without negative indices, whose handling costs TensorFlow three operations more.

    Args:
        x: Any (..., places, ...), with the places on `axis`.
        index: Integer (picks...), from 0 to places - 1.
        axis: The axis of the places.

    Returns:
        Like `x`, with the picks in place of the places.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(x, index, axis=axis)
    return ops.take(x, index, axis=axis)


def gather_rows(x, index):
    """Picks by a separate index for each row: result[r, i, ...] = x[r, index[r, i], ...].

    One operation on TensorFlow, where `ops.take_along_axis` is some twenty.

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


def gather_for_all_beams(x, index):
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
