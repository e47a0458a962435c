"""What decoding keeps of the positions it has been through.

This is the one place where backends differ. TensorFlow's loops take tensors that grow, so there a
cache is exactly as long as what it holds and costs no more. JAX compiles for fixed shapes: there a
cache is allocated at its full length, filled by position, and the part not yet filled is masked.
"""

from typing import NamedTuple

import keras
from keras import ops


class KeyValues(NamedTuple):
    """Keys and values of one attention layer, heads split.

    Attributes:
        key: Float (batch, beams, heads, length, head_dim); without beams for the encoder's output.
        value: Float (batch, beams, heads, length, value_dim); likewise.
    """

    key: object
    value: object


def _shapes_are_dynamic() -> bool:
    return keras.backend.backend() == "tensorflow"


def as_length(length):
    """A length to allocate by: a scalar tensor on TensorFlow, a Python int elsewhere."""
    return length if _shapes_are_dynamic() else int(length)


def empty_cache(batch, beams, heads, key_width, value_width, max_length, dtype) -> KeyValues:
    """A cache of no positions, with room for `max_length`.

    Args:
        batch, beams, heads, key_width, value_width: The sizes of the axes.
        max_length: Positions it will have to hold at most; TensorFlow allocates none of them.
        dtype: Name of the dtype.

    Returns:
        KeyValues of Float (batch, beams, heads, length, width), length 0 or `max_length`.
    """
    length = _unknown_zero() if _shapes_are_dynamic() else int(max_length)
    return KeyValues(
        ops.zeros((batch, beams, heads, length, key_width), dtype),
        ops.zeros((batch, beams, heads, length, value_width), dtype),
    )


def append(cache: KeyValues, new: KeyValues, position) -> KeyValues:
    """The cache with one more position.

    Args:
        cache: KeyValues of Float (batch, beams, heads, length, width).
        new: KeyValues of Float (batch, beams, heads, 1, width).
        position: Integer scalar, how many positions the cache holds.

    Returns:
        KeyValues: one position longer on TensorFlow, filled at `position` elsewhere.
    """
    if _shapes_are_dynamic():
        return KeyValues(*(ops.concatenate(pair, axis=3) for pair in zip(cache, new, strict=True)))
    here = ops.equal(ops.arange(cache.key.shape[3]), position)[:, None]  # (length, 1)
    return KeyValues(*(ops.where(here, n, old) for old, n in zip(cache, new, strict=True)))


def seen_so_far(cache: KeyValues, position):
    """The attention mask over a cache that `append` has filled up to and with `position`.

    Returns:
        Boolean (length,), or None on TensorFlow, where a cache holds nothing else.
    """
    if _shapes_are_dynamic():
        return None
    return ops.less_equal(ops.arange(cache.key.shape[3]), position)


def _unknown_zero():
    """Zero, but not known to be zero while a graph is traced.

    A loop in a graph must not change its tensors' static shapes. An axis whose length is unknown
    may grow; one that is known to be 0 may not.
    """
    import tensorflow as tf

    return 0 if tf.executing_eagerly() else tf.compat.v1.placeholder_with_default(0, shape=[])
