"""Text pairs -> batches of a token budget, in few shapes and a repeatable order.

A pair of lines is encoded once and kept as ids. Pairs of similar lengths share a cell of a coarse
grid; all batches of a cell have one shape, so that a compiled model meets few shapes. The order is
a function of (seed, epoch), so that a training run can be broken off and gone on with.

Axis words: batch = pairs of one batch, source_length and target_length = sub-words of the longest.
"""

import gzip
import itertools
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Union

import numpy as np

from keras_transformer.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_transformer.tokenizer import SubwordTokenizer

PathName = Union[str, "os.PathLike[str]"]
Batch = tuple[dict[str, np.ndarray], np.ndarray]

_LOGGER = logging.getLogger("keras_transformer")

# Lines encoded by one call of the tokenizer: enough to be fast, few enough to stay small.
_LINES_PER_CALL = 8192

# A cell makes batches of its own from this share of the text on, which bounds the shapes to about
# 35 however large the text is. Measured on Multi30k (29,000 pairs, 10,000 sub-words) with 4,096
# tokens a batch: 7.6% padding in 22 shapes; without the bound 5.4% in 50; with a grid of every
# fourth length 11.6% in 14.
_SMALLEST_SHARE = 0.03

# fit looks at one batch before it starts, and reading ahead must not carry that look to the end of
# the epoch, which would count as one epoch done. Fewer batches than this are not read ahead.
_FEWEST_BATCHES_TO_PREFETCH = 16


def read_lines(path: PathName) -> list[str]:
    r"""Reads a text file, plain or .gz; lines end at \n or \r\n and nowhere else.

    Args:
        path: The file, in UTF-8.

    Returns:
        The lines without their ends. A line may be empty.

    Raises:
        InputError: The file can't be read, is cut short, is not UTF-8, holds a NUL byte, or holds
            nothing but blank lines.
    """
    lines = []
    for number, line in enumerate(_split_lines(_read_bytes(path)), start=1):
        if b"\0" in line:
            raise InputError(
                f"{path}:{number}: a line must be text in UTF-8. Received: a NUL byte. "
                "Convert the file to UTF-8 (UTF-16 has NUL bytes), or remove the byte."
            )
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}:{number}: a line must be valid UTF-8. "
                f"Received: byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line. "
                "Convert the file to UTF-8."
            ) from error
    if not any(line.strip() for line in lines):
        raise InputError(
            f"{path}: must hold at least one line of text. "
            f"Received: {f'{len(lines)} blank lines' if lines else 'an empty file'}. "
            "Check the path."
        )
    return lines


def read_pairs(source_path: PathName, target_path: PathName) -> tuple[list[str], list[str]]:
    """Reads two files whose lines are translations of each other.

    Args:
        source_path: The source side; see `read_lines`.
        target_path: The target side.

    Returns:
        The source lines and the target lines, equally many.

    Raises:
        InputError: A file is at fault, or they differ in their number of lines.
    """
    source, target = read_lines(source_path), read_lines(target_path)
    if len(source) != len(target):
        raise InputError(
            f"{source_path} and {target_path} must have the same number of lines. "
            f"Received: {len(source)} and {len(target)} lines. "
            "Line n of one must be the translation of line n of the other."
        )
    return source, target


def describe_os_error(error: OSError) -> str:
    """What went wrong with a file, in words: "No such file or directory"."""
    return error.strerror or str(error)


def _read_bytes(path: PathName) -> bytes:
    try:
        data = Path(path).read_bytes()
        return gzip.decompress(data) if str(path).endswith(".gz") else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: must be a whole gzip file. Received: {error}. Copy or pack the file again."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: must be a file that can be read. "
            f"Received: {describe_os_error(error)}. Check the path."
        ) from error


def _split_lines(data: bytes) -> list[bytes]:
    """Not bytes.splitlines, which also ends a line at a lone carriage return."""
    *lines, rest = data.split(b"\n")
    lines = [line.removesuffix(b"\r") for line in lines]
    return [*lines, rest] if rest else lines


