"""Rules that each sentence of a search must follow: its lengths, a prefix, a word boundary."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_transformer.gathering import take
from keras_transformer.masks import PADDING_ID
from keras_transformer.search.hypotheses import IMPOSSIBLE
from keras_transformer.tensors import Tensor


class Constraints(NamedTuple):
    """The rules for the sentences of a batch; made by `constraints`.

    Attributes:
        max_length: Integer (batch,), the most tokens, including the end, which is forced there.
        min_length: Integer (batch,), the fewest tokens, including the end.
        prefix: Integer (batch, prefix_length + 1), the tokens that a sentence must begin with, then
            padding; () if no sentence has a prefix, which costs nothing.
        word_at: Integer (batch,), the position where a new word or the end must come, -1 for none;
            () if no sentence has such a position, which costs nothing.
    """

    max_length: Tensor
    min_length: Tensor
    prefix: Tensor | tuple[()]
    word_at: Tensor | tuple[()] = ()


def constraints(
    max_length: Tensor,
    min_length: int | Tensor = 0,
    prefix: Tensor | None = None,
    new_word: Tensor | None = None,
) -> Constraints:
    """Makes the constraints of a search.

    Args:
        max_length: Integer (batch,), 1 or more; raised where a prefix would leave no room for the
            end.
        min_length: Integer, or Integer (batch,); `max_length` takes precedence.
        prefix: Integer (batch, prefix_length), padded on the right; None for none.
        new_word: Boolean (batch,), whether a new word or the end must follow the prefix; None for
            never.
    """
    max_length = ops.convert_to_tensor(max_length, dtype="int32")
    min_length = ops.convert_to_tensor(min_length, dtype="int32")
    if prefix is None:
        prefix, prefix_length = (), 0
    else:
        prefix = ops.convert_to_tensor(prefix, dtype="int32")
        prefix = ops.pad(prefix, ((0, 0), (0, 1)))  # (batch, prefix_length + 1)
        prefix_length = ops.sum(ops.cast(ops.not_equal(prefix, PADDING_ID), "int32"), axis=1)
    return Constraints(
        ops.maximum(max_length, prefix_length + 1),
        ops.broadcast_to(min_length, ops.shape(max_length)),
        prefix,
        () if new_word is None else ops.where(new_word, prefix_length, -1),
    )


def forced_token(held_to: Constraints, position: Tensor, end_id: int) -> Tensor:
    """Returns the only token allowed at a position, Integer (batch,), or padding if free."""
    forced = PADDING_ID
    if not isinstance(held_to.prefix, tuple):
        last = ops.shape(held_to.prefix)[1] - 1
        forced = take(held_to.prefix, ops.minimum(position, last), axis=1)  # (batch,)
    return ops.where(position + 1 >= held_to.max_length, np.int32(end_id), forced)


def end_is_too_early(held_to: Constraints, position: Tensor) -> Tensor:
    """Returns whether the end is not yet allowed at a position, Boolean (batch,)."""
    return position + 1 < held_to.min_length


def without_rest_of_word(
    logits: Tensor, held_to: Constraints, position: Tensor, end_id: int, new_word_ids: Sequence[int]
) -> Tensor:
    """Returns the logits, with `IMPOSSIBLE` for tokens that would continue a complete word.

    Args:
        logits: Float32 (batch, beams, vocabulary).
        held_to: The constraints.
        position: Integer scalar.
        end_id: The token that ends a sentence.
        new_word_ids: The tokens that begin a word.
    """
    if isinstance(held_to.word_at, tuple):
        return logits
    is_new = np.zeros(logits.shape[-1], bool)  # (vocabulary,)
    is_new[[*new_word_ids, end_id]] = True
    is_free = ops.not_equal(held_to.word_at, position)[:, None, None]  # (batch, 1, 1)
    return ops.where(ops.logical_or(is_free, is_new), logits, IMPOSSIBLE)
