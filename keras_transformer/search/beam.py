"""Beam search (section 6.1)."""

from typing import NamedTuple

from keras import ops

from keras_transformer.gathering import gather_rows
from keras_transformer.masks import PADDING_ID
from keras_transformer.search import loop
from keras_transformer.search.choice import best_tokens
from keras_transformer.search.constraints import Constraints, constraints
from keras_transformer.search.hypotheses import (
    IMPOSSIBLE,
    Hypotheses,
    check_length_penalty,
    length_penalty_of,
    write_token,
)
from keras_transformer.search.shapes import as_length
from keras_transformer.search.state import reorder_beams


class _Candidates(NamedTuple):
    """The best continuations of a sentence's beams by one token, best first."""

    log_probability: object  # Float32 (batch, candidates)
    beam: object  # Integer (batch, candidates), which beam is continued
    token: object  # Integer (batch, candidates), by which token


class _Search(NamedTuple):
    position: object  # Integer scalar
    live_ids: object  # Integer (batch, beams, length)
    live_last: object  # Integer (batch, beams), the newest token of each
    live_log_probability: object  # Float32 (batch, beams), best first
    finished_ids: object  # Integer (batch, beams, length)
    finished_scores: object  # Float32 (batch, beams), best first
    done: object  # Boolean (batch,)
    held_to: Constraints
    state: object  # DecodingState


def beam_search(
    step,
    state,
    *,
    start_id,
    end_id,
    max_length,
    longest=None,
    beam_size=4,
    length_penalty=0.6,
    length_normalization="gnmt",
    num_results=1,
    min_length=0,
    prefix=None,
    new_word=None,
    barred_ids=(),
    new_word_ids=(),
):
    """Finds probable sentences by following several beginnings at once.

    At each step the live hypotheses are continued by every token, and the `beam_size` best
    continuations count: those that end are kept apart, scored with the length penalty; the best
    that do not end live on. A sentence is done when no live hypothesis can come into the results
    any more. With one beam this is greedy search; with as many beams as there are sentences it is
    enumeration.

    A hypothesis that reaches its `max_length` is ended there, so that every result ends with the
    end id and its score counts it. A sentence's results do not depend on its batch.

    Source: section 6.1 (beam 4, alpha 0.6); Wu et al. 2016, section 7 (the length penalty).

    Args:
        step: (token_ids Integer (batch, beams), state) -> (logits Float (batch, beams,
            vocabulary), state).
        state: DecodingState that the first step gets, with `beam_size` beams.
        start_id: The token that stands before the first.
        end_id: The token that ends a sentence.
        max_length: Integer (batch,), tokens each sentence may have, the end included, 1 or more.
        longest: Tokens there is room for, prefixes and the end included; None for as many as may
            come, which a search that is compiled for fixed shapes cannot know.
        beam_size: Hypotheses that are followed at once, 1 or more.
        length_penalty: Alpha, 0 or more: 0 compares log-probabilities.
        length_normalization: How the length counts, see `length_penalty_of`.
        num_results: Results that are asked for, up to `beam_size`, a number or a tensor; the search
            goes on until they are sure.
        min_length: Integer or Integer (batch,), tokens each sentence must have, the end included.
        prefix: Integer (batch, prefix_length), what each sentence must begin with, then padding;
            None for nothing. Its probability counts.
        new_word: Boolean (batch,), whether one of `new_word_ids`, or the end, must follow the
            prefix; None if for no sentence.
        barred_ids: Tokens that are never chosen. Probabilities are still those of the whole
            vocabulary.
        new_word_ids: Tokens that begin a word.

    Returns:
        Hypotheses with `beam_size` beams, of which the first `num_results` are sure.

    Raises:
        ValueError: If `beam_size`, `num_results`, `length_penalty` or `length_normalization` is out
            of its range.
    """
    check_beams(beam_size, num_results)
    check_length_penalty(length_penalty, length_normalization)

    def penalty_of(num_tokens):
        return length_penalty_of(num_tokens, length_penalty, length_normalization)

    def advance(search):
        logits, state = step(search.live_last, search.state)
        candidates = _continue(logits, search, end_id, barred_ids, new_word_ids)
        ids = gather_rows(search.live_ids, candidates.beam)  # (batch, candidates, length)
        ids = write_token(ids, candidates.token, search.position)
        search = _keep_finished(search, candidates, ids, end_id, penalty_of)
        search = _keep_live(search, candidates, ids, state, end_id)
        return _decide_done(search, penalty_of, num_results)

    held_to = constraints(max_length, min_length, prefix, new_word)
    start = _start(state, start_id, held_to, longest, beam_size)
    return loop.run(
        advance, start, lambda search: Hypotheses(search.finished_ids, search.finished_scores)
    )


