"""Groups pairs into batches of few shapes, with little padding, within a budget of tokens.

`plan_batches` takes all pairs of an epoch; `StreamPlan` takes them block by block.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# A cell with at least this share of the text makes its own batches, which limits any text to about
# 35 shapes. Padding on Multi30k (29,000 pairs, 10,000 sub-words, 4,096 tokens a batch): 7.6% in 22
# shapes; 5.4% in 50 without the limit; 11.6% in 14 with a grid of every fourth length.
_SMALLEST_SHARE = 0.03

# A stream changes its shapes if that saves this share of the tokens of all pairs so far. Saving
# less would not be worth compiling new shapes.
_WORTHWHILE_SAVING = 0.01


class PlannedBatch(NamedTuple):
    """The pairs of a batch, and the shape that they are padded to.

    Attributes:
        rows: Int (batch,), the indices of the pairs.
        source_length: The padded length of the source side, including the end id.
        target_length: The padded length of the target side, including the end id.
    """

    rows: np.ndarray
    source_length: int
    target_length: int


def length_grid(longest: int) -> np.ndarray:
    """Returns the lengths to pad to: 2, 4, ... 16, then an eighth more each, up to the longest."""
    grid = list(range(2, 17, 2))
    while grid[-1] < longest:
        grid.append(grid[-1] * 9 // 8)
    return np.unique(np.minimum(grid, longest))


def plan_batches(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    max_tokens: int,
    rng: np.random.Generator | None = None,
) -> list[PlannedBatch]:
    """Groups pairs into batches: each pair once, few shapes, within a budget of tokens.

    `length_grid` divides the pairs into cells of (source length, target length). A batch of a cell
    has as many rows as the budget allows on both sides. Pairs too few for a batch move to the next
    larger cell, as do all pairs of a cell with less than `_SMALLEST_SHARE` of the text. The pairs
    left over at the end make one smaller batch. Lengths alone determine how many pairs go where, so
    each epoch has the same number of batches and the same shapes.

    Source: batches by approximate length, with a number of source tokens and of target tokens,
    section 5.1 of the paper.

    Args:
        source_lengths: Int (pairs,), including end ids.
        target_lengths: Int (pairs,), including end ids.
        max_tokens: The most source tokens, and the most target tokens, of a batch, including
            padding.
        rng: Shuffles the pairs and then the batches. None keeps the given order of pairs within
            each cell, and batches from short to long.

    Returns:
        The batches; only the last may have fewer rows than others of its shape.

    Raises:
        ValueError: A pair is longer than the budget.
    """
    if not len(source_lengths):
        return []
    longest = max(source_lengths.max(), target_lengths.max())
    if longest > max_tokens:
        raise ValueError(
            "max_tokens must hold the longest line and its end id."
            f" Received: max_tokens={max_tokens}, longest={longest}."
            " Raise max_tokens or drop longer pairs."
        )
    batches, rest = _fill_cells(_cells(source_lengths, target_lengths, rng), max_tokens)
    return [*(batches[index] for index in _order(len(batches), rng)), *rest]


def _order(number: int, rng: np.random.Generator | None) -> np.ndarray:
    """Returns the numbers from 0 to number - 1, shuffled if there is an `rng`."""
    return np.arange(number) if rng is None else rng.permutation(number)


def _cells(
    source_lengths: np.ndarray, target_lengths: np.ndarray, rng: np.random.Generator | None
) -> dict[tuple[int, int], np.ndarray]:
    """Sorts pairs into cells, smaller cells first; the largest comes last, even if empty."""
    source_grid = length_grid(source_lengths.max())
    target_grid = length_grid(target_lengths.max())
    pairs = _order(len(source_lengths), rng)
    source_cells = np.searchsorted(source_grid, source_lengths[pairs])
    target_cells = np.searchsorted(target_grid, target_lengths[pairs])
    numbers = source_cells * len(target_grid) + target_cells
    pairs = pairs[np.argsort(numbers, kind="stable")]
    counts = np.bincount(numbers, minlength=len(source_grid) * len(target_grid))
    members = np.split(pairs, np.cumsum(counts)[:-1])
    shapes = itertools.product(source_grid.tolist(), target_grid.tolist())
    last = (int(source_grid[-1]), int(target_grid[-1]))
    return {
        shape: rows
        for shape, rows in zip(shapes, members, strict=True)
        if len(rows) or shape == last
    }


def _fill_cells(
    cells: dict[tuple[int, int], np.ndarray], max_tokens: int
) -> tuple[list[PlannedBatch], list[PlannedBatch]]:
    """Returns the full batches, and a list of the last batch if pairs are left over."""
    batches = []
    waiting = dict(cells)
    num_batches = sum(len(pairs) * max(shape) for shape, pairs in cells.items()) / max_tokens
    fewest_batches = _SMALLEST_SHARE * num_batches
    for shape in cells:
        pairs = waiting.pop(shape)
        num_rows = max_tokens // max(shape)
        num_full = len(pairs) // num_rows
        if num_full < fewest_batches and waiting:
            num_full = 0
        full, rest = np.split(pairs, [num_full * num_rows])
        batches += [PlannedBatch(rows, *shape) for rows in full.reshape(-1, num_rows)]
        if waiting and len(rest):
            larger = _next_larger(shape, waiting)
            waiting[larger] = np.concatenate([rest, waiting[larger]])
    return batches, [PlannedBatch(rest, *shape)] if len(rest) else []


def _next_larger(shape: tuple[int, int], waiting: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Returns the cell with the largest batches among those that hold pairs of this shape."""
    fitting = [larger for larger in waiting if larger[0] >= shape[0] and larger[1] >= shape[1]]
    return min(fitting, key=lambda larger: (max(larger), sum(larger)))


