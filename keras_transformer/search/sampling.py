"""Sampling: each next token is drawn, the more often the more probable it is."""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_transformer.gathering import gather_rows, take
from keras_transformer.masks import PADDING_ID
from keras_transformer.search import loop
from keras_transformer.search.choice import log_normalizer, top_logits
from keras_transformer.search.constraints import (
    Constraints,
    constraints,
    end_is_too_early,
    forced_token,
    without_rest_of_word,
)
from keras_transformer.search.hypotheses import (
    Hypotheses,
    check_length_penalty,
    length_penalty_of,
    write_token,
)
from keras_transformer.search.shapes import as_length

# Logits differ by more than this or not at all, so that a lower temperature would draw the same;
# float32 can't divide by one below 1e-38.
_LOWEST_TEMPERATURE = 1e-30


class _Search(NamedTuple):
    position: object  # Integer scalar
    token_ids: object  # Integer (batch, beams, length), padding behind what is drawn
    last_ids: object  # Integer (batch, beams)
    log_probability: object  # Float32 (batch, beams)
    num_tokens: object  # Integer (batch, beams), the end included
    ended: object  # Boolean (batch, beams)
    done: object  # Boolean (batch,)
    noise: object  # Float32 (batch, beams, length)
    held_to: Constraints
    state: object  # DecodingState


