"""Numbered epochs of numbered batches, for `model.fit`."""

import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transformer.data.ranges import check_at_least
from keras_transformer.data.shares import weighted_share_of
from keras_transformer.data.token_lines import Batch
from keras_transformer.errors import InputError
from keras_transformer.forks import check_not_forked

if TYPE_CHECKING:
    import tensorflow as tf

# fit looks at one batch before it starts. Reading ahead must then not reach the end of the epoch,
# which would count the epoch as done: shorter epochs than this are not read ahead.
_FEWEST_BATCHES_TO_PREFETCH = 16


class Epochs:
    """Epochs of equally many batches, each read by its number.

    Args:
        batch: Returns a batch, given the numbers of the epoch and of the batch, both from 0.
        num_batches: The number of batches in an epoch.
        accumulation_steps: The number of parts into which each batch is divided, for an optimizer
            with as many `gradient_accumulation_steps`. Weights make the mean of the parts' losses
            equal the batch's. The methods below then count parts as batches. Parts have equally
            many rows; blank rows fill up the last ones. fit's `loss`, which weighs by rows, counts
            blank rows; metrics of tokens do not.
        num_pairs: The number of pairs in an epoch; None if unknown.

    Attributes:
        fault: The last exception while reading a batch, or None. TensorFlow passes on only its
            message.
    """

    def __init__(
        self,
        batch: Callable[[int, int], Batch],
        num_batches: int,
        accumulation_steps: int = 1,
        num_pairs: int | None = None,
    ) -> None:
        check_at_least(1, num_batches=num_batches, accumulation_steps=accumulation_steps)
        self._batch = batch
        self._num_parts = accumulation_steps
        self._num_batches = num_batches
        self.num_pairs = num_pairs
        self.fault: Exception | None = None

    def __len__(self) -> int:
        """The number of batches, or parts of batches, that `fit` sees in an epoch."""
        return self._num_batches * self._num_parts

    @property
    def has_weights(self) -> bool:
        """Whether batches come with weights."""
        return self._num_parts > 1

    def batch(self, epoch: int, index: int) -> tuple[Any, ...]:
        """Returns a batch of an epoch, both counted from 0.

        Returns:
            `({"source_ids", "target_ids"}, labels)`, see `PairBatches.batch`; with several parts
            also weights, Float32 (rows,).
        """
        number, part = divmod(index, self._num_parts)
        try:
            batch = self._batch(epoch, number)
        except Exception as error:
            self.fault = error
            raise
        return weighted_share_of(batch, part, self._num_parts) if self.has_weights else batch

    def stream(self, first_epoch: int = 0, first_batch: int = 0) -> Iterator[tuple[Any, ...]]:
        """Returns the batches of endless epochs as arrays, for any Keras backend.

        Args:
            first_epoch: The number of the first epoch, from 0.
            first_batch: The number of the first batch in that epoch, from 0.
        """
        _silence_shuffle_warning()
        return (
            self.batch(epoch, index)
            for epoch in itertools.count(first_epoch)
            for index in range(first_batch if epoch == first_epoch else 0, len(self))
        )

    def dataset(self, first_epoch: int = 0, first_batch: int = 0) -> "tf.data.Dataset":
        """Makes a dataset of known cardinality, of which each iteration is the next epoch.

        An iteration counts as an epoch once it reaches the last batch, so the one batch that `fit`
        looks at before it starts does not count.

        Args:
            first_epoch: The number of the first epoch, from 0, to resume a run.
            first_batch: The number of batches of that epoch that are done. If not 0, the dataset
                holds only the rest of that epoch.

        Raises:
            InputError: There is no such epoch or batch.
            RuntimeError: The process was forked from one that had used TensorFlow.
        """
        check_not_forked()
        import tensorflow as tf

        _silence_shuffle_warning()
        check_at_least(0, first_epoch=first_epoch, first_batch=first_batch)
        if first_batch >= len(self):
            raise InputError(
                f"first_batch must be less than the {len(self)} batches of an epoch."
                f" Received: first_batch={first_batch}. Begin with the next epoch."
            )
        reader = _Reader(self, first_epoch, goes_on=not first_batch)
        # TensorFlow keeps Python functions forever, but text and threads must end with the dataset.
        reference: Callable[[], Any] = weakref.ref(reader)
        types = [tf.int32] * 3 + [tf.float32] * self.has_weights

        def read(index: "tf.Tensor") -> tuple[Any, ...]:
            arrays = tf.numpy_function(lambda i: reference().arrays(i), [index], types)
            source_ids, target_ids, labels, *weights = arrays
            for ids in (source_ids, target_ids, labels):
                ids.set_shape((None, None))
            for weight in weights:
                weight.set_shape((None,))
            return {"source_ids": source_ids, "target_ids": target_ids}, labels, *weights

        # Not Dataset.from_generator, with which malloc keeps returning memory to the system, so
        # that training pays for new pages in each step.
        dataset = tf.data.Dataset.range(first_batch, len(self)).map(read)
        if len(self) - first_batch >= _FEWEST_BATCHES_TO_PREFETCH:
            dataset = dataset.prefetch(2)
        dataset = without_tuning(dataset)
        dataset._keras_transformer_reader = reader  # derived datasets refer to this one
        return dataset


def without_tuning(dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    """Returns the dataset without tf.data's tuning thread.

    That thread sleeps for up to a minute, and an iterator waits for it at the end of each epoch.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _silence_shuffle_warning() -> None:
    """Silences fit's warning that its default `shuffle=True` has no effect: epochs are shuffled."""
    warnings.filterwarnings("ignore", "`shuffle=True` was passed, but will be ignored", UserWarning)


class _Reader:
    """Reads batches of one epoch; with `goes_on`, also those of the following epochs."""

    def __init__(self, epochs: Epochs, first_epoch: int, *, goes_on: bool) -> None:
        self._epochs, self._epoch, self._goes_on = epochs, first_epoch, goes_on

    def arrays(self, index: int) -> list[np.ndarray]:
        inputs, *others = self._epochs.batch(self._epoch, int(index))
        if self._goes_on and index == len(self._epochs) - 1:
            self._epoch += 1  # now, since nobody asks for a batch after the last one
        return [inputs["source_ids"], inputs["target_ids"], *others]