class StreamPlan:
    """Groups the pairs of a stream into batches of the same few shapes, block by block.

    Every batch is full, with `max_tokens // longer side` rows, to keep shapes few. Pairs that do
    not fill a batch wait for the next block.

    The shapes are the cells of `length_grid` that hold `_SMALLEST_SHARE` of all pairs seen so far,
    as in `plan_batches`, and one for the longest possible pair. The first block, which is small,
    determines them; later ones change them if that saves `_WORTHWHILE_SAVING` of the tokens,
    including padding.

    Args:
        max_tokens: The most source tokens, and the most target tokens, of a batch, including
            padding.
        longest: The longest possible line, in tokens, including the end id.
    """

    def __init__(self, max_tokens: int, longest: int) -> None:
        self._max_tokens = max_tokens
        self._grid = length_grid(longest)
        self._seen = np.zeros((len(self._grid), len(self._grid)), "int64")
        self._shapes = self._grid[[[-1, -1]]]  # (shapes, 2), ascending by size
        self._shape_of_cell = np.zeros(self._seen.shape, "int64")

    def see(self, source_lengths: np.ndarray, target_lengths: np.ndarray) -> None:
        """Counts new pairs by their lengths, Int (pairs,) with end ids; may change the shapes."""
        np.add.at(self._seen, self._cells(source_lengths, target_lengths), 1)
        shapes = self._chosen_shapes()
        shape_of_cell = self._smallest_fitting(shapes)
        now = self._num_tokens(self._shapes, self._shape_of_cell)
        if self._num_tokens(shapes, shape_of_cell) < (1 - _WORTHWHILE_SAVING) * now:
            self._shapes, self._shape_of_cell = shapes, shape_of_cell

    def fill(
        self,
        source_lengths: np.ndarray,
        target_lengths: np.ndarray,
        rng: np.random.Generator | None = None,
    ) -> tuple[list[PlannedBatch], np.ndarray]:
        """Groups pairs into full batches.

        Args:
            source_lengths: Int (pairs,), including end ids.
            target_lengths: Int (pairs,), including end ids.
            rng: As in `plan_batches`.

        Returns:
            The batches, and the indices of the pairs left over, Int (left over,).
        """
        pairs = _order(len(source_lengths), rng)
        shapes = self._shape_of_cell[self._cells(source_lengths[pairs], target_lengths[pairs])]
        pairs = pairs[np.argsort(shapes, kind="stable")]
        ends = np.cumsum(np.bincount(shapes, minlength=len(self._shapes)))
        batches, left_over = [], []
        for members, shape in zip(np.split(pairs, ends[:-1]), self._shapes.tolist(), strict=True):
            num_rows = self._max_tokens // max(shape)
            full, rest = np.split(members, [len(members) // num_rows * num_rows])
            batches += [PlannedBatch(rows, *shape) for rows in full.reshape(-1, num_rows)]
            left_over.append(rest)
        batches = [batches[index] for index in _order(len(batches), rng)]
        return batches, np.sort(np.concatenate(left_over))

    def _cells(
        self, source_lengths: np.ndarray, target_lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.searchsorted(self._grid, source_lengths),
            np.searchsorted(self._grid, target_lengths),
        )

    def _chosen_shapes(self) -> np.ndarray:
        """Chooses shapes: Int (shapes, 2), ascending by size, including the largest possible."""
        used = np.argwhere(self._seen)
        top = tuple(used.max(axis=0)) if len(used) else (0, 0)
        waiting = {
            tuple(self._grid[[*cell]].tolist()): int(self._seen[cell])
            for cell in sorted({*map(tuple, used.tolist()), tuple(map(int, top))})
        }
        enough = _SMALLEST_SHARE * sum(
            num_pairs * max(shape) for shape, num_pairs in waiting.items()
        )
        chosen = {(int(self._grid[-1]),) * 2}
        for shape in list(waiting):
            num_pairs = waiting.pop(shape)
            if not waiting or num_pairs * max(shape) >= max(enough, self._max_tokens):
                chosen.add(shape)
            else:
                waiting[_next_larger(shape, waiting)] += num_pairs
        return np.array(sorted(chosen, key=lambda shape: (sum(shape), max(shape))))

    def _smallest_fitting(self, shapes: np.ndarray) -> np.ndarray:
        """Returns the first shape that holds each cell, Int (source cells, target cells)."""
        holds_source = shapes[:, 0, np.newaxis] >= self._grid  # (shapes, source cells)
        holds_target = shapes[:, 1, np.newaxis] >= self._grid  # (shapes, target cells)
        fits = holds_source[:, :, np.newaxis] & holds_target[:, np.newaxis, :]
        return np.argmax(fits, axis=0)  # (source cells, target cells)

    def _num_tokens(self, shapes: np.ndarray, shape_of_cell: np.ndarray) -> int:
        """Returns the number of tokens of all pairs seen, including padding."""
        return int((self._seen * shapes.sum(axis=1)[shape_of_cell]).sum())