def sample(
    step,
    state,
    *,
    start_id,
    end_id,
    max_length,
    noise,
    longest=None,
    temperature=1.0,
    top_k=None,
    top_p=None,
    length_penalty=0.6,
    length_normalization="gnmt",
    min_length=0,
    prefix=None,
    new_word=None,
    barred_ids=(),
    new_word_ids=(),
):
    """Draws token after token until the end comes.

    P(token) is proportional to exp(logit / temperature) among the tokens that are left by the
    constraints, then by `top_k`, then by `top_p`. Each beam is a sample of its own: beams do not
    know of each other, and may be equal. Chance comes from outside, one number for each token, so
    that a sentence's samples do not depend on its batch.

    Source: Fan et al. 2018, section 5.1 (`top_k`); Holtzman et al. 2020, section 3.1 (`top_p`).

    Args:
        step: As in `beam_search`.
        state: DecodingState that the first step gets, with as many beams as `noise`.
        start_id, end_id, max_length, longest, min_length, prefix, new_word, barred_ids,
            new_word_ids: As in `beam_search`.
        noise: Float (batch, beams, length), even over [0, 1); `noise_of` makes some. No sample has
            more tokens than it has numbers, unless its prefix is as long.
        temperature: More than 0. The lower it is, the more often the most probable token is drawn.
        top_k: Only so many of the most probable tokens are drawn, 1 or more; None for all.
        top_p: Only the fewest most probable tokens are drawn that have this probability together,
            more than 0, to 1, which is all of them, like None. Alone it costs a sort of the
            vocabulary at each step, with `top_k` it does not.
        length_penalty, length_normalization: As in `beam_search`; they change the scores, not the
            draws.

    Returns:
        Hypotheses in the order of the draws. Like those of a search, scores are of the model's own
        probabilities: of the whole vocabulary, at temperature 1.

    Raises:
        ValueError: If `noise` has other axes, or a number is out of its range. The
            `temperature`, `top_p` and `length_penalty` may be tensors, which are not looked into.
    """
    check_length_penalty(length_penalty, length_normalization)
    check_sampling(temperature, top_k, top_p)
    noise = _checked_noise(noise)

    def advance(search):
        logits, state = step(search.last_ids, search.state)
        logits = ops.cast(logits, "float32")
        probability, token = distribution(
            _without_what_may_not_stand(logits, search, end_id, barred_ids, new_word_ids),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        drawn = _draw(probability, token, _number_at(search.noise, search.position))
        forced = forced_token(search.held_to, search.position, end_id)[:, None]  # (batch, 1)
        token = ops.where(ops.equal(forced, PADDING_ID), drawn, forced)
        return _with_tokens(search, token, _log_probability(logits, token), end_id, state)

    most = ops.minimum(ops.convert_to_tensor(max_length, dtype="int32"), ops.shape(noise)[2])
    held_to = constraints(most, min_length, prefix, new_word)
    start = _start(state, start_id, held_to, longest, noise)
    end = loop.run(advance, start, lambda s: (s.token_ids, s.log_probability, s.num_tokens))
    token_ids, log_probability, num_tokens = end
    scores = log_probability / length_penalty_of(num_tokens, length_penalty, length_normalization)
    return Hypotheses(token_ids, scores)


def noise_of(seed, sentences, num_samples, length):
    """What `sample` draws from, the same for a sentence whatever batch it is in.

    Neither the other sentences nor the number of samples and of tokens change a number.

    Args:
        seed: Integer, 0 or more.
        sentences: Integer (batch,), the number of each sentence in the whole text, 0 or more.
        num_samples: How many samples of each sentence, the beams.
        length: Tokens of the longest.

    Returns:
        Float32 NumPy array (batch, beams, length), even over [0, 1).

    Raises:
        ValueError: If the seed or a sentence's number is negative.
    """
    sentences = [int(sentence) for sentence in sentences]
    lowest = min([seed, *sentences])
    if lowest < 0:
        raise ValueError(
            "The seed and the sentences' numbers must be 0 or more. Received:"
            f" seed={seed}, lowest number {min(sentences, default=None)}. Count from 0."
        )
    noise = np.empty((len(sentences), num_samples, length), "float32")
    for of_sentence, sentence in zip(noise, sentences, strict=True):
        for number, of_sample in enumerate(of_sentence):
            np.random.default_rng([seed, sentence, number]).random(dtype="float32", out=of_sample)
    return noise


def distribution(logits, *, temperature=1.0, top_k=None, top_p=None):
    """What is drawn from: P(token) of the tokens that are left, the others 0.

    Args:
        logits: Float32 (batch, beams, vocabulary), -inf where a token may not stand.
        temperature, top_k, top_p: As in `sample`.

    Returns:
        (probability Float32 (batch, beams, candidates), token Integer (batch, beams, candidates)):
        the most probable first if `top_k` or `top_p` is at work, else in the order of tokens.
        Among equally probable tokens those with the lowest ids are left.
    """
    vocabulary = logits.shape[-1]
    if top_k is None and not leaves_some_out(top_p):
        token = ops.broadcast_to(ops.arange(vocabulary, dtype="int32"), ops.shape(logits))
    else:
        logits, token = top_logits(logits, vocabulary if top_k is None else top_k)
    logits = logits - ops.max(logits, axis=-1, keepdims=True)
    temperature = ops.maximum(ops.cast(temperature, "float32"), _LOWEST_TEMPERATURE)
    weight = ops.exp(logits / temperature)
    if leaves_some_out(top_p):
        sums = ops.cumsum(weight, axis=-1)
        sums_before = ops.pad(sums[..., :-1], ((0, 0), (0, 0), (1, 0)))
        weight = ops.where(sums_before < top_p * sums[..., -1:], weight, 0.0)
    return weight / ops.sum(weight, axis=-1, keepdims=True), token


def leaves_some_out(top_p) -> bool:
    """Whether this `top_p` asks for a sort of the vocabulary. A tensor may hold any."""
    return top_p is not None and (ops.is_tensor(top_p) or top_p != 1)


def check_sampling(temperature, top_k=None, top_p=None):
    """Raises ValueError if there is no such sampling; tensors are not looked into."""
    if not ops.is_tensor(temperature) and not 0 < temperature < math.inf:
        raise ValueError(
            "temperature must be more than 0, and finite. Received:"
            f" temperature={temperature}. Choose 1 for the model's own probabilities, or greedy"
            " search for what temperature 0 would be."
        )
    if top_k is not None and top_k < 1:
        raise ValueError(
            f"top_k must be at least 1. Received: top_k={top_k}. Choose None for all tokens."
        )
    if top_p is not None and not ops.is_tensor(top_p) and not 0 < top_p <= 1:
        raise ValueError(
            "top_p must be more than 0 and at most 1. Received:"
            f" top_p={top_p}. Choose None for all tokens."
        )


def _checked_noise(noise):
    noise = ops.convert_to_tensor(noise, dtype="float32")
    if len(noise.shape) != 3 or 0 in noise.shape[1:]:
        raise ValueError(
            "noise must have the shape (batch, beams, length), with a number for each token."
            f" Received: shape {tuple(noise.shape)}. Make it with noise_of."
        )
    return noise


def _start(state, start_id, held_to, longest, noise):
    batch, beams, _ = ops.shape(noise)
    length = as_length(ops.max(held_to.max_length, initial=1) if longest is None else longest)
    return _Search(
        position=ops.convert_to_tensor(0, dtype="int32"),
        token_ids=ops.full((batch, beams, length), PADDING_ID, dtype="int32"),
        last_ids=ops.full((batch, beams), start_id, dtype="int32"),
        log_probability=ops.zeros((batch, beams), dtype="float32"),
        num_tokens=ops.zeros((batch, beams), dtype="int32"),
        ended=ops.zeros((batch, beams), dtype="bool"),
        done=ops.zeros((batch,), dtype="bool"),
        noise=noise,
        held_to=held_to,
        state=state,
    )


def _without_what_may_not_stand(logits, search, end_id, barred_ids, new_word_ids):
    logits = without_rest_of_word(logits, search.held_to, search.position, end_id, new_word_ids)
    token = ops.arange(logits.shape[-1], dtype="int32")
    may_stand = ops.logical_not(
        ops.logical_and(
            ops.equal(token, end_id),
            end_is_too_early(search.held_to, search.position)[:, None, None],
        )
    )  # (batch, 1, vocabulary)
    for barred in barred_ids:
        may_stand = ops.logical_and(may_stand, ops.not_equal(token, barred))
    return ops.where(may_stand, logits, -math.inf)


def _number_at(noise, position):
    """The numbers of a position: Float32 (batch, beams, 1).

    Positions behind the last number can only be forced, and look at none.
    """
    last = ops.shape(noise)[2] - 1
    return take(noise, ops.minimum(position, last), axis=2)[..., None]


def _draw(probability, token, number):
    """The token at which the sum of probabilities exceeds a number: Integer (batch, beams).

    Sums are rounded. What has no probability is left out expressly, and if no sum exceeds the
    number, it is the last token that has some.
    """
    place = ops.arange(probability.shape[-1], dtype="int32")
    possible = probability > 0
    last = ops.max(ops.where(possible, place, 0), axis=-1, keepdims=True)  # (batch, beams, 1)
    exceeds = ops.logical_and(possible, ops.cumsum(probability, axis=-1) > number)
    drawn = ops.min(ops.where(exceeds, place, last), axis=-1, keepdims=True)
    return gather_rows(token, drawn)[..., 0]


def _log_probability(logits, token):
    """The model's own, at temperature 1: Float32 (batch, beams)."""
    normalizer = log_normalizer(logits, ops.max(logits, axis=-1, keepdims=True))
    return (gather_rows(logits, token[..., None]) - normalizer)[..., 0]


def _with_tokens(search, token, gained, end_id, state):
    """The search one position later; what has ended stays as it is."""
    token = ops.where(search.ended, PADDING_ID, token)
    ended = ops.logical_or(search.ended, ops.equal(token, end_id))
    return search._replace(
        position=search.position + 1,
        token_ids=write_token(search.token_ids, token, search.position),
        last_ids=token,
        log_probability=search.log_probability + ops.where(search.ended, 0.0, gained),
        num_tokens=search.num_tokens + ops.cast(ops.logical_not(search.ended), "int32"),
        ended=ended,
        done=ops.all(ended, axis=1),
        state=state,
    )
