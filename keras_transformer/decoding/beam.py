"""Beam search (section 6.1)."""

from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.decoding.cache import as_length
from keras_transformer.decoding.hypotheses import (
    IMPOSSIBLE,
    Hypotheses,
    check_length_penalty,
    length_penalty_of,
    log_normalizer,
    write_token,
)
from keras_transformer.decoding.state import gather_beams, reorder_beams
from keras_transformer.masks import PADDING_ID


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
    num_finished: object  # Integer (batch,), how many have ended so far
    done: object  # Boolean (batch,)
    state: object  # DecodingState


def beam_search(
    step,
    state,
    *,
    start_id,
    end_id,
    max_length,
    beam_size=4,
    length_penalty=0.6,
    num_results=1,
):
    """Finds probable sentences by following several beginnings at once.

    At each step the live hypotheses are continued by every token, and the `beam_size` best
    continuations count: those that end are kept apart, scored with the length penalty; the best
    that do not end live on. A sentence is done when `beam_size` hypotheses have ended, or when no
    live one can come into the results any more. With one beam this is greedy search; with as many
    beams as there are sentences it is enumeration.

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
        beam_size: Hypotheses that are followed at once, 1 or more.
        length_penalty: Alpha, 0 or more: 0 compares log-probabilities, 1 nearly their mean.
        num_results: Results that are asked for, up to `beam_size`; the search goes on until they
            are sure.

    Returns:
        Hypotheses with `beam_size` beams, of which the first `num_results` are sure.

    Raises:
        ValueError: If `beam_size`, `num_results` or `length_penalty` is out of its range.
    """
    _check(beam_size, num_results, length_penalty)
    max_length = ops.convert_to_tensor(max_length, dtype="int32")

    def unfinished(search):
        return ops.logical_not(ops.all(search.done))

    def advance(search):
        logits, state = step(search.live_last, search.state)
        at_limit = search.position + 1 >= max_length  # (batch,)
        candidates = _continue(logits, search.live_log_probability, at_limit, end_id)
        ids = gather_beams(search.live_ids, candidates.beam)  # (batch, candidates, length)
        ids = write_token(ids, candidates.token, search.position)
        search = _keep_finished(search, candidates, ids, end_id, length_penalty)
        search = _keep_live(search, candidates, ids, state, end_id)
        return _decide_done(search, max_length, length_penalty, num_results)

    start = _start(state, start_id, max_length, beam_size)
    end = _loop(unfinished, advance, start)
    return Hypotheses(end.finished_ids, end.finished_scores)


def _start(state, start_id, max_length, beam_size):
    """One live hypothesis, the empty one; the other beams are impossible until it branches."""
    batch = ops.shape(max_length)[0]
    length = as_length(ops.max(max_length, initial=1))
    no_ids = ops.full((batch, beam_size, length), PADDING_ID, dtype="int32")
    impossible = ops.full((batch, beam_size), IMPOSSIBLE, dtype="float32")
    first = ops.equal(ops.arange(beam_size), 0)
    return _Search(
        position=ops.convert_to_tensor(0, dtype="int32"),
        live_ids=no_ids,
        live_last=ops.full((batch, beam_size), start_id, dtype="int32"),
        live_log_probability=ops.where(first, 0.0, impossible),
        finished_ids=no_ids,
        finished_scores=impossible,
        num_finished=ops.zeros((batch,), dtype="int32"),
        done=ops.zeros((batch,), dtype="bool"),
        state=state,
    )


