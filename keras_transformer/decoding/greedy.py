"""Greedy search: the most probable token at each step."""

from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.decoding.cache import as_length
from keras_transformer.decoding.hypotheses import (
    Hypotheses,
    check_length_penalty,
    length_penalty_of,
    log_normalizer,
    write_token,
)
from keras_transformer.masks import PADDING_ID


class _Progress(NamedTuple):
    position: object  # Integer scalar
    token_ids: object  # Integer (batch, length), padding behind what is decoded
    last_ids: object  # Integer (batch, 1)
    log_probability: object  # Float32 (batch,)
    num_tokens: object  # Integer (batch,), the end included
    done: object  # Boolean (batch,)
    state: object  # DecodingState of one beam


def greedy_search(step, state, *, start_id, end_id, max_length, length_penalty=0.6):
    """Takes the most probable token again and again until the end comes.

    A sentence that reaches its `max_length` is ended there, so that every result ends with the
    end id and its score counts it.

    Args:
        step: (token_ids Integer (batch, 1), state) -> (logits Float (batch, 1, vocabulary), state).
        state: DecodingState that the first step gets.
        start_id: The token that stands before the first.
        end_id: The token that ends a sentence.
        max_length: Integer (batch,), tokens each sentence may have, the end included, 1 or more.
        length_penalty: Alpha, as in `beam_search`; it changes the scores, not the choice.

    Returns:
        Hypotheses with one beam.

    Raises:
        ValueError: If `length_penalty` is out of its range.
    """
    check_length_penalty(length_penalty)
    max_length = ops.convert_to_tensor(max_length, dtype="int32")
    batch = ops.shape(max_length)[0]
    length = as_length(ops.max(max_length, initial=1))

    def unfinished(progress):
        return ops.logical_not(ops.all(progress.done))

    def advance(progress):
        logits, state = step(progress.last_ids, progress.state)
        logits = ops.cast(logits[:, 0], "float32")  # (batch, vocabulary)
        at_limit = progress.position + 1 >= max_length
        best = ops.cast(ops.argmax(logits, axis=-1), "int32")
        token = ops.where(at_limit, end_id, best)  # (batch,)
        chosen = ops.squeeze(ops.take_along_axis(logits, token[:, None], axis=1), 1)
        gained = chosen - log_normalizer(logits)[:, 0]
        token = ops.where(progress.done, PADDING_ID, token)
        return _Progress(
            progress.position + 1,
            write_token(progress.token_ids, token, progress.position),
            token[:, None],
            progress.log_probability + ops.where(progress.done, 0.0, gained),
            progress.num_tokens + ops.cast(ops.logical_not(progress.done), "int32"),
            ops.logical_or(progress.done, ops.equal(token, end_id)),
            state,
        )

    start = _Progress(
        ops.convert_to_tensor(0, dtype="int32"),
        ops.full((batch, length), PADDING_ID, dtype="int32"),
        ops.full((batch, 1), start_id, dtype="int32"),
        ops.zeros((batch,), dtype="float32"),
        ops.zeros((batch,), dtype="int32"),
        ops.zeros((batch,), dtype="bool"),
        state,
    )
    end = _Progress(*_loop(unfinished, advance, start))
    scores = end.log_probability / length_penalty_of(end.num_tokens, length_penalty)
    return Hypotheses(end.token_ids[:, None], scores[:, None])


def _loop(unfinished, advance, start):
    return keras.ops.while_loop(
        lambda *progress: unfinished(_Progress(*progress)),
        lambda *progress: tuple(advance(_Progress(*progress))),
        tuple(start),
    )
