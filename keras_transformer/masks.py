"""Which positions may be attended to (section 3.2.3).

Masks are Boolean and True means "may be attended to", everywhere. An attention mask has the shape
(batch, query_length, key_length) or one that broadcasts to it. Layers take numbers for masks as
well, of which 0 is False. Decoding alone uses another form, which `to_add` makes.
"""

import numpy as np
from keras import backend, ops

PADDING_ID = 0

# What a score gets where it may not count: after the softmax nothing is left of it.
_FAR_BELOW = -1e9


def padding_mask(token_ids):
    """True where a token stands, False where the row is only filled up.

    Args:
        token_ids: Integer (batch, length).

    Returns:
        Boolean (batch, length).
    """
    return ops.not_equal(token_ids, PADDING_ID)


def causal_mask(length):
    """True where a key is not later than its query, so that no position sees what it predicts.

    Source: section 3.2.3, "leftward information flow".

    Args:
        length: Positions; an int, or an integer scalar where shapes are dynamic.

    Returns:
        Boolean (1, query_length, key_length), both lengths equal to `length`.
    """
    positions = ops.arange(length, dtype="int32")
    return ops.greater_equal(positions[:, None], positions[None, :])[None]


def hide(scores, attention_mask):
    """Scores of which those that may not count are so low that a softmax makes zeros of them.

    Args:
        scores: Float32 or wider (..., query_length, key_length).
        attention_mask: Boolean, or what `to_add` made of it, broadcastable to the scores.
    """
    if backend.standardize_dtype(attention_mask.dtype) == "bool":
        return ops.where(attention_mask, scores, _FAR_BELOW)
    return scores + ops.cast(attention_mask, scores.dtype)


def for_all_heads(attention_mask):
    """An attention mask that a caller gave, for the scores of every head.

    Args:
        attention_mask: Boolean, or numbers of which 0 is False, broadcastable to (batch,
            query_length, key_length); None where every query may see every key.

    Returns:
        Boolean, broadcastable to (batch, heads, query_length, key_length), or None.
    """
    if attention_mask is None:
        return None
    attention_mask = ops.cast(attention_mask, "bool")
    has_batch = len(attention_mask.shape) > 2
    return ops.expand_dims(attention_mask, 1) if has_batch else attention_mask


def to_add(attention_mask):
    """A mask in the form that is added to scores: made once, it serves many layers.

    On TensorFlow with oneDNN, in float32, the sum becomes a part of the product before it.

    Args:
        attention_mask: Boolean.

    Returns:
        Float32 of the same shape.
    """
    return ops.where(attention_mask, np.float32(0.0), np.float32(_FAR_BELOW))


def attend_to(key_padding_mask):
    """An attention mask that lets every query see every real key.

    Args:
        key_padding_mask: Boolean (batch, key_length), or None where nothing is padding.

    Returns:
        Boolean (batch, 1, key_length), or None.
    """
    return None if key_padding_mask is None else ops.expand_dims(key_padding_mask, 1)


def attend_to_earlier(key_padding_mask, length):
    """An attention mask that lets every query see the real keys up to its own position.

    Args:
        key_padding_mask: Boolean (batch, length), or None where nothing is padding.
        length: Positions, as for `causal_mask`.

    Returns:
        Boolean (batch or 1, query_length, key_length).
    """
    causal = causal_mask(length)
    if key_padding_mask is None:
        return causal
    return ops.logical_and(causal, ops.expand_dims(key_padding_mask, 1))
