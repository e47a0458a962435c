"""What files of named tensors have in common, whatever their format."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Header(NamedTuple):
    """What a file declares about one of its arrays."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Tensors(NamedTuple):
    """An open file of tensors.

    Attributes:
        headers: What the file declares about each tensor, by name.
        read: Reads the tensor of a name. Half precision becomes float32.
    """

    headers: Mapping[str, Header]
    read: Callable[[str], np.ndarray]


def from_bfloat16(halves: np.ndarray) -> np.ndarray:
    """Converts bfloat16 numbers, given as uint16 (...), to float32 (...)."""
    return (halves.astype("<u4") << 16).view("<f4")
