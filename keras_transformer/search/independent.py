"""Hypotheses that grow without competing, for greedy search and sampling."""

from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from keras_transformer.masks import PADDING_ID
from keras_transformer.search import loop
from keras_transformer.search.constraints import Constraints
from keras_transformer.search.hypotheses import (
    Hypotheses,
    length_penalty_of,
    no_tokens,
    write_token,
)
from keras_transformer.search.state import DecodingState
from keras_transformer.tensors import Tensor


class Search(NamedTuple):
    """The hypotheses so far, and what the next step needs."""

    position: Tensor  # Integer scalar
    token_ids: Tensor  # Integer (batch, beams, length), padding after the newest token
    last_ids: Tensor  # Integer (batch, beams), the newest token of each
    log_probability: Tensor  # Float32 (batch, beams)
    num_tokens: Tensor  # Integer (batch, beams), including the end
    ended: Tensor  # Boolean (batch, beams)
    done: Tensor  # Boolean (batch,)
    held_to: Constraints
    noise: Tensor | tuple[()]  # Float32 (batch, beams, length); () in greedy search
    state: DecodingState


def start_search(
    state: DecodingState,
    start_id: int,
    held_to: Constraints,
    longest: int | Tensor | None,
    beams: int,
    noise: Tensor | tuple[()] = (),
) -> Search:
    """Starts with empty hypotheses; arguments as in `beam_search`."""
    token_ids = no_tokens(held_to.max_length, beams, longest)  # (batch, beams, length)
    shape = ops.shape(token_ids)[:2]
    return Search(
        position=ops.convert_to_tensor(0, dtype="int32"),
        token_ids=token_ids,
        last_ids=ops.full(shape, start_id, dtype="int32"),
        log_probability=ops.zeros(shape, dtype="float32"),
        num_tokens=ops.zeros(shape, dtype="int32"),
        ended=ops.zeros(shape, dtype="bool"),
        done=ops.zeros(shape[:1], dtype="bool"),
        held_to=held_to,
        noise=noise,
        state=state,
    )


def with_token(
    search: Search, token: Tensor, gained: Tensor, end_id: int, state: DecodingState
) -> Search:
    """Appends a token to each hypothesis; those that have ended stay as they are.

    Args:
        search: The search so far.
        token: Integer (batch, beams).
        gained: Float32 (batch, beams), the log-probability of the token.
        end_id: The token that ends a sentence.
        state: DecodingState after the step.
    """
    token = ops.where(search.ended, PADDING_ID, token)
    ended = ops.logical_or(search.ended, ops.equal(token, end_id))
    return search._replace(
        position=search.position + 1,
        token_ids=write_token(search.token_ids, token, search.position),
        last_ids=token,
        log_probability=search.log_probability + ops.where(search.ended, 0.0, gained),
        num_tokens=search.num_tokens + ops.cast(ops.logical_not(search.ended), "int32"),
        ended=ended,
        done=ops.all(ended, axis=1),  # (batch,)
        state=state,
    )


def run_search(
    advance: Callable[[Search], Search],
    start: Search,
    length_penalty: float | Tensor,
    length_normalization: str,
) -> Hypotheses:
    """Advances a search until every hypothesis has ended, then scores the hypotheses."""
    token_ids, log_probability, num_tokens = loop.run(
        advance, start, lambda search: (search.token_ids, search.log_probability, search.num_tokens)
    )
    penalty = length_penalty_of(num_tokens, length_penalty, length_normalization)
    return Hypotheses(token_ids, log_probability / penalty)
