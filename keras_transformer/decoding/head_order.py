"""Splitting and joining heads by picking rows, which TensorFlow does faster than transposing."""

from typing import NamedTuple

import numpy as np
from keras import ops

from keras_transformer.tensors import Tensor


class HeadOrder(NamedTuple):
    """The indices that reorder rows between beams before heads and heads before beams.

    A row is one head of one hypothesis. Projections give rows in the order (batch, beams, heads);
    attention takes all beams of a head at once, (batch, heads, beams). `parts_first` reorders
    query, key and value together.

    Attributes:
        heads_first: Integer (batch, heads, beams), rows of (batch, beams, heads).
        parts_first: Integer (3, batch, heads, beams), rows of (batch, beams, 3, heads).
        beams_first: Integer (batch, beams, heads), rows of (batch, heads, beams).
    """

    heads_first: Tensor
    parts_first: Tensor
    beams_first: Tensor


def head_order(batch: int | Tensor, heads: int, beams: int) -> HeadOrder:
    """Makes the order for `batch` sentences."""
    head, beam = np.arange(heads, dtype="int32")[:, None], np.arange(beams, dtype="int32")
    part = np.arange(3, dtype="int32")[:, None, None, None]
    first_row = ops.arange(batch, dtype="int32")[:, None, None] * (heads * beams)
    return HeadOrder(
        heads_first=first_row + (beam * heads + head),
        parts_first=3 * first_row + ((beam * 3 + part) * heads + head),
        beams_first=first_row + (head * beams + beam).T,
    )
