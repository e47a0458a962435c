"""Dropout (section 5.4) with half as many random bits."""

import keras
from keras import ops

from keras_transformer.tensors import Tensor

# Random bits for each element: the rate is exact to 1 / 65,536.
_BITS = 16


@keras.saving.register_keras_serializable(package="keras_transformer")
class Dropout(keras.layers.Dropout):
    """Keras' Dropout, drawing 16 random bits for each element on TensorFlow instead of 32.

    On a CPU, dropout spends its time on random numbers, so this takes about half as long. The rate
    is rounded to a multiple of 1 / 65,536. The scale of kept elements follows the rounded rate, so
    expected values do not change.

    Arguments and outputs are those of `keras.layers.Dropout`.

    Example:
        >>> Dropout(0.1)(x, training=True)
    """

    def call(self, inputs: Tensor, training: bool | None = False) -> Tensor:
        threshold = round(self.rate * 2**_BITS)
        is_special = not 0 < threshold < 2**_BITS or self.noise_shape is not None
        if is_special or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training)
        if not training:
            return inputs
        kept = _random_bits(inputs, self.seed_generator.next()) >= threshold
        scale = 2**_BITS / (2**_BITS - threshold)
        return inputs * (ops.cast(kept, inputs.dtype) * ops.cast(scale, inputs.dtype))


def _random_bits(x: Tensor, seed: Tensor) -> Tensor:
    """Returns random Uint16 in the shape of x, from a seed of two integers; TensorFlow only."""
    import tensorflow as tf

    size = tf.size(x)
    words = tf.random.stateless_uniform(
        [(size + 1) // 2], tf.cast(seed, tf.int32), minval=None, maxval=None, dtype=tf.uint32
    )
    bits = tf.reshape(tf.bitcast(words, tf.uint16), [-1])  # two from each word
    return tf.reshape(bits[:size], tf.shape(x))