def _continue(logits, live_log_probability, at_limit, end_id):
    """The 2 * beams best continuations: enough for all beams to live on, whatever ends.

    The best tokens of a beam are the same before and after the softmax, so they are picked first.
    """
    logits = ops.cast(logits, "float32")
    beams, vocabulary = logits.shape[1], logits.shape[2]
    best, token = ops.top_k(logits, min(2 * beams, vocabulary))  # (batch, beams, width)
    token = ops.cast(token, "int32")
    best, token = _only_the_end(logits, best, token, at_limit, end_id)
    total = live_log_probability[:, :, None] + best - log_normalizer(logits)

    batch, _, width = ops.shape(total)
    total = ops.reshape(total, (batch, beams * width))
    token = ops.reshape(token, (batch, beams * width))
    log_probability, index = ops.top_k(total, min(2 * beams, beams * width))
    index = ops.cast(index, "int32")
    return _Candidates(log_probability, index // width, ops.take_along_axis(token, index, axis=1))


def _only_the_end(logits, best, token, at_limit, end_id):
    """Where a sentence is at its limit, the end is the only continuation of each beam."""
    first = ops.equal(ops.arange(best.shape[-1]), 0)
    end = ops.where(first, logits[:, :, end_id : end_id + 1], IMPOSSIBLE)
    at_limit = at_limit[:, None, None]
    return ops.where(at_limit, end, best), ops.where(at_limit, end_id, token)


def _keep_finished(search, candidates, ids, end_id, length_penalty):
    """Takes what ended among the best `beam_size` candidates; sentences that are done keep theirs.

    A candidate beyond the best `beam_size` would not have been followed, so its end is no result.
    """
    beams = search.finished_scores.shape[1]
    ends = ops.logical_and(
        ops.equal(candidates.token, end_id), candidates.log_probability > IMPOSSIBLE / 2
    )
    ends = ops.logical_and(ends, ops.arange(candidates.token.shape[1]) < beams)
    ends = ops.logical_and(ends, ops.logical_not(search.done)[:, None])
    scores = candidates.log_probability / length_penalty_of(search.position + 1, length_penalty)
    scores = ops.where(ends, scores, IMPOSSIBLE)

    scores = ops.concatenate([search.finished_scores, scores], axis=1)
    ids = ops.concatenate([search.finished_ids, ids], axis=1)
    scores, index = ops.top_k(scores, beams)
    return search._replace(
        finished_ids=gather_beams(ids, ops.cast(index, "int32")),
        finished_scores=scores,
        num_finished=search.num_finished + ops.sum(ops.cast(ends, "int32"), axis=1),
    )


def _keep_live(search, candidates, ids, state, end_id):
    """Goes on with the best candidates that did not end."""
    beams = search.live_last.shape[1]
    log_probability = ops.where(
        ops.equal(candidates.token, end_id), IMPOSSIBLE, candidates.log_probability
    )
    log_probability, index = ops.top_k(log_probability, beams)
    index = ops.cast(index, "int32")
    parents = ops.take_along_axis(candidates.beam, index, axis=1)  # (batch, beams)
    return search._replace(
        position=search.position + 1,
        live_ids=gather_beams(ids, index),
        live_last=ops.take_along_axis(candidates.token, index, axis=1),
        live_log_probability=log_probability,
        state=reorder_beams(state, parents),
    )


def _decide_done(search, max_length, length_penalty, num_results):
    """A sentence is done when its beams have ended or none that lives can still come in.

    A live hypothesis only loses probability and only gains length, so its best possible score is
    what it has now divided by the penalty of the longest sentence.
    """
    beams = search.live_last.shape[1]
    reachable = search.live_log_probability[:, 0] / length_penalty_of(max_length, length_penalty)
    beaten = search.finished_scores[:, num_results - 1] >= reachable
    ended = ops.logical_or(search.num_finished >= beams, search.position >= max_length)
    return search._replace(done=search.done | beaten | ended)


def _loop(unfinished, advance, start):
    end = keras.ops.while_loop(
        lambda *search: unfinished(_Search(*search)),
        lambda *search: tuple(advance(_Search(*search))),
        tuple(start),
    )
    return _Search(*end)


def _check(beam_size, num_results, length_penalty):
    if beam_size < 1 or not 1 <= num_results <= beam_size:
        raise ValueError(
            "beam_size must be at least 1, and num_results from 1 to beam_size. Received:"
            f" beam_size={beam_size}, num_results={num_results}. Choose a beam_size of at least"
            " num_results."
        )
    check_length_penalty(length_penalty)
