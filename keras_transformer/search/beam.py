"""Beam search (section 6.1)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from keras import ops

from keras_transformer.gathering import gather_rows
from keras_transformer.search import loop
from keras_transformer.search.choice import best_tokens, top_k
from keras_transformer.search.constraints import Constraints, constraints
from keras_transformer.search.hypotheses import (
    IMPOSSIBLE,
    Hypotheses,
    check_length_penalty,
    length_penalty_of,
    no_tokens,
    write_token,
)
from keras_transformer.search.state import DecodingState, Step, reorder_beams
from keras_transformer.tensors import Tensor


class _Search(NamedTuple):
    position: Tensor  # Integer scalar
    live_ids: Tensor  # Integer (batch, beams, length)
    live_last: Tensor  # Integer (batch, beams), the newest token of each
    live_log_probability: Tensor  # Float32 (batch, beams), best first
    finished_ids: Tensor  # Integer (batch, beams, length)
    finished_scores: Tensor  # Float32 (batch, beams), best first
    done: Tensor  # Boolean (batch,)
    held_to: Constraints
    state: DecodingState


class _Candidates(NamedTuple):
    """The best continuations of a sentence's live hypotheses by one token, best first."""

    ids: Tensor  # Integer (batch, candidates, length), with the new token
    log_probability: Tensor  # Float32 (batch, candidates)
    beam: Tensor  # Integer (batch, candidates), the hypothesis that is continued
    token: Tensor  # Integer (batch, candidates), the new token


def beam_search(
    step: Step,
    state: DecodingState,
    *,
    start_id: int,
    end_id: int,
    max_length: Tensor,
    longest: int | Tensor | None = None,
    beam_size: int = 4,
    length_penalty: float | Tensor = 0.6,
    length_normalization: str = "gnmt",
    num_results: int | Tensor = 1,
    min_length: int | Tensor = 0,
    prefix: Tensor | None = None,
    new_word: Tensor | None = None,
    barred_ids: Sequence[int] = (),
    new_word_ids: Sequence[int] = (),
) -> Hypotheses:
    """Finds probable sentences by following several hypotheses at once.

    Each step continues the live hypotheses by every token and keeps the best `beam_size`
    continuations: those that end are scored with the length penalty and set aside, and the best
    that do not end live on. A sentence is done once no live hypothesis can still enter its
    results. One beam is greedy search; as many beams as possible sentences is enumeration.

    A hypothesis is ended at its `max_length`, so every result ends with the end id, whose
    probability counts. The results of a sentence do not depend on its batch.

    Source: section 6.1 (beam 4, alpha 0.6); Wu et al. 2016, section 7 (the length penalty).

    Args:
        step: (token_ids Integer (batch, beams), state) -> (logits Float (batch, beams,
            vocabulary), state).
        state: DecodingState for the first step, with `beam_size` beams.
        start_id: The token before the first.
        end_id: The token that ends a sentence.
        max_length: Integer (batch,), the most tokens of each sentence, 1 or more, with the end.
        longest: The length of the results, with room for prefixes and the end. None computes it,
            which is not possible in a search compiled for fixed shapes.
        beam_size: Hypotheses followed at once, 1 or more.
        length_penalty: Alpha, 0 or more; 0 compares log-probabilities.
        length_normalization: "gnmt" or "length", see `length_penalty_of`.
        num_results: The number of results, 1 to `beam_size`, as a number or a tensor; the search
            continues until they are certain.
        min_length: Integer or Integer (batch,), the fewest tokens of each sentence, including the
            end.
        prefix: Integer (batch, prefix_length), how each sentence must begin, padded on the right;
            None for no prefix. Its probability counts.
        new_word: Boolean (batch,), whether one of `new_word_ids` or the end must follow the
            prefix; None for never.
        barred_ids: Tokens that are never chosen. Probabilities still refer to the whole
            vocabulary.
        new_word_ids: Tokens that begin a word.

    Returns:
        Hypotheses with `beam_size` beams; the first `num_results` are certain.

    Raises:
        ValueError: If `beam_size`, `num_results`, `length_penalty` or `length_normalization` is
            invalid.
    """
    check_beams(beam_size, num_results)
    check_length_penalty(length_penalty, length_normalization)

    def penalty_of(num_tokens: Tensor) -> Tensor:
        return length_penalty_of(num_tokens, length_penalty, length_normalization)

    def advance(search: _Search) -> _Search:
        logits, state = step(search.live_last, search.state)
        candidates = _continue(logits, search, end_id, barred_ids, new_word_ids)
        search = _keep_finished(search, candidates, end_id, penalty_of)
        search = _keep_live(search, candidates, state, end_id)
        return _decide_done(search, penalty_of, num_results)

    start = _start(
        state, start_id, constraints(max_length, min_length, prefix, new_word), longest, beam_size
    )
    return loop.run(
        advance, start, lambda search: Hypotheses(search.finished_ids, search.finished_scores)
    )


