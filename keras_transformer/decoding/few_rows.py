"""Matrix products with few rows."""

import keras
from keras import ops

from keras_transformer.tensors import Tensor


def matmul_of_few_rows(x: Tensor, y: Tensor, transpose_y: bool = False) -> Tensor:
    """Returns the product x y, like `ops.matmul`, with less overhead on a CPU.

    On a CPU, TensorFlow hands its usual products to oneDNN, but not this operation. It takes half
    the time with one row and a small kernel, and about the same with many rows. Half precision and
    other backends use `ops.matmul`.

    Args:
        x: Float (..., rows, inner).
        y: Float (..., inner, columns), with `transpose_y` (..., columns, inner). It has as many
            leading axes as `x`, which broadcast to those of `x`, or none.
        transpose_y: Whether to swap the last two axes of `y` first.

    Returns:
        Float (..., rows, columns).
    """
    is_float32 = keras.backend.standardize_dtype(x.dtype) == "float32"
    if keras.backend.backend() != "tensorflow" or not is_float32:
        return ops.matmul(x, ops.swapaxes(y, -1, -2) if transpose_y else y)
    import tensorflow as tf

    return tf.raw_ops.BatchMatMulV3(
        x=x, y=tf.convert_to_tensor(y), Tout=tf.float32, adj_y=transpose_y
    )