@dataclass(frozen=True)
class TokenLines:
    """The ids of many lines in one flat array, which holds millions of lines in little memory.

    Attributes:
        ids: Int32 (total,), the ids of all lines one after the other, without start and end ids.
        offsets: Int64 (lines + 1,), where each line begins in `ids`, and the total.
    """

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def encode(cls, lines: Sequence[str], tokenizer: "SubwordTokenizer") -> "TokenLines":
        """Encodes lines, many at a time."""
        ids, lengths = [np.zeros(0, "int32")], []
        for start in range(0, len(lines), _LINES_PER_CALL):
            encoded = tokenizer.encode(lines[start : start + _LINES_PER_CALL])
            lengths.extend(map(len, encoded))
            ids.append(np.fromiter(itertools.chain.from_iterable(encoded), "int32"))
        return cls(np.concatenate(ids), np.cumsum([0, *lengths], dtype="int64"))

    @property
    def lengths(self) -> np.ndarray:
        """Int64 (lines,), without start and end ids."""
        return np.diff(self.offsets)

    def padded(self, rows: np.ndarray, length: int) -> np.ndarray:
        """The ids of some lines as one array, with padding behind them.

        Args:
            rows: Int (batch,), the lines wanted.
            length: The width, at least the length of the longest.

        Returns:
            Int32 (batch, length).
        """
        begins = self.offsets[rows][:, np.newaxis]  # (batch, 1)
        ends = self.offsets[rows + 1][:, np.newaxis]
        positions = begins + np.arange(length)  # (batch, length)
        padded = np.zeros(positions.shape, "int32")
        inside = positions < ends
        padded[inside] = self.ids[positions[inside]]
        return padded


class PlannedBatch(NamedTuple):
    """Which pairs make a batch, and the shape that they are padded to.

    Attributes:
        rows: Int (batch,), numbers of pairs.
        source_length: What the source side is padded to, end id included.
        target_length: What the target side is padded to, end id included.
    """

    rows: np.ndarray
    source_length: int
    target_length: int


