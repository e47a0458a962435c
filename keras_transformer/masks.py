"""Masks, which say what positions may be attended to (section 3.2.3).

Masks are Boolean everywhere, and True means "may be attended to". An attention mask has the shape
(batch, query_length, key_length) or broadcasts to it. Layers also accept numbers, where 0 is False.
Only decoding uses another form, made by `to_add`.
"""

import numpy as np
from keras import backend, ops

from keras_transformer.tensors import Tensor

PADDING_ID = 0

# A masked score; softmax gives it zero weight.
_FAR_BELOW = -1e9


def padding_mask(token_ids: Tensor) -> Tensor:
    """Returns True where there is a token, False where there is padding.

    Args:
        token_ids: Integer (batch, length).

    Returns:
        Boolean (batch, length).
    """
    return ops.not_equal(token_ids, PADDING_ID)


def causal_mask(length: int | Tensor) -> Tensor:
    """Returns True where a key is not later than its query, so no position sees what it predicts.

    Source: section 3.2.3, "leftward information flow".

    Args:
        length: The number of positions; an int, or an integer scalar where shapes are dynamic.

    Returns:
        Boolean (1, query_length, key_length), both lengths equal to `length`.
    """
    positions = ops.arange(length, dtype="int32")
    return ops.greater_equal(positions[:, None], positions[None, :])[None]


def hide(scores: Tensor, attention_mask: Tensor) -> Tensor:
    """Masks scores so that softmax gives them zero weight.

    Args:
        scores: Float32 or wider (..., query_length, key_length).
        attention_mask: Boolean, or made by `to_add`, broadcastable to the scores.
    """
    if backend.standardize_dtype(attention_mask.dtype) == "bool":
        return ops.where(attention_mask, scores, _FAR_BELOW)
    return scores + ops.cast(attention_mask, scores.dtype)


def for_all_heads(attention_mask: Tensor | None) -> Tensor | None:
    """Prepares a caller's attention mask for the scores of all heads.

    Args:
        attention_mask: Boolean, or numbers where 0 is False, broadcastable to (batch,
            query_length, key_length); None if every query may see every key.

    Returns:
        Boolean, broadcastable to (batch, heads, query_length, key_length), or None.
    """
    if attention_mask is None:
        return None
    attention_mask = ops.cast(attention_mask, "bool")
    has_batch = len(attention_mask.shape) > 2
    return ops.expand_dims(attention_mask, 1) if has_batch else attention_mask


def to_add(attention_mask: Tensor) -> Tensor:
    """Converts a mask to numbers to add to scores, once for many layers.

    In float32, TensorFlow with oneDNN fuses the addition into the product before it.

    Args:
        attention_mask: Boolean.

    Returns:
        Float32 of the same shape.
    """
    return ops.where(attention_mask, np.float32(0.0), np.float32(_FAR_BELOW))


def attend_to(key_padding_mask: Tensor | None) -> Tensor | None:
    """Returns an attention mask that lets every query see every real key.

    Args:
        key_padding_mask: Boolean (batch, key_length), or None if nothing is padding.

    Returns:
        Boolean (batch, 1, key_length), or None.
    """
    return None if key_padding_mask is None else ops.expand_dims(key_padding_mask, 1)


def attend_to_earlier(key_padding_mask: Tensor | None, length: int | Tensor) -> Tensor:
    """Returns an attention mask that lets every query see the real keys up to its own position.

    Args:
        key_padding_mask: Boolean (batch, length), or None if nothing is padding.
        length: As for `causal_mask`.

    Returns:
        Boolean (batch or 1, query_length, key_length).
    """
    causal = causal_mask(length)
    if key_padding_mask is None:
        return causal
    return ops.logical_and(causal, attend_to(key_padding_mask))
