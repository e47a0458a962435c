"""Dropout (section 5.4), for the price of half the random numbers."""

import keras
from keras import ops

# Random bits that decide about one element: its chance is exact to 1 / 65,536.
_BITS = 16


@keras.saving.register_keras_serializable(package="keras_transformer")
class Dropout(keras.layers.Dropout):
    """Keras' Dropout, which on TensorFlow draws 16 random bits for an element instead of 32.

    On a CPU the random numbers are what dropout costs: an element's fate is decided in about half
    the time. The share that is dropped is the rate rounded to a multiple of 1 / 65,536, and what
    is kept is scaled by exactly that, so that the expected value stays what it was.

    Arguments and outputs are those of `keras.layers.Dropout`.

    Example:
        >>> Dropout(0.1)(x, training=True)
    """

    def call(self, inputs, training=False):
        threshold = round(self.rate * 2**_BITS)
        is_special = not 0 < threshold < 2**_BITS or self.noise_shape is not None
        if is_special or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training)
        if not training:
            return inputs
        kept = _random_bits(inputs, self.seed_generator.next()) >= threshold
        scale = 2**_BITS / (2**_BITS - threshold)
        return inputs * (ops.cast(kept, inputs.dtype) * ops.cast(scale, inputs.dtype))


def _random_bits(x, seed):
    """Uint16 of the shape of x, from two integers; TensorFlow only."""
    import tensorflow as tf

    size = tf.size(x)
    words = tf.random.stateless_uniform(
        [(size + 1) // 2], tf.cast(seed, tf.int32), minval=None, maxval=None, dtype=tf.uint32
    )
    bits = tf.reshape(tf.bitcast(words, tf.uint16), [-1])  # two from each word
    return tf.reshape(bits[:size], tf.shape(x))
