"""What search finds, and how it is scored."""

import math
from typing import NamedTuple

from keras import ops

# Below the log-probability of anything that can happen; finite, so that sums stay comparable.
IMPOSSIBLE = -1e9

LENGTH_NORMALIZATIONS = ("gnmt", "length")


class Hypotheses(NamedTuple):
    """The results of a search, best first.

    Attributes:
        token_ids: Integer (batch, beams, length), without the start id, with the end id, padding
            behind it.
        scores: Float32 (batch, beams), log-probability of the tokens, the end included, divided
            by the length penalty; `IMPOSSIBLE` where fewer results were found.
    """

    token_ids: object
    scores: object


def length_penalty_of(num_tokens, alpha, length_normalization="gnmt"):
    """lp(Y), what a log-probability is divided by.

    "gnmt": ((5 + |Y|) / 6) ** alpha. Source: section 6.1, which takes it from Wu et al. 2016,
        equation 14.
    "length": |Y| ** alpha, which with alpha = 1 gives the mean log-probability of a token.

    Args:
        num_tokens: Integer tensor, the end included.
        alpha: 0 for none; the paper uses 0.6. A number or a tensor.
        length_normalization: "gnmt" or "length".

    Returns:
        Float32, the shape of `num_tokens`.
    """
    num_tokens = ops.cast(num_tokens, "float32")
    return ((5.0 + num_tokens) / 6.0 if length_normalization == "gnmt" else num_tokens) ** alpha


def check_length_penalty(alpha, length_normalization="gnmt"):
    """Raises ValueError if there is no such length penalty; tensors are not looked into."""
    if not ops.is_tensor(alpha) and not 0 <= alpha < math.inf:
        raise ValueError(
            "length_penalty must be 0 or more, and finite. Received:"
            f" length_penalty={alpha}. Choose 0 for none; the paper uses 0.6."
        )
    if length_normalization not in LENGTH_NORMALIZATIONS:
        raise ValueError(
            f"length_normalization must be one of {LENGTH_NORMALIZATIONS}. Received:"
            f" length_normalization={length_normalization!r}. Choose 'gnmt', the paper's."
        )


def write_token(token_ids, token, position):
    """The same ids with `token` at `position`.

    Args:
        token_ids: Integer (..., length).
        token: Integer (...).
        position: Integer scalar.
    """
    place = ops.arange(ops.shape(token_ids)[-1], dtype="int32")
    here = ops.equal(place, position)  # (length,)
    return ops.where(here, token[..., None], token_ids)
