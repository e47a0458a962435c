"""Products of few rows, as decoding has them."""

import keras
from keras import ops


def matmul_of_few_rows(x, y, transpose_y=False):
    """x y, as `ops.matmul` has it, but begun sooner on a processor.

    On a processor TensorFlow hands its usual products to oneDNN, but not this operation: of one row
    and a small kernel it takes half the time, of many rows about the same. In half precisions and
    on other backends it is `ops.matmul`.

    Args:
        x: Float (..., rows, inner).
        y: Float (..., inner, columns), with `transpose_y` (..., columns, inner); as many leading
            axes as `x`, to which they are broadcast, or none.
        transpose_y: Whether the last two axes of `y` change places first.

    Returns:
        Float (..., rows, columns).
    """
    if not _has_operation(x):
        return ops.matmul(x, ops.swapaxes(y, -1, -2) if transpose_y else y)
    import tensorflow as tf

    return tf.raw_ops.BatchMatMulV3(
        x=x, y=tf.convert_to_tensor(y), Tout=tf.float32, adj_y=transpose_y
    )


def _has_operation(x):
    return (
        keras.backend.backend() == "tensorflow"
        and not isinstance(x, keras.KerasTensor)
        and keras.backend.standardize_dtype(x.dtype) == "float32"
    )
