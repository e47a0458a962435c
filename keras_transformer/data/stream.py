"""From texts of any size to endless batches, in bounded memory and a reproducible order.

Pairs are read in blocks. A random part of each block is held back and mixed into the next ones, so
shuffling crosses the borders of blocks; a thread prepares the next block while the current one is
in use. The order depends only on the seed, so a resumed run rereads and drops the batches that it
has trained on.
"""

import contextlib
import functools
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_transformer.data.batches_by_length import PlannedBatch, StreamPlan
from keras_transformer.data.corpus import Corpus
from keras_transformer.data.epochs import Epochs
from keras_transformer.data.filters import PairFilter
from keras_transformer.data.ranges import check_at_least, check_batch_settings
from keras_transformer.data.read_ahead import read_ahead
from keras_transformer.data.token_lines import Batch, TokenLines, TokenPairs
from keras_transformer.errors import InputError

if TYPE_CHECKING:
    from keras_transformer.text.tokenizer_pair import Tokenizer, TokenizerSide

# Pairs to read and encode at once.
_PAIRS_PER_CHUNK = 8192

# The buffer holds a block and pairs held back from earlier blocks. With smaller blocks it holds
# back more pairs, and copies them more often.
_BLOCKS_PER_BUFFER = 5

# Batches kept because they may be read again: fit looks at one before it starts, and tf.data has
# read a few more by then.
_BATCHES_KEPT = 16


