"""From text in memory to the batches of its epochs.

Lines are encoded once and kept as ids. The order depends only on (seed, epoch), so an interrupted
run can resume.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_transformer.data.batches_by_length import PlannedBatch, plan_batches
from keras_transformer.data.epochs import Epochs
from keras_transformer.data.filters import PairFilter
from keras_transformer.data.ranges import check_batch_settings
from keras_transformer.data.token_lines import Batch, TokenLines, TokenPairs
from keras_transformer.errors import InputError

if TYPE_CHECKING:
    from keras_transformer.text.tokenizer_pair import Tokenizer


class PairBatches:
    """The batches of a training text as NumPy arrays, for any Keras backend.

    Example, on JAX without TensorFlow:
        >>> batches = PairBatches(*read_pairs("train.en", "train.de"), tokenizer)
        >>> model.fit(batches.epochs().stream(), steps_per_epoch=len(batches), epochs=20)

    Args:
        source: The source lines.
        target: The target lines, as many as source lines.
        tokenizer: Makes the ids.
        max_tokens: The most source tokens, and the most target tokens, of a batch, including
            padding.
        seed: Determines the order, together with the epoch.
        shuffle: False gives the same order in each epoch, from short pairs to long ones.
        max_length: The longest line to keep, in tokens, including the end id.
        max_length_ratio: The largest ratio to keep between the tokens of a pair's two sides,
            without end ids; None for any.

    Raises:
        InputError: No pair is left, or a setting is out of range.
    """

    def __init__(
        self,
        source: Sequence[str],
        target: Sequence[str],
        tokenizer: "Tokenizer",
        max_tokens: int = 4096,
        *,
        seed: int = 0,
        shuffle: bool = True,
        max_length: int = 256,
        max_length_ratio: float | None = None,
    ) -> None:
        check_batch_settings(
            max_tokens=max_tokens,
            max_length=max_length,
            max_length_ratio=max_length_ratio,
            seed=seed,
        )
        if len(source) != len(target):
            raise InputError(
                "source and target must have the same number of lines."
                f" Received: {len(source)} and {len(target)} lines. Pass lines that belong"
                " together."
            )
        self._max_tokens, self._seed, self._shuffle = max_tokens, seed, shuffle
        self._start_id, self._end_id = tokenizer.start_id, tokenizer.end_id
        pair_filter = PairFilter(min(max_length, max_tokens), max_length_ratio)
        source, target = pair_filter.not_blank(source, target)
        self._pairs = TokenPairs(
            TokenLines.encode(source, tokenizer.source), TokenLines.encode(target, tokenizer.target)
        )
        self._kept = pair_filter.kept(*self._pairs.lengths)
        pair_filter.report()
        pair_filter.require_some()
        self._latest_plan = (0, self.plan(0))

    def __len__(self) -> int:
        """The number of batches, the same in each epoch."""
        return len(self._latest_plan[1])

    @property
    def num_pairs(self) -> int:
        """The number of pairs in each epoch, without the dropped ones."""
        return len(self._kept)

    def plan(self, epoch: int) -> list[PlannedBatch]:
        """Plans the pairs of each batch of an epoch; see `plan_batches`."""
        source_lengths, target_lengths = self._pairs.lengths
        plan = plan_batches(
            source_lengths[self._kept],
            target_lengths[self._kept],
            self._max_tokens,
            np.random.default_rng([self._seed, epoch]) if self._shuffle else None,
        )
        return [batch._replace(rows=self._kept[batch.rows]) for batch in plan]

    def batch(self, epoch: int, index: int) -> Batch:
        """Returns one batch of an epoch, both counted from 0.

        Returns:
            `({"source_ids", "target_ids"}, labels)`, int32 (batch, source_length), (batch,
            target_length) and (batch, target_length). source_ids end with the end id, target_ids
            begin with the start id, and labels are target_ids shifted by one, with the end id.
        """
        number, plan = self._latest_plan
        if epoch != number:
            plan = self.plan(epoch)
            self._latest_plan = (epoch, plan)
        return self._pairs.batch(plan[index], self._start_id, self._end_id)

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch; see `batch`.

        Args:
            number: The number of the epoch, from 0.
            first_batch: The number of the first batch to yield, from 0.
        """
        for index in range(first_batch, len(self)):
            yield self.batch(number, index)

    def epochs(self, accumulation_steps: int = 1) -> Epochs:
        """Returns all epochs, for `model.fit`; see `Epochs` for `accumulation_steps`."""
        return Epochs(self.batch, len(self), accumulation_steps, self.num_pairs)
