"""Which tokens a hypothesis may go on with, and how probable they are."""

import math

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


def best_tokens(
    logits, num_tokens, held_to: Constraints, position, end_id, barred_ids, new_word_ids=()
):
    """The most probable tokens that may stand next.

    The order of tokens is the same before and after the softmax, so they are picked first, and
    only they get probabilities. Tokens that are barred are dropped after that: there are few, and
    the logits of all others need not be touched.

    Args:
        logits: Float (batch, beams, vocabulary).
        num_tokens: How many are asked for.
        held_to: What each sentence is held to.
        position: Integer scalar.
        end_id: The token that ends a sentence.
        barred_ids: Tokens that may never stand, but where they are forced.
        new_word_ids: The tokens that begin a word.

    Returns:
        (log-probability Float32 (batch, beams, candidates), token Integer (batch, beams,
        candidates)): all of the `num_tokens` best, in no order, and some others; `IMPOSSIBLE`
        or less where a token may not stand. Where one is forced, it alone may.
    """
    logits = ops.cast(logits, "float32")
    allowed = without_rest_of_word(logits, held_to, position, end_id, new_word_ids)
    logit, token = top_logits(allowed, num_tokens + len(barred_ids) + 1)
    if allowed is logits:
        normalizer = log_normalizer(logits, logit[..., :1], token[..., :1])
    else:
        normalizer = log_normalizer(logits, ops.max(logits, axis=-1, keepdims=True))

    log_probability = logit - normalizer
    if barred_ids:
        barred = np.zeros(logits.shape[-1], "float32")
        barred[list(barred_ids)] = IMPOSSIBLE
        log_probability = log_probability + take(barred, token)
    too_early = ops.logical_and(
        ops.equal(token, end_id), end_is_too_early(held_to, position)[:, None, None]
    )
    log_probability = ops.where(too_early, IMPOSSIBLE, log_probability)

    forced = forced_token(held_to, position, end_id)[:, None]  # (batch, 1)
    only_forced = gather_for_all_beams(logits, forced) - normalizer  # (batch, beams, 1)
    first = ops.equal(ops.arange(token.shape[-1], dtype="int32"), 0)
    only_forced = ops.where(first, only_forced, IMPOSSIBLE)
    forced = forced[:, None]  # (batch, 1, 1)
    is_forced = ops.not_equal(forced, PADDING_ID)
    return (
        ops.where(is_forced, only_forced, log_probability),
        ops.where(is_forced, forced, token),
    )


def log_normalizer(logits, maximum, most_probable=None):
    """log sum exp(logits), what makes log-probabilities out of logits.

    Every v has log p[v] = logits[v] - log_normalizer. Solved for the most probable one, which is
    far from 0: a softmax is one fast operation, the exponentials and their sum are several.

    Args:
        logits: Float32 (..., vocabulary).
        maximum: Float32 (..., 1), the largest of them.
        most_probable: Integer (..., 1), where it stands; None if that is not known, which costs
            another look at all of them.

    Returns:
        Float32 (..., 1).
    """
    probabilities = ops.softmax(logits)
    if most_probable is None:
        largest = ops.max(probabilities, axis=-1, keepdims=True)
    else:
        largest = gather_rows(probabilities, most_probable)
    return maximum - ops.log(largest)


def top_logits(logits, num_tokens):
    """The largest logits and their tokens, the largest first, of equal ones the lowest token.

    Looking for the largest of a block is much cheaper than sorting. No more than `num_tokens`
    blocks can hold the `num_tokens` largest logits: those with the largest maxima. They alone are
    sorted.

    Args:
        logits: Float32 (batch, beams, vocabulary).
        num_tokens: How many; all if there are fewer.

    Returns:
        (Float32 (batch, beams, num_tokens), Integer (batch, beams, num_tokens)).
    """
    _, beams, vocabulary = logits.shape
    num_tokens = min(num_tokens, vocabulary)
    length = _block_length(vocabulary, num_tokens)
    num_blocks = -(-vocabulary // length)
    if num_blocks <= 2 * num_tokens:
        return _top_k(logits, num_tokens)
    missing = num_blocks * length - vocabulary
    if missing:
        logits = ops.pad(logits, ((0, 0), (0, 0), (0, missing)), constant_values=-math.inf)
    blocks = ops.reshape(logits, (-1, beams, num_blocks, length))
    _, block = _top_k(ops.max(blocks, axis=-1), num_tokens)  # (batch, beams, num_tokens)
    # In the order of tokens, which decides between equal logits.
    block = -_top_k(-block, num_tokens)[0]
    candidates = gather_rows(blocks, block)  # (batch, beams, num_tokens, length)
    candidates = ops.reshape(candidates, (-1, beams, num_tokens * length))
    logit, index = _top_k(candidates, num_tokens)
    block = gather_rows(block, index // length)
    return logit, block * length + index % length


def _block_length(vocabulary, num_tokens):
    """The length at which the fewest numbers are sorted, or a divisor of the vocabulary near it.

    Those are vocabulary / length maxima, then num_tokens * length candidates.
    """
    ideal = math.isqrt(vocabulary // num_tokens)
    near = range(max(1, ideal // 2), 2 * ideal + 1)
    divisors = [length for length in near if vocabulary % length == 0]
    return min(divisors or [ideal], key=lambda length: abs(length - ideal))


def _top_k(x, k):
    values, indices = ops.top_k(x, k)
    return values, ops.cast(indices, "int32")
