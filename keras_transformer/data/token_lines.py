"""The ids of many lines in flat arrays, and the batches made from them.

Axes: batch = pairs of a batch, source_length and target_length = sub-words of the longest line.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_transformer.data.batches_by_length import PlannedBatch

if TYPE_CHECKING:
    from keras_transformer.text.tokenizer_pair import TokenizerSide

Batch = tuple[dict[str, np.ndarray], np.ndarray]

# Lines that one call of the tokenizer encodes: enough to be fast, few enough to save memory.
_LINES_PER_CALL = 8192


@dataclass(frozen=True)
class TokenLines:
    """The ids of many lines in one flat array, which holds millions of lines in little memory.

    Attributes:
        ids: Int32 (total,), the concatenated ids of all lines, without start and end ids.
        offsets: Int64 (lines + 1,), where each line begins in `ids`, then the total.
    """

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def encode(cls, lines: Sequence[str], tokenizer: "TokenizerSide") -> "TokenLines":
        """Encodes lines."""
        starts = range(0, len(lines), _LINES_PER_CALL)
        calls = (tokenizer.encode(lines[start : start + _LINES_PER_CALL]) for start in starts)
        return cls.concatenate([cls.of(encoded) for encoded in calls])

    @classmethod
    def of(cls, encoded: Sequence[Sequence[int]]) -> "TokenLines":
        """Packs the ids of encoded lines."""
        ids = np.fromiter(itertools.chain.from_iterable(encoded), "int32")
        return cls(ids, np.cumsum([0, *map(len, encoded)], dtype="int64"))

    @classmethod
    def concatenate(cls, parts: Sequence["TokenLines"]) -> "TokenLines":
        """Joins the lines of all parts, in order."""
        ids = np.concatenate([np.zeros(0, "int32"), *(part.ids for part in parts)])
        lengths = np.concatenate([np.zeros(1, "int64"), *(part.lengths for part in parts)])
        return cls(ids, np.cumsum(lengths, dtype="int64"))

    @property
    def lengths(self) -> np.ndarray:
        """The lengths of the lines, Int64 (lines,), without start and end ids."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "TokenLines":
        """Copies the lines `rows`, Int (lines,), in that order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([np.zeros(1, "int64"), np.cumsum(lengths)])
        moved_by = self.offsets[rows] - offsets[:-1]
        return TokenLines(self.ids[np.repeat(moved_by, lengths) + np.arange(offsets[-1])], offsets)

    def padded(self, rows: np.ndarray, length: int) -> np.ndarray:
        """Returns the ids of the lines numbered `rows`, Int (batch,), padded to (batch, length)."""
        begins = self.offsets[rows][:, np.newaxis]  # (batch, 1)
        ends = self.offsets[rows + 1][:, np.newaxis]
        positions = begins + np.arange(length)  # (batch, length)
        padded = np.zeros(positions.shape, "int32")
        inside = positions < ends
        padded[inside] = self.ids[positions[inside]]
        return padded

    def padded_with_end(self, rows: np.ndarray, length: int, end_id: int) -> np.ndarray:
        """`padded`, with the end id after the last id of each line."""
        ids = self.padded(rows, length)
        ids[np.arange(len(rows)), self.lengths[rows]] = end_id
        return ids


class TokenPairs(NamedTuple):
    """The ids of both sides of many pairs.

    Attributes:
        source: The source side.
        target: The target side, with the same number of lines.
    """

    source: TokenLines
    target: TokenLines

    @classmethod
    def concatenate(cls, parts: Sequence["TokenPairs"]) -> "TokenPairs":
        """Joins the pairs of all parts, in order."""
        sides = [part.source for part in parts], [part.target for part in parts]
        return cls(*map(TokenLines.concatenate, sides))

    @property
    def num_pairs(self) -> int:
        """The number of pairs."""
        return len(self.source.offsets) - 1

    @property
    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """The lengths of source and target lines, Int64 (pairs,) each, including end ids."""
        return self.source.lengths + 1, self.target.lengths + 1

    def take(self, rows: np.ndarray) -> "TokenPairs":
        """Copies the pairs `rows`, Int (pairs,), in that order."""
        return TokenPairs(self.source.take(rows), self.target.take(rows))

    def batch(self, planned: PlannedBatch, start_id: int, end_id: int) -> Batch:
        """Makes the arrays of a batch; see `PairBatches.batch`."""
        rows, source_length, target_length = planned
        source_ids = self.source.padded_with_end(rows, source_length, end_id)
        labels = self.target.padded_with_end(rows, target_length, end_id)
        starts = np.full((len(rows), 1), start_id, "int32")
        target_ids = np.hstack([starts, self.target.padded(rows, target_length - 1)])
        return {"source_ids": source_ids, "target_ids": target_ids}, labels
