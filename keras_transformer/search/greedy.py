"""Greedy search: the most probable token at each step."""

from typing import NamedTuple

from keras import ops

from keras_transformer.gathering import gather_rows
from keras_transformer.masks import PADDING_ID
from keras_transformer.search import loop
from keras_transformer.search.choice import best_tokens
from keras_transformer.search.constraints import Constraints, constraints
from keras_transformer.search.hypotheses import (
    Hypotheses,
    check_length_penalty,
    length_penalty_of,
    write_token,
)
from keras_transformer.search.shapes import as_length


class _Search(NamedTuple):
    position: object  # Integer scalar
    token_ids: object  # Integer (batch, length), padding behind what is decoded
    last_ids: object  # Integer (batch, 1)
    log_probability: object  # Float32 (batch,)
    num_tokens: object  # Integer (batch,), the end included
    done: object  # Boolean (batch,)
    held_to: Constraints
    state: object  # DecodingState of one beam


def greedy_search(
    step,
    state,
    *,
    start_id,
    end_id,
    max_length,
    longest=None,
    length_penalty=0.6,
    length_normalization="gnmt",
    min_length=0,
    prefix=None,
    new_word=None,
    barred_ids=(),
    new_word_ids=(),
):
    """Takes the most probable token again and again until the end comes.

    A sentence that reaches its `max_length` is ended there, so that every result ends with the
    end id and its score counts it.

    Args:
        step: (token_ids Integer (batch, 1), state) -> (logits Float (batch, 1, vocabulary), state).
        state: DecodingState that the first step gets.
        start_id, end_id, max_length, longest, min_length, prefix, new_word, barred_ids,
            new_word_ids: As in `beam_search`.
        length_penalty, length_normalization: As in `beam_search`; they change the scores, not the
            choice.

    Returns:
        Hypotheses with one beam.

    Raises:
        ValueError: If `length_penalty` or `length_normalization` is out of its range.
    """
    check_length_penalty(length_penalty, length_normalization)

    def advance(search):
        logits, state = step(search.last_ids, search.state)
        gained, token = best_tokens(
            logits, 1, search.held_to, search.position, end_id, barred_ids, new_word_ids
        )  # each (batch, 1, candidates)
        gained, best = ops.top_k(gained, 1)  # each (batch, 1, 1)
        token = gather_rows(token, ops.cast(best, "int32"))
        return _with_token(search, token[:, 0, 0], gained[:, 0, 0], end_id, state)

    held_to = constraints(max_length, min_length, prefix, new_word)
    start = _start(state, start_id, held_to, longest)
    end = loop.run(advance, start, lambda s: (s.token_ids, s.log_probability, s.num_tokens))
    token_ids, log_probability, num_tokens = end
    scores = log_probability / length_penalty_of(num_tokens, length_penalty, length_normalization)
    return Hypotheses(token_ids[:, None], scores[:, None])


def _start(state, start_id, held_to, longest):
    batch = ops.shape(held_to.max_length)[0]
    length = as_length(ops.max(held_to.max_length, initial=1) if longest is None else longest)
    return _Search(
        position=ops.convert_to_tensor(0, dtype="int32"),
        token_ids=ops.full((batch, length), PADDING_ID, dtype="int32"),
        last_ids=ops.full((batch, 1), start_id, dtype="int32"),
        log_probability=ops.zeros((batch,), dtype="float32"),
        num_tokens=ops.zeros((batch,), dtype="int32"),
        done=ops.zeros((batch,), dtype="bool"),
        held_to=held_to,
        state=state,
    )


def _with_token(search, token, gained, end_id, state):
    """The search one position later; what is done stays as it is."""
    token = ops.where(search.done, PADDING_ID, token)
    return search._replace(
        position=search.position + 1,
        token_ids=write_token(search.token_ids, token, search.position),
        last_ids=token[:, None],
        log_probability=search.log_probability + ops.where(search.done, 0.0, gained),
        num_tokens=search.num_tokens + ops.cast(ops.logical_not(search.done), "int32"),
        done=ops.logical_or(search.done, ops.equal(token, end_id)),
        state=state,
    )