def length_grid(longest: int) -> np.ndarray:
    """The lengths that a side is padded to: 2, 4, ... 16, then by an eighth, up to the longest."""
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

    The lengths of `length_grid` divide the pairs into cells of (source length, target length). A
    batch of a cell has as many rows as the budget allows on both sides. A cell that holds less
    than `_SMALLEST_SHARE` of the text makes no batches and hands all its pairs to the next larger
    cell; another one hands on what is left over, too few pairs for a batch; what is left over at
    last is one batch of fewer rows. How many pairs go where depends on the lengths alone, so that
    the number of batches and their shapes are the same in each epoch.

    Source: batches by approximate length, with a number of source tokens and of target tokens,
    section 5.1 of the paper.

    Args:
        source_lengths: Int (pairs,), end ids included.
        target_lengths: Int (pairs,), end ids included.
        max_tokens: The most source tokens and the most target tokens of a batch, padding included.
        rng: Shuffles the pairs and then the batches. None keeps pairs in the order given within
            each cell, and batches from short to long.

    Returns:
        The batches; if one has fewer rows than others of its shape, it is the last.

    Raises:
        ValueError: A pair is longer than the budget.
    """
    if not len(source_lengths):
        return []
    longest = max(source_lengths.max(), target_lengths.max())
    if longest > max_tokens:
        raise ValueError(
            "max_tokens must hold the longest line and its end id. "
            f"Received: max_tokens={max_tokens}, longest={longest}. "
            "Raise max_tokens or leave such pairs out."
        )
    batches, rest = _fill_cells(_cells(source_lengths, target_lengths, rng), max_tokens)
    if rng is not None:
        batches = [batches[index] for index in rng.permutation(len(batches))]
    return [*batches, *rest]


def _cells(source_lengths, target_lengths, rng) -> dict[tuple[int, int], np.ndarray]:
    """The pairs of each cell in use, smaller cells first; the largest comes even if empty."""
    source_grid = length_grid(source_lengths.max())
    target_grid = length_grid(target_lengths.max())
    pairs = np.arange(len(source_lengths)) if rng is None else rng.permutation(len(source_lengths))
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


def _fill_cells(cells, max_tokens: int) -> tuple[list[PlannedBatch], list[PlannedBatch]]:
    """Returns the full batches, and the one that is left over at last or none."""
    batches = []
    waiting = dict(cells)
    fewest_batches = _SMALLEST_SHARE * _num_batches(cells, max_tokens)
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


def _num_batches(cells, max_tokens: int) -> float:
    """About how many batches the cells make, each cell on its own."""
    return sum(len(pairs) * max(shape) for shape, pairs in cells.items()) / max_tokens


def _next_larger(shape, waiting) -> tuple[int, int]:
    """The cell with the largest batches among those that the pairs of a cell fit in."""
    fitting = [larger for larger in waiting if larger[0] >= shape[0] and larger[1] >= shape[1]]
    return min(fitting, key=lambda larger: (max(larger), sum(larger)))


class PairBatches:
    """The batches of a training text as NumPy arrays: what any Keras backend trains on.

    Example, on JAX without TensorFlow:
        >>> batches = PairBatches(*read_pairs("train.en", "train.de"), tokenizer)
        >>> model.fit(batches.stream(), steps_per_epoch=len(batches), epochs=20)

    Args:
        source: The source lines.
        target: The target lines, equally many.
        tokenizer: Its ids are what the batches hold.
        max_tokens: The most source tokens and the most target tokens of a batch, padding included.
        seed: With the number of the epoch, decides the order.
        shuffle: False gives the same order in each epoch, from short pairs to long ones.
        max_length: The longest line that is kept, in tokens, end id included.

    Raises:
        InputError: No pair is left to train on, or a setting is out of range.
    """

    def __init__(
        self,
        source: Sequence[str],
        target: Sequence[str],
        tokenizer: "SubwordTokenizer",
        max_tokens: int = 4096,
        *,
        seed: int = 0,
        shuffle: bool = True,
        max_length: int = 256,
    ):
        _check_at_least(2, max_tokens=max_tokens, max_length=max_length)  # a word and the end id
        _check_at_least(0, seed=seed)
        self._max_tokens, self._seed, self._shuffle = max_tokens, seed, shuffle
        self._start_id, self._end_id = tokenizer.start_id, tokenizer.end_id
        source, target = _drop_blank(source, target)
        self._source = TokenLines.encode(source, tokenizer)
        self._target = TokenLines.encode(target, tokenizer)
        self._kept = _kept_pairs(self._lengths(), min(max_length, max_tokens))
        self._num_batches = len(self.plan(0))

    def __len__(self) -> int:
        """The number of batches, the same in each epoch."""
        return self._num_batches

    @property
    def num_pairs(self) -> int:
        """The number of pairs in each epoch: those left out are not counted."""
        return len(self._kept)

    def plan(self, epoch: int) -> list[PlannedBatch]:
        """Which pairs make which batch in an epoch; see `plan_batches`."""
        source_lengths, target_lengths = self._lengths()
        plan = plan_batches(
            source_lengths[self._kept],
            target_lengths[self._kept],
            self._max_tokens,
            np.random.default_rng([self._seed, epoch]) if self._shuffle else None,
        )
        return [batch._replace(rows=self._kept[batch.rows]) for batch in plan]

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yields the batches of an epoch.

        Args:
            number: The epoch, from 0.

        Yields:
            `({"source_ids", "target_ids"}, labels)`, int32 (batch, source_length), (batch,
            target_length) and (batch, target_length). The source ends with the end id, target_ids
            begin with the start id, labels are target_ids moved by one and end with the end id.
        """
        return map(self._batch, self.plan(number))

    def stream(self, first_epoch: int = 0) -> Iterator[Batch]:
        """Yields the batches of all epochs without end; see `epoch`."""
        for number in itertools.count(first_epoch):
            yield from self.epoch(number)

    def dataset(self, first_epoch: int = 0, first_batch: int = 0) -> "tf.data.Dataset":
        """The batches as a `tf.data.Dataset` of known cardinality, to hand to `model.fit`.

        Each iteration that reaches its last batch is one epoch, and the next iteration is the next
        epoch, in another order. An iteration that is broken off before (`fit` looks at one batch
        before it starts) is not counted.

        Args:
            first_epoch: The number of the first epoch, from 0: where a training is taken up.
            first_batch: How many batches of that epoch are done. If any, the dataset holds the
                rest of that one epoch and no other.
        """
        import tensorflow as tf

        _check_at_least(0, first_epoch=first_epoch, first_batch=first_batch)
        reader = _EpochReader(self, first_epoch)

        def read(index):
            ids = tf.numpy_function(reader.batch, [index], [tf.int32] * 3)
            for side in ids:
                side.set_shape((None, None))
            source_ids, target_ids, labels = ids
            return {"source_ids": source_ids, "target_ids": target_ids}, labels

        # Not Dataset.from_generator: TensorFlow then tells malloc to hand memory back to the
        # system all the time, and each step of the training is paid for new pages.
        dataset = tf.data.Dataset.range(first_batch, len(self)).map(read)
        num_batches = len(self) - first_batch
        return dataset.prefetch(2) if num_batches >= _FEWEST_BATCHES_TO_PREFETCH else dataset

    def _lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """End ids included."""
        return self._source.lengths + 1, self._target.lengths + 1

    def _batch(self, planned: PlannedBatch) -> Batch:
        rows, source_length, target_length = planned
        source_ids = self._with_end(self._source, rows, source_length)
        labels = self._with_end(self._target, rows, target_length)
        starts = np.full((len(rows), 1), self._start_id, "int32")
        target_ids = np.hstack([starts, self._target.padded(rows, target_length - 1)])
        return {"source_ids": source_ids, "target_ids": target_ids}, labels

    def _with_end(self, lines: TokenLines, rows: np.ndarray, length: int) -> np.ndarray:
        ids = lines.padded(rows, length)
        ids[np.arange(len(rows)), lines.lengths[rows]] = self._end_id
        return ids


