"""What a search must write, and may not."""

from typing import NamedTuple

import numpy as np
from keras import ops

from keras_transformer.gathering import take
from keras_transformer.masks import PADDING_ID
from keras_transformer.search.hypotheses import IMPOSSIBLE


class Constraints(NamedTuple):
    """What each sentence of a search is held to; `constraints` makes it.

    Attributes:
        max_length: Integer (batch,), tokens it may have, the end included: there it is ended.
        min_length: Integer (batch,), tokens it must have, the end included.
        prefix: Integer (batch, prefix_length + 1), the tokens it must begin with, then padding; ()
            where no sentence must begin with anything, which costs nothing.
        word_at: Integer (batch,), the position where a new word must begin or the sentence end; -1
            where there is none; () where no sentence has one, which costs nothing.
    """

    max_length: object
    min_length: object
    prefix: object
    word_at: object = ()


def constraints(max_length, min_length=0, prefix=None, new_word=None) -> Constraints:
    """What a search is held to.

    Args:
        max_length: Integer (batch,), 1 or more. Where a prefix would leave no room for the end,
            there is room for it all the same.
        min_length: Integer, or Integer (batch,); `max_length` wins.
        prefix: Integer (batch, prefix_length), padding behind each row's tokens; None for none.
        new_word: Boolean (batch,), whether a new word, or the end, must follow the prefix; None if
            for no sentence.
    """
    max_length = ops.convert_to_tensor(max_length, dtype="int32")
    min_length = ops.convert_to_tensor(min_length, dtype="int32")
    if prefix is None:
        prefix, prefix_length = (), 0
    else:
        prefix = ops.pad(ops.convert_to_tensor(prefix, dtype="int32"), ((0, 0), (0, 1)))
        prefix_length = ops.sum(ops.cast(ops.not_equal(prefix, PADDING_ID), "int32"), axis=1)
    return Constraints(
        ops.maximum(max_length, prefix_length + 1),
        ops.broadcast_to(min_length, ops.shape(max_length)),
        prefix,
        () if new_word is None else ops.where(new_word, prefix_length, -1),
    )


def forced_token(held_to: Constraints, position, end_id):
    """The only token that may stand at a position: Integer (batch,), padding where any may."""
    forced = PADDING_ID
    if not isinstance(held_to.prefix, tuple):
        last = ops.shape(held_to.prefix)[1] - 1
        forced = take(held_to.prefix, ops.minimum(position, last), axis=1)
    return ops.where(position + 1 >= held_to.max_length, np.int32(end_id), forced)


def end_is_too_early(held_to: Constraints, position):
    """Whether a sentence may not end at a position yet: Boolean (batch,)."""
    return position + 1 < held_to.min_length


def without_rest_of_word(logits, held_to: Constraints, position, end_id, new_word_ids):
    """The logits, with `IMPOSSIBLE` where a token would continue a word that must be complete.

    Args:
        logits: Float32 (batch, beams, vocabulary).
        held_to: What each sentence is held to.
        position: Integer scalar.
        end_id: The token that ends a sentence.
        new_word_ids: The tokens that begin a word.
    """
    if isinstance(held_to.word_at, tuple):
        return logits
    is_new = np.zeros(logits.shape[-1], bool)
    is_new[[*new_word_ids, end_id]] = True
    is_free = ops.not_equal(held_to.word_at, position)[:, None, None]
    return ops.where(ops.logical_or(is_free, is_new), logits, IMPOSSIBLE)
