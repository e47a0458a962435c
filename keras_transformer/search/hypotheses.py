"""The results of a search and their scores."""

import math
from typing import NamedTuple

from keras import ops

from keras_transformer.masks import PADDING_ID
from keras_transformer.search.shapes import as_length
from keras_transformer.tensors import Tensor

# Below any possible log-probability, yet finite, so that sums remain comparable.
IMPOSSIBLE = -1e9

LENGTH_NORMALIZATIONS = ("gnmt", "length")


class Hypotheses(NamedTuple):
    """The results of a search, best first.

    Attributes:
        token_ids: Integer (batch, beams, length), without the start id; padding after the end id.
        scores: Float32 (batch, beams), the log-probability of the tokens, including the end,
            divided by the length penalty; `IMPOSSIBLE` in beams without a result.
    """

    token_ids: Tensor
    scores: Tensor


def length_penalty_of(
    num_tokens: Tensor, alpha: float | Tensor, length_normalization: str = "gnmt"
) -> Tensor:
    """Returns lp(Y), by which to divide a log-probability to get a score.

    "gnmt": ((5 + |Y|) / 6) ** alpha. Source: section 6.1, which takes it from Wu et al. 2016,
        equation 14.
    "length": |Y| ** alpha; alpha = 1 gives the mean log-probability of a token.

    Args:
        num_tokens: |Y|, Integer tensor, including the end.
        alpha: A number or a tensor, 0 or more; 0 for no penalty, 0.6 in the paper.
        length_normalization: "gnmt" or "length".

    Returns:
        Float32, the shape of `num_tokens`.
    """
    num_tokens = ops.cast(num_tokens, "float32")
    return ((5.0 + num_tokens) / 6.0 if length_normalization == "gnmt" else num_tokens) ** alpha


def check_length_penalty(alpha: float | Tensor, length_normalization: str = "gnmt") -> None:
    """Raises ValueError if either argument is invalid; skips an alpha that is a tensor."""
    if not ops.is_tensor(alpha) and not 0 <= alpha < math.inf:
        raise ValueError(
            "length_penalty must be 0 or more, and finite. Received:"
            f" length_penalty={alpha}. Choose 0 for no penalty; the paper uses 0.6."
        )
    if length_normalization not in LENGTH_NORMALIZATIONS:
        raise ValueError(
            f"length_normalization must be one of {LENGTH_NORMALIZATIONS}. Received:"
            f" length_normalization={length_normalization!r}. Choose 'gnmt', as in the paper."
        )


def no_tokens(max_length: Tensor, beams: int, longest: int | Tensor | None = None) -> Tensor:
    """Returns room for hypotheses, all padding: Integer (batch, beams, length).

    Args:
        max_length: Integer (batch,), the most tokens of each sentence.
        beams: Hypotheses of each sentence.
        longest: The length; None for the largest `max_length`.
    """
    length = as_length(ops.max(max_length, initial=1) if longest is None else longest)
    return ops.full((ops.shape(max_length)[0], beams, length), PADDING_ID, dtype="int32")


def write_token(token_ids: Tensor, token: Tensor, position: Tensor) -> Tensor:
    """Returns the ids with `token` at `position`.

    Args:
        token_ids: Integer (..., length).
        token: Integer (...).
        position: Integer scalar.
    """
    place = ops.arange(ops.shape(token_ids)[-1], dtype="int32")  # (length,)
    return ops.where(ops.equal(place, position), token[..., None], token_ids)
