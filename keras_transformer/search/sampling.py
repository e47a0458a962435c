"""Sampling: draws each next token by its probability."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from keras import ops

from keras_transformer.gathering import gather_rows, take
from keras_transformer.masks import PADDING_ID
from keras_transformer.search.choice import log_normalizer, top_logits
from keras_transformer.search.constraints import (
    constraints,
    end_is_too_early,
    forced_token,
    without_rest_of_word,
)
from keras_transformer.search.hypotheses import Hypotheses, check_length_penalty
from keras_transformer.search.independent import Search, run_search, start_search, with_token
from keras_transformer.search.state import DecodingState, Step
from keras_transformer.tensors import Tensor

# Unequal logits differ by more than this, so lower temperatures would draw the same tokens; float32
# cannot divide by a number below 1e-38.
_LOWEST_TEMPERATURE = 1e-30


def sample(
    step: Step,
    state: DecodingState,
    *,
    start_id: int,
    end_id: int,
    max_length: Tensor,
    noise: Tensor,
    longest: int | Tensor | None = None,
    temperature: float | Tensor = 1.0,
    top_k: int | None = None,
    top_p: float | Tensor | None = None,
    length_penalty: float | Tensor = 0.6,
    length_normalization: str = "gnmt",
    min_length: int | Tensor = 0,
    prefix: Tensor | None = None,
    new_word: Tensor | None = None,
    barred_ids: Sequence[int] = (),
    new_word_ids: Sequence[int] = (),
) -> Hypotheses:
    """Draws token after token until the end.

    P(token) is proportional to exp(logit / temperature) among the tokens that the constraints, then
    `top_k`, then `top_p` leave. Each beam is an independent sample; two may be equal. The random
    numbers are an argument, one for each token, so a sentence's samples do not depend on its batch.

    Source: Fan et al. 2018, section 5.1 (`top_k`); Holtzman et al. 2020, section 3.1 (`top_p`).

    Args:
        step: As in `beam_search`.
        state: DecodingState for the first step, with as many beams as `noise`.
        start_id, end_id, max_length, longest, min_length, prefix, new_word, barred_ids,
            new_word_ids: As in `beam_search`.
        noise: Float (batch, beams, length), uniform over [0, 1), as from `noise_of`. A sample has
            at most `length` tokens, unless its prefix is as long.
        temperature: More than 0. Lower values draw the most probable token more often.
        top_k: Draws only from the `top_k` most probable tokens, 1 or more; None for all.
        top_p: Draws only from the fewest most probable tokens that together have this probability,
            more than 0 and at most 1; 1 or None for all. Without `top_k`, this sorts the vocabulary
            at each step.
        length_penalty, length_normalization: As in `beam_search`; they change the scores, not the
            draws.

    Returns:
        Hypotheses in the order of the draws. As in beam search, scores come from the model's own
        probabilities over the whole vocabulary, at temperature 1.

    Raises:
        ValueError: If `noise` has a different shape or a number is out of its range. Skips the
            check for `temperature`, `top_p` and `length_penalty` if they are tensors.
    """
    check_length_penalty(length_penalty, length_normalization)
    check_sampling(temperature, top_k, top_p)
    noise = _checked_noise(noise)

    def advance(search: Search) -> Search:
        logits, state = step(search.last_ids, search.state)
        logits = ops.cast(logits, "float32")  # (batch, beams, vocabulary)
        probability, token = distribution(
            _allowed(logits, search, end_id, barred_ids, new_word_ids),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        drawn = _draw(probability, token, _number_at(search.noise, search.position))
        forced = forced_token(search.held_to, search.position, end_id)[:, None]  # (batch, 1)
        token = ops.where(ops.equal(forced, PADDING_ID), drawn, forced)
        return with_token(search, token, _log_probability(logits, token), end_id, state)

    _, beams, length = ops.shape(noise)
    max_length = ops.minimum(ops.convert_to_tensor(max_length, dtype="int32"), length)
    held_to = constraints(max_length, min_length, prefix, new_word)
    start = start_search(state, start_id, held_to, longest, beams, noise)
    return run_search(advance, start, length_penalty, length_normalization)


def noise_of(seed: int, sentences: Iterable[int], num_samples: int, length: int) -> np.ndarray:
    """Makes the random numbers for `sample`, the same for a sentence in any batch.

    A number depends only on the seed, its sentence, its sample and its position.

    Args:
        seed: Integer, 0 or more.
        sentences: Integer (batch,), the index of each sentence in the whole text, 0 or more.
        num_samples: Samples of each sentence, one per beam.
        length: The most tokens in a sample.

    Returns:
        Float32 NumPy array (batch, beams, length), uniform over [0, 1).

    Raises:
        ValueError: If the seed or the index of a sentence is negative.
    """
    sentences = [int(sentence) for sentence in sentences]
    if min([seed, *sentences]) < 0:
        raise ValueError(
            "The seed and the sentences' indices must be 0 or more. Received:"
            f" seed={seed}, lowest index {min(sentences, default=None)}. Count from 0."
        )
    noise = np.empty((len(sentences), num_samples, length), "float32")
    for of_sentence, sentence in zip(noise, sentences, strict=True):
        for number, of_sample in enumerate(of_sentence):
            np.random.default_rng([seed, sentence, number]).random(dtype="float32", out=of_sample)
    return noise


def distribution(
    logits: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    top_k: int | None = None,
    top_p: float | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns P(token) for the tokens to draw from, and 0 for others.

    Args:
        logits: Float32 (batch, beams, vocabulary), -inf where a token is not allowed.
        temperature, top_k, top_p: As in `sample`.

    Returns:
        (probability Float32 (batch, beams, candidates), token Integer (batch, beams, candidates)):
        most probable first if `top_k` or `top_p` is used, else in the order of tokens. Ties go to
        the lowest tokens.
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


def leaves_some_out(top_p: float | Tensor | None) -> bool:
    """Whether `top_p` may exclude tokens, so that sampling must sort; a tensor may."""
    return top_p is not None and (ops.is_tensor(top_p) or top_p != 1)


def check_sampling(
    temperature: float | Tensor, top_k: int | None = None, top_p: float | Tensor | None = None
) -> None:
    """Raises ValueError if a number is out of its range; skips the check for tensors."""
    if not ops.is_tensor(temperature) and not 0 < temperature < math.inf:
        raise ValueError(
            "temperature must be more than 0, and finite. Received:"
            f" temperature={temperature}. Choose 1 for the model's own probabilities, or use"
            " greedy search instead of temperature 0."
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


def _checked_noise(noise: Tensor) -> Tensor:
    noise = ops.convert_to_tensor(noise, dtype="float32")
    if len(noise.shape) != 3 or 0 in noise.shape[1:]:
        raise ValueError(
            "noise must have the shape (batch, beams, length), with a number for each token."
            f" Received: shape {tuple(noise.shape)}. Make it with noise_of."
        )
    return noise


def _allowed(
    logits: Tensor,
    search: Search,
    end_id: int,
    barred_ids: Sequence[int],
    new_word_ids: Sequence[int],
) -> Tensor:
    """Returns the logits, with -inf for tokens that the constraints or `barred_ids` forbid."""
    logits = without_rest_of_word(logits, search.held_to, search.position, end_id, new_word_ids)
    token = ops.arange(logits.shape[-1], dtype="int32")  # (vocabulary,)
    too_early = end_is_too_early(search.held_to, search.position)[:, None, None]  # (batch, 1, 1)
    forbidden = ops.logical_and(ops.equal(token, end_id), too_early)  # (batch, 1, vocabulary)
    for barred in barred_ids:
        forbidden = ops.logical_or(forbidden, ops.equal(token, barred))
    return ops.where(forbidden, -math.inf, logits)


def _number_at(noise: Tensor, position: Tensor) -> Tensor:
    """Returns the random numbers of a position, Float32 (batch, beams, 1).

    Positions after the last number have forced tokens, and get the last number.
    """
    last = ops.shape(noise)[2] - 1
    return take(noise, ops.minimum(position, last), axis=2)[..., None]


def _draw(probability: Tensor, token: Tensor, number: Tensor) -> Tensor:
    """Returns the first token whose cumulative probability exceeds the number: (batch, beams).

    Sums are rounded. So tokens of probability 0 are excluded explicitly, and if no sum exceeds the
    number, the last of the other tokens is drawn.
    """
    place = ops.arange(probability.shape[-1], dtype="int32")  # (candidates,)
    possible = probability > 0
    last = ops.max(ops.where(possible, place, 0), axis=-1, keepdims=True)  # (batch, beams, 1)
    exceeds = ops.logical_and(possible, ops.cumsum(probability, axis=-1) > number)
    drawn = ops.min(ops.where(exceeds, place, last), axis=-1, keepdims=True)  # (batch, beams, 1)
    return gather_rows(token, drawn)[..., 0]  # (batch, beams)


def _log_probability(logits: Tensor, token: Tensor) -> Tensor:
    """Returns the log-probability of a token at temperature 1, Float32 (batch, beams)."""
    return (gather_rows(logits, token[..., None]) - log_normalizer(logits))[..., 0]
