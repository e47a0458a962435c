"""Picking by index, row by row."""

import keras
from keras import ops


def gather_rows(x, index):
    """Picks by an index of its own in each row: result[r, i, ...] = x[r, index[r, i], ...].

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