def pair_batches(
    source: PathName,
    target: PathName,
    tokenizer: "SubwordTokenizer",
    max_tokens: int = 4096,
    *,
    seed: int = 0,
    shuffle: bool = True,
    first_epoch: int = 0,
    max_length: int = 256,
) -> "tf.data.Dataset":
    """`PairBatches` of two files as a `tf.data.Dataset`; see `PairBatches.dataset`.

    Args:
        source: The file of source lines, plain or .gz.
        target: The file of target lines.
        tokenizer: Its ids are what the batches hold.
        max_tokens: The most source tokens and the most target tokens of a batch, padding included.
        seed: With the number of the epoch, decides the order.
        shuffle: False gives the same order in each epoch, from short pairs to long ones.
        first_epoch: The number of the first epoch: a run that is taken up again goes on here.
        max_length: The longest line that is kept, in tokens, end id included.

    Returns:
        A dataset of known cardinality of `({"source_ids", "target_ids"}, labels)`; see
        `PairBatches.epoch`.

    Raises:
        InputError: A file is at fault, no pair is left, or a setting is out of range.
    """
    lines = read_pairs(source, target)
    batches = PairBatches(
        *lines, tokenizer, max_tokens, seed=seed, shuffle=shuffle, max_length=max_length
    )
    return batches.dataset(first_epoch)


class _EpochReader:
    """Batches by their number within the epoch; after the last comes the next epoch."""

    def __init__(self, batches: PairBatches, first_epoch: int):
        self._batches = batches
        self._epoch = first_epoch
        self._plan = batches.plan(first_epoch)

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inputs, labels = self._batches._batch(self._plan[index])
        if index == len(self._batches) - 1:
            self._epoch += 1
            self._plan = self._batches.plan(self._epoch)
        return inputs["source_ids"], inputs["target_ids"], labels


def _check_at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < least:
            raise InputError(
                f"{name} must be at least {least}. Received: {name}={value}. Choose a larger one."
            )


def _drop_blank(source: Sequence[str], target: Sequence[str]) -> tuple[list[str], list[str]]:
    """Leaves out pairs of which a side is blank: they teach to translate something to nothing."""
    if len(source) != len(target):
        raise InputError(
            "source and target must have the same number of lines. "
            f"Received: {len(source)} and {len(target)} lines. Pass lines that belong together."
        )
    pairs = zip(source, target, strict=True)
    kept = [(one, other) for one, other in pairs if one.strip() and other.strip()]
    _warn_left_out(len(source) - len(kept), "with a blank side")
    return [one for one, _ in kept], [other for _, other in kept]


def _kept_pairs(lengths: tuple[np.ndarray, np.ndarray], longest: int) -> np.ndarray:
    """Int (kept,), the numbers of the pairs that are not too long."""
    source_lengths, target_lengths = lengths
    kept = np.flatnonzero(np.maximum(source_lengths, target_lengths) <= longest)
    _warn_left_out(len(source_lengths) - len(kept), f"longer than {longest} tokens")
    if not len(kept):
        raise InputError(
            "the text must hold at least one pair that is not blank and not too long. "
            f"Received: {len(source_lengths)} pairs that are not blank, and none of at most "
            f"{longest} tokens. Raise max_length and max_tokens, or check the text."
        )
    return kept


def _warn_left_out(num_pairs: int, reason: str) -> None:
    if num_pairs:
        _LOGGER.warning("%d pairs are left out: %s.", num_pairs, reason)