def _start(
    state: DecodingState,
    start_id: int,
    held_to: Constraints,
    longest: int | Tensor | None,
    beam_size: int,
) -> _Search:
    """Starts with the empty hypothesis; all other beams are impossible until it branches."""
    no_ids = no_tokens(held_to.max_length, beam_size, longest)  # (batch, beams, length)
    batch = ops.shape(no_ids)[0]
    impossible = ops.full((batch, beam_size), IMPOSSIBLE, dtype="float32")
    first = ops.equal(ops.arange(beam_size, dtype="int32"), 0)  # (beams,)
    return _Search(
        position=ops.convert_to_tensor(0, dtype="int32"),
        live_ids=no_ids,
        live_last=ops.full((batch, beam_size), start_id, dtype="int32"),
        live_log_probability=ops.where(first, 0.0, impossible),
        finished_ids=no_ids,
        finished_scores=impossible,
        done=ops.zeros((batch,), dtype="bool"),
        held_to=held_to,
        state=state,
    )


def _continue(
    logits: Tensor,
    search: _Search,
    end_id: int,
    barred_ids: Sequence[int],
    new_word_ids: Sequence[int],
) -> _Candidates:
    """Finds the 2 * beams best continuations, so that all beams live on, however many end."""
    beams = logits.shape[1]
    gained, token = best_tokens(
        logits, 2 * beams, search.held_to, search.position, end_id, barred_ids, new_word_ids
    )
    total = search.live_log_probability[:, :, None] + gained  # (batch, beams, width)
    batch, _, width = ops.shape(total)
    total = ops.reshape(total, (batch, beams * width))
    token = ops.reshape(token, (batch, beams * width))
    log_probability, index = top_k(total, min(2 * beams, beams * width))  # (batch, candidates)
    beam, token = index // width, gather_rows(token, index)  # (batch, candidates)
    ids = gather_rows(search.live_ids, beam)  # (batch, candidates, length)
    ids = write_token(ids, token, search.position)
    return _Candidates(ids, log_probability, beam, token)


def _keep_finished(
    search: _Search, candidates: _Candidates, end_id: int, penalty_of: Callable[[Tensor], Tensor]
) -> _Search:
    """Sets aside those of the best `beam_size` candidates that end, unless the sentence is done.

    Candidates beyond the best `beam_size` would not have been followed, so they are no results.
    """
    beams = search.finished_scores.shape[1]
    ends = ops.logical_and(
        ops.equal(candidates.token, end_id), candidates.log_probability > IMPOSSIBLE / 2
    )
    rank = ops.arange(candidates.token.shape[1], dtype="int32")  # (candidates,)
    ends = ops.logical_and(ends, rank < beams)
    ends = ops.logical_and(ends, ops.logical_not(search.done)[:, None])
    scores = candidates.log_probability / penalty_of(search.position + 1)
    scores = ops.where(ends, scores, IMPOSSIBLE)

    scores = ops.concatenate([search.finished_scores, scores], axis=1)
    ids = ops.concatenate([search.finished_ids, candidates.ids], axis=1)
    scores, index = top_k(scores, beams)  # (batch, beams)
    return search._replace(finished_ids=gather_rows(ids, index), finished_scores=scores)


def _keep_live(
    search: _Search, candidates: _Candidates, state: DecodingState, end_id: int
) -> _Search:
    """Continues with the best candidates that do not end."""
    beams = search.live_last.shape[1]
    log_probability = ops.where(
        ops.equal(candidates.token, end_id), IMPOSSIBLE, candidates.log_probability
    )
    log_probability, index = top_k(log_probability, beams)  # (batch, beams)
    return search._replace(
        position=search.position + 1,
        live_ids=gather_rows(candidates.ids, index),
        live_last=gather_rows(candidates.token, index),
        live_log_probability=log_probability,
        state=reorder_beams(state, gather_rows(candidates.beam, index)),
    )


def _decide_done(
    search: _Search, penalty_of: Callable[[Tensor], Tensor], num_results: int | Tensor
) -> _Search:
    """Marks sentences as done if no live hypothesis can still enter their results.

    A hypothesis only loses probability and only grows, so the best score that it can reach is its
    current log-probability, divided by the penalty for the longest sentence.
    """
    max_length = search.held_to.max_length
    reachable = search.live_log_probability[:, 0] / penalty_of(max_length)  # (batch,)
    beaten = search.finished_scores[:, num_results - 1] >= reachable
    return search._replace(done=search.done | beaten | (search.position >= max_length))


def check_beams(beam_size: int, num_results: int | Tensor) -> None:
    """Raises ValueError unless num_results is from 1 to beam_size; skips it if a tensor."""
    if beam_size < 1 or not (ops.is_tensor(num_results) or 1 <= num_results <= beam_size):
        raise ValueError(
            "beam_size must be at least 1, and num_results from 1 to beam_size. Received:"
            f" beam_size={beam_size}, num_results={num_results}. Choose a beam_size of at least"
            " num_results."
        )
