"""The best next tokens of each hypothesis, and their log-probabilities."""

import math
from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_transformer.gathering import gather_for_all_beams, gather_rows, take
from keras_transformer.masks import PADDING_ID
from keras_transformer.search.constraints import (
    Constraints,
    end_is_too_early,
    forced_token,
    without_rest_of_word,
)
from keras_transformer.search.hypotheses import IMPOSSIBLE
from keras_transformer.tensors import Tensor


def best_tokens(
    logits: Tensor,
    num_tokens: int,
    held_to: Constraints,
    position: Tensor,
    end_id: int,
    barred_ids: Sequence[int],
    new_word_ids: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Finds the most probable tokens allowed next.

    Softmax keeps the order of tokens, so the best are picked from the logits, and only these get
    probabilities. Barred tokens are few, so they are ruled out afterwards.

    Args:
        logits: Float (batch, beams, vocabulary).
        num_tokens: The number of tokens to find.
        held_to: The constraints of each sentence.
        position: Integer scalar.
        end_id: The token that ends a sentence.
        barred_ids: Tokens that are never allowed, unless forced.
        new_word_ids: The tokens that begin a word.

    Returns:
        (log-probability Float32 (batch, beams, candidates), token Integer (batch, beams,
        candidates)): the `num_tokens` best and some others, in no particular order; `IMPOSSIBLE` or
        less where a token is not allowed. A forced token is the only one allowed.
    """
    logits = ops.cast(logits, "float32")
    allowed = without_rest_of_word(logits, held_to, position, end_id, new_word_ids)
    num_candidates = num_tokens + len(barred_ids) + 1
    logit, token = top_logits(allowed, num_candidates)  # each (batch, beams, candidates)
    best = (logit[..., :1], token[..., :1]) if allowed is logits else ()
    normalizer = log_normalizer(logits, *best)  # (batch, beams, 1)

    log_probability = logit - normalizer
    if barred_ids:
        barred = np.zeros(logits.shape[-1], "float32")  # (vocabulary,)
        barred[list(barred_ids)] = IMPOSSIBLE
        log_probability = log_probability + take(barred, token)
    too_early = ops.logical_and(
        ops.equal(token, end_id), end_is_too_early(held_to, position)[:, None, None]
    )
    log_probability = ops.where(too_early, IMPOSSIBLE, log_probability)

    forced = forced_token(held_to, position, end_id)[:, None]  # (batch, 1)
    only_forced = gather_for_all_beams(logits, forced) - normalizer  # (batch, beams, 1)
    first = ops.equal(ops.arange(token.shape[-1], dtype="int32"), 0)  # (candidates,)
    only_forced = ops.where(first, only_forced, IMPOSSIBLE)  # (batch, beams, candidates)
    forced = forced[:, None]  # (batch, 1, 1)
    is_forced = ops.not_equal(forced, PADDING_ID)
    return (
        ops.where(is_forced, only_forced, log_probability),
        ops.where(is_forced, forced, token),
    )


def log_normalizer(
    logits: Tensor, maximum: Tensor | None = None, most_probable: Tensor | None = None
) -> Tensor:
    """Returns log sum exp(logits), so that log p[v] = logits[v] - log_normalizer.

    Solves that equation for the most probable token, whose probability is far from 0: softmax is
    one fast operation, while exponentials and their sum are several.

    Args:
        logits: Float32 (..., vocabulary).
        maximum: Float32 (..., 1), the largest logit.
        most_probable: Integer (..., 1), its token. Either may be None, which costs another pass
            over the vocabulary.

    Returns:
        Float32 (..., 1).
    """
    probabilities = ops.softmax(logits)
    if most_probable is None:
        largest = ops.max(probabilities, axis=-1, keepdims=True)
    else:
        largest = gather_rows(probabilities, most_probable)
    if maximum is None:
        maximum = ops.max(logits, axis=-1, keepdims=True)
    return maximum - ops.log(largest)


def top_logits(logits: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Returns the largest logits and their tokens, largest first; ties go to the lowest token.

    Finding the maximum of a block is much cheaper than sorting it. The `num_tokens` largest logits
    lie in the `num_tokens` blocks with the largest maxima, so only these blocks are sorted.

    Args:
        logits: Float32 (batch, beams, vocabulary).
        num_tokens: The number of logits to return, at most the whole vocabulary.

    Returns:
        (logit Float32 (batch, beams, num_tokens), token Integer (batch, beams, num_tokens)).
    """
    _, beams, vocabulary = logits.shape
    num_tokens = min(num_tokens, vocabulary)
    length = _block_length(vocabulary, num_tokens)
    num_blocks = -(-vocabulary // length)
    if num_blocks <= 2 * num_tokens:
        return top_k(logits, num_tokens)
    missing = num_blocks * length - vocabulary
    if missing:
        logits = ops.pad(logits, ((0, 0), (0, 0), (0, missing)), constant_values=-math.inf)
    blocks = ops.reshape(logits, (-1, beams, num_blocks, length))
    _, block = top_k(ops.max(blocks, axis=-1), num_tokens)  # (batch, beams, num_tokens)
    block = -top_k(-block, num_tokens)[0]  # in the order of tokens, so that ties go to the lowest
    candidates = gather_rows(blocks, block)  # (batch, beams, num_tokens, length)
    candidates = ops.reshape(candidates, (-1, beams, num_tokens * length))
    logit, index = top_k(candidates, num_tokens)  # (batch, beams, num_tokens)
    block = gather_rows(block, index // length)
    return logit, block * length + index % length


def _block_length(vocabulary: int, num_tokens: int) -> int:
    """Returns the block length with the fewest numbers to sort, or a nearby divisor of vocabulary.

    The search sorts vocabulary / length maxima, then num_tokens * length candidates.
    """
    ideal = math.isqrt(vocabulary // num_tokens)
    near = range(max(1, ideal // 2), 2 * ideal + 1)
    divisors = [length for length in near if vocabulary % length == 0]
    return min(divisors or [ideal], key=lambda length: abs(length - ideal))


def top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`ops.top_k` with int32 indices, which TensorFlow gathers by."""
    values, indices = ops.top_k(x, k)
    return values, ops.cast(indices, "int32")