class PairStream:
    """Endless batches of texts of any size, as `pair_batches` streams them.

    At its end, a text starts again with its files in a different order. A single text finishes each
    pass before the next; pairs that do not fill a batch of their shape wait for the next pass. From
    several texts, pairs are drawn by weight, and their passes overlap.

    Pairs enter the buffer in blocks. With each block, a random fifth of the buffer leaves it, so a
    pair waits for 0.8 * buffer_pairs others on average, some for none and some for many more. A
    text no larger than a block is shuffled as a whole.

    Example, on JAX without TensorFlow:
        >>> stream = PairStream([Corpus("*.en.gz", "*.de.gz")], tokenizer)
        >>> model.fit(stream.batches(), steps_per_epoch=1000, epochs=20)

    Args:
        corpora: The texts.
        tokenizer: Makes the ids.
        max_tokens, max_length, max_length_ratio: As for `PairBatches`.
        seed: Determines the order, and the sampled splits of lines.
        shuffle: False reads files in order, and yields all of each block at once, from short pairs
            to long ones.
        sampling: The rate at which lines are split differently each time; see
            `SubwordTokenizer.sample`. 0 always splits them the same way.
        buffer_pairs: Pairs to hold for shuffling, as ids: 100 MB for 500,000 pairs of 25 sub-words
            a side, and about four times as much while blocks are mixed.

    Raises:
        InputError: A file is missing, or a setting is out of range. Faults within files, and texts
            without usable pairs, are reported only when the stream reaches them.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        tokenizer: "Tokenizer",
        max_tokens: int = 4096,
        *,
        seed: int = 0,
        shuffle: bool = True,
        max_length: int = 256,
        max_length_ratio: float | None = None,
        sampling: float = 0.0,
        buffer_pairs: int = 500_000,
    ) -> None:
        check_batch_settings(
            max_tokens=max_tokens,
            max_length=max_length,
            max_length_ratio=max_length_ratio,
            seed=seed,
        )
        check_at_least(1, buffer_pairs=buffer_pairs)
        if not 0 <= sampling < np.inf:
            raise InputError(
                "sampling must be at least 0."
                f" Received: sampling={sampling}. Choose 0.1, for example, or 0 for none."
            )
        for corpus in corpora:
            corpus.files()  # names a missing file now, not in the middle of a run
        self._settings = _Settings(
            tuple(corpora),
            tokenizer,
            max_tokens,
            seed,
            shuffle,
            min(max_length, max_tokens),
            max_length_ratio,
            sampling,
            buffer_pairs,
        )
        self._recent = _RecentBatches(functools.partial(_batches, self._settings))

    def batches(self, skip: int = 0) -> Iterator[Batch]:
        """Yields batches without end, the same ones each time.

        Args:
            skip: The number of batches to skip. They still have to be read and planned.

        Yields:
            Batches as `PairBatches.batch` returns them; all of one shape have equally many rows.

        Raises:
            InputError: A file has a fault, or no pair of a text is kept.
        """
        return _batches(self._settings, skip)

    def epochs(self, steps_per_epoch: int, accumulation_steps: int = 1) -> Epochs:
        """Returns epochs of `steps_per_epoch` batches, for `model.fit`; see `Epochs`.

        Consecutive epochs are read once; going back means reading again from the start.
        """
        check_at_least(1, steps_per_epoch=steps_per_epoch)

        def batch(epoch: int, index: int) -> Batch:
            return self._recent.batch(epoch * steps_per_epoch + index)

        return Epochs(batch, steps_per_epoch, accumulation_steps)


@dataclass(frozen=True)
class _Settings:
    """The settings of a stream; `longest` is in tokens, including the end id."""

    corpora: tuple[Corpus, ...]
    tokenizer: "Tokenizer"
    max_tokens: int
    seed: int
    shuffle: bool
    longest: int
    max_length_ratio: float | None
    sampling: float
    buffer_pairs: int


class _Block(NamedTuple):
    """Pairs that leave the buffer together, and their batches."""

    pairs: TokenPairs
    plan: list[PlannedBatch]


def _batches(settings: _Settings, skip: int) -> Iterator[Batch]:
    """`PairStream.batches`, as a function, so that the thread does not keep the stream alive."""
    start_id, end_id = settings.tokenizer.start_id, settings.tokenizer.end_id
    with contextlib.closing(read_ahead(_Blocks(settings).blocks)) as blocks:
        for block in blocks:
            for planned in block.plan[skip:]:
                yield block.pairs.batch(planned, start_id, end_id)
            skip = max(0, skip - len(block.plan))
            del block


class _RecentBatches:
    """The batches of a stream by number, for readers that sometimes go back a little."""

    def __init__(self, batches: Callable[[int], Iterator[Batch]]) -> None:
        self._batches = batches
        self._lock = threading.Lock()
        self._go_to(0)

    def batch(self, number: int) -> Batch:
        """Returns the batch with this number: kept, read next, or read again from the start."""
        with self._lock:
            if not self._next - len(self._kept) <= number <= self._next:
                self._go_to(number)
            if number == self._next:
                self._kept.append(next(self._stream))
                self._next += 1
            return self._kept[number - self._next]

    def _go_to(self, number: int) -> None:
        self._stream = self._batches(number)
        self._next = number
        self._kept: deque[Batch] = deque(maxlen=_BATCHES_KEPT)


class _Blocks:
    """Reads blocks of pairs, mixes each with pairs held back, and plans its batches."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings
        self._readers = [_Reader(settings, number) for number in range(len(settings.corpora))]
        self._plan = StreamPlan(settings.max_tokens, settings.longest)
        weights = np.array([corpus.weight for corpus in settings.corpora])
        self._shares = weights / weights.sum()

    def blocks(self, is_stopped: Callable[[], bool]) -> Iterator[_Block]:
        """Yields blocks until `is_stopped()`; see `read_ahead`."""
        held = TokenPairs.concatenate([])
        for number in itertools.count():
            chunks = []
            for chunk in self._read(self._block_pairs(number)):
                if is_stopped():
                    return
                chunks.append(chunk)
            block, held = self._mix(held, TokenPairs.concatenate(chunks), number)
            del chunks
            yield block
            del block

    def _block_pairs(self, number: int) -> int:
        """Returns how many pairs a block reads: few at first, so that training starts soon."""
        most = -(-self._settings.buffer_pairs // _BLOCKS_PER_BUFFER)
        enough_for_some_batches = max(_PAIRS_PER_CHUNK, 2 * self._settings.max_tokens)
        return min(most, enough_for_some_batches * 2 ** min(number, 20))

    def _read(self, num_pairs: int) -> Iterator[TokenPairs]:
        """Yields about `num_pairs` pairs in chunks; fewer at the end of a single text's pass."""
        for reader, wanted in zip(self._readers, self._wanted(num_pairs), strict=True):
            while wanted > 0:
                num_lines, chunk = reader.read(min(wanted, _PAIRS_PER_CHUNK))
                yield chunk
                wanted -= num_lines
                if reader.is_at_end and len(self._readers) == 1:
                    return

    def _wanted(self, num_pairs: int) -> list[int]:
        """Returns how many pairs of each text to read so that the kept pairs match the weights."""
        kept = np.array([reader.num_kept for reader in self._readers])
        missing = np.maximum(self._shares * (kept.sum() + num_pairs) - kept, 0)
        return np.ceil(missing * (num_pairs / missing.sum())).astype(int).tolist()

    def _mix(self, held: TokenPairs, read: TokenPairs, number: int) -> tuple[_Block, TokenPairs]:
        """Makes a block of some of the pairs, with its batches, and holds back the rest."""
        pairs = TokenPairs.concatenate([held, read])
        source_lengths, target_lengths = pairs.lengths
        self._plan.see(source_lengths[held.num_pairs :], target_lengths[held.num_pairs :])
        rng = np.random.default_rng([self._settings.seed, number])
        drawn, others = self._draw(pairs.num_pairs, read.num_pairs, rng)
        plan, left_over = self._plan.fill(
            source_lengths[drawn],
            target_lengths[drawn],
            rng if self._settings.shuffle else None,
        )
        rows = [np.zeros(0, int), *(drawn[batch.rows] for batch in plan)]
        ends = np.cumsum([len(batch) for batch in rows])
        plan = [
            planned._replace(rows=np.arange(first, end))
            for planned, first, end in zip(plan, ends[:-1], ends[1:], strict=True)
        ]
        held = pairs.take(np.concatenate([others, drawn[left_over]]))
        return _Block(pairs.take(np.concatenate(rows)), plan), held

    def _draw(
        self, num_pairs: int, num_read: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws the indices of the pairs for this block, and of those to hold back."""
        is_end = len(self._readers) == 1 and self._readers[0].is_at_end
        if is_end or not self._settings.shuffle:
            return np.arange(num_pairs), np.zeros(0, int)
        most_held = self._settings.buffer_pairs * (_BLOCKS_PER_BUFFER - 1) // _BLOCKS_PER_BUFFER
        num_drawn = max(-(-num_read // 2), num_pairs - most_held)
        drawn, others = np.split(rng.permutation(num_pairs), [num_drawn])
        return drawn, others


class _Reader:
    """Reads a text, pass after pass, into ids of the pairs kept; reports on each pass."""

    # Set by `_begin_pass`.
    is_at_end: bool
    _pass: int
    _num_chunks: int
    _lines: Iterator[tuple[str, str]]
    _filter: PairFilter

    def __init__(self, settings: _Settings, number: int) -> None:
        self._settings, self._number = settings, number
        self._corpus = settings.corpora[number]
        self._num_kept_before = 0
        self._begin_pass(0)

    @property
    def num_kept(self) -> int:
        """The number of pairs kept in all passes."""
        return self._num_kept_before + self._filter.num_kept

    def read(self, num_pairs: int) -> tuple[int, TokenPairs]:
        """Reads at most to the end of the pass; returns the number of pairs, and those kept."""
        if self.is_at_end:
            self._num_kept_before += self._filter.num_kept
            self._begin_pass(self._pass + 1)
        lines = list(itertools.islice(self._lines, num_pairs))
        pairs = self._encode(lines)
        self.is_at_end = len(lines) < num_pairs
        if self.is_at_end:
            self._report()
        return len(lines), pairs

    def _begin_pass(self, number: int) -> None:
        files = self._corpus.files()
        if self._settings.shuffle:
            order = self._rng_seed(number).generate_state(1)
            files = [files[place] for place in np.random.default_rng(order).permutation(len(files))]
        self._pass, self.is_at_end, self._num_chunks = number, False, 0
        self._lines = self._corpus.pairs(files)
        self._filter = PairFilter(self._settings.longest, self._settings.max_length_ratio)

    def _encode(self, lines: list[tuple[str, str]]) -> TokenPairs:
        sides = self._filter.not_blank([one for one, _ in lines], [other for _, other in lines])
        seeds = self._rng_seed(self._pass, self._num_chunks + 1).generate_state(2)
        self._num_chunks += 1
        tokenizer = self._settings.tokenizer
        tokenizers = tokenizer.source, tokenizer.target
        pairs = TokenPairs(*map(self._encode_side, sides, tokenizers, seeds.tolist()))
        return pairs.take(self._filter.kept(*pairs.lengths))

    def _encode_side(self, lines: list[str], tokenizer: "TokenizerSide", seed: int) -> TokenLines:
        rate = self._settings.sampling
        if rate:
            return TokenLines.of(tokenizer.sample(lines, rate, seed=seed))
        return TokenLines.encode(lines, tokenizer)

    def _rng_seed(self, *what: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self._settings.seed, self._number], spawn_key=what)

    def _report(self) -> None:
        """Logs which pairs the pass dropped: a warning for the first pass, info for later ones."""
        self._filter.require_some(str(self._corpus))
        self._filter.report(
            f"{self._corpus}, pass {self._pass + 1}, {self._filter.num_pairs} pairs: ",
            logging.INFO if self._pass else logging.WARNING,
        )