def _start(state, start_id, held_to, longest, beam_size):
    """One live hypothesis, the empty one; the other beams are impossible until it branches."""
    batch = ops.shape(held_to.max_length)[0]
    length = as_length(ops.max(held_to.max_length, initial=1) if longest is None else longest)
    no_ids = ops.full((batch, beam_size, length), PADDING_ID, dtype="int32")
    impossible = ops.full((batch, beam_size), IMPOSSIBLE, dtype="float32")
    first = ops.equal(ops.arange(beam_size, dtype="int32"), 0)
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


def _continue(logits, search, end_id, barred_ids, new_word_ids):
    """The 2 * beams best continuations: enough for all beams to live on, whatever ends."""
    beams = logits.shape[1]
    gained, token = best_tokens(
        logits, 2 * beams, search.held_to, search.position, end_id, barred_ids, new_word_ids
    )
    total = search.live_log_probability[:, :, None] + gained
    batch, _, width = ops.shape(total)
    total = ops.reshape(total, (batch, beams * width))
    token = ops.reshape(token, (batch, beams * width))
    log_probability, index = ops.top_k(total, min(2 * beams, beams * width))
    index = ops.cast(index, "int32")
    return _Candidates(log_probability, index // width, gather_rows(token, index))


def _keep_finished(search, candidates, ids, end_id, penalty_of):
    """Takes what ended among the best `beam_size` candidates; sentences that are done keep theirs.

    A candidate beyond the best `beam_size` would not have been followed, so its end is no result.
    """
    beams = search.finished_scores.shape[1]
    ends = ops.logical_and(
        ops.equal(candidates.token, end_id), candidates.log_probability > IMPOSSIBLE / 2
    )
    rank = ops.arange(candidates.token.shape[1], dtype="int32")
    ends = ops.logical_and(ends, rank < beams)
    ends = ops.logical_and(ends, ops.logical_not(search.done)[:, None])
    scores = candidates.log_probability / penalty_of(search.position + 1)
    scores = ops.where(ends, scores, IMPOSSIBLE)

    scores = ops.concatenate([search.finished_scores, scores], axis=1)
    ids = ops.concatenate([search.finished_ids, ids], axis=1)
    scores, index = ops.top_k(scores, beams)
    return search._replace(
        finished_ids=gather_rows(ids, ops.cast(index, "int32")),
        finished_scores=scores,
    )


def _keep_live(search, candidates, ids, state, end_id):
    """Goes on with the best candidates that did not end."""
    beams = search.live_last.shape[1]
    log_probability = ops.where(
        ops.equal(candidates.token, end_id), IMPOSSIBLE, candidates.log_probability
    )
    log_probability, index = ops.top_k(log_probability, beams)
    index = ops.cast(index, "int32")
    parents = gather_rows(candidates.beam, index)  # (batch, beams)
    return search._replace(
        position=search.position + 1,
        live_ids=gather_rows(ids, index),
        live_last=gather_rows(candidates.token, index),
        live_log_probability=log_probability,
        state=reorder_beams(state, parents),
    )


def _decide_done(search, penalty_of, num_results):
    """A sentence is done when no live hypothesis can come into the results any more.

    A live hypothesis only loses probability and only gains length, so its best possible score is
    what it has now divided by the penalty of the longest sentence.
    """
    max_length = search.held_to.max_length
    reachable = search.live_log_probability[:, 0] / penalty_of(max_length)
    beaten = search.finished_scores[:, num_results - 1] >= reachable
    return search._replace(done=search.done | beaten | (search.position >= max_length))


def check_beams(beam_size, num_results):
    """Raises ValueError if so many beams cannot give so many results, unless that is a tensor."""
    if beam_size < 1 or not (ops.is_tensor(num_results) or 1 <= num_results <= beam_size):
        raise ValueError(
            "beam_size must be at least 1, and num_results from 1 to beam_size. Received:"
            f" beam_size={beam_size}, num_results={num_results}. Choose a beam_size of at least"
            " num_results."
        )
