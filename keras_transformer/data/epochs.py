"""Numbered epochs of numbered batches, as `model.fit` takes them."""

import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from keras_transformer.data.ranges import check_at_least
from keras_transformer.data.shares import weighted_share_of
from keras_transformer.data.token_lines import Batch
from keras_transformer.errors import InputError
from keras_transformer.forks import check_not_forked

if TYPE_CHECKING:
    import tensorflow as tf

# fit looks at one batch before it starts, and reading ahead must not carry that look to the end of
# the epoch, which would count as one epoch done. Fewer batches than this are not read ahead.
_FEWEST_BATCHES_TO_PREFETCH = 16


class Epochs:
    """Epochs of equally many batches, each to be had by its number.

    Args:
        batch: Given the number of an epoch and of a batch in it, both from 0, returns the batch.
        num_batches: How many batches each epoch has.
        accumulation_steps: Each batch is handed out in so many parts, one after the other, with
            weights that make the mean of their losses that of the batch; for an optimizer of
            `gradient_accumulation_steps`. What is said of batches below is said of these parts.
            They are equally long, the last filled up with blank rows where need be. fit's `loss`,
            which weighs a batch by its rows, counts these; metrics of tokens do not.
        num_pairs: How many pairs each epoch has; None where that is not known.

    Attributes:
        fault: What reading a batch has raised last, or None. TensorFlow hands on its words alone.
    """

    def __init__(
        self,
        batch: Callable[[int, int], Batch],
        num_batches: int,
        accumulation_steps: int = 1,
        num_pairs: int | None = None,
    ):
        check_at_least(1, num_batches=num_batches, accumulation_steps=accumulation_steps)
        self._batch = batch
        self._num_parts = accumulation_steps
        self._num_batches = num_batches
        self.num_pairs = num_pairs
        self.fault: Exception | None = None

    def __len__(self) -> int:
        """How many batches `fit` meets in an epoch."""
        return self._num_batches * self._num_parts

    @property
    def has_weights(self) -> bool:
        """Whether batches come with weights."""
        return self._num_parts > 1

    def batch(self, epoch: int, index: int) -> tuple:
        """A batch of an epoch, both counted from 0.

        Returns:
            `({"source_ids", "target_ids"}, labels)`; see `PairBatches.batch`. Of several parts
            also weights, Float32 (rows,).
        """
        number, part = divmod(index, self._num_parts)
        try:
            batch = self._batch(epoch, number)
        except Exception as error:
            self.fault = error
            raise
        return weighted_share_of(batch, part, self._num_parts) if self.has_weights else batch

    def stream(self, first_epoch: int = 0, first_batch: int = 0) -> Iterator[tuple]:
        """The batches of all epochs without end, as arrays: for any Keras backend.

        Args:
            first_epoch: The number of the first epoch, from 0.
            first_batch: How many of its batches are left out, because they are done.
        """
        _fit_need_not_warn()
        return (
            self.batch(epoch, index)
            for epoch in itertools.count(first_epoch)
            for index in range(first_batch if epoch == first_epoch else 0, len(self))
        )

    def dataset(self, first_epoch: int = 0, first_batch: int = 0) -> "tf.data.Dataset":
        """A dataset of known cardinality, of which each iteration is an epoch.

        Each iteration that reaches its last batch is one epoch, and the next iteration is the next
        epoch, in another order. An iteration that is broken off before (`fit` looks at one batch
        before it starts) is not counted.

        Args:
            first_epoch: The number of the first epoch, from 0: where a training is taken up.
            first_batch: How many batches of that epoch are done. If any, the dataset holds the
                rest of that one epoch and no other.

        Raises:
            InputError: There is no such epoch or batch.
            RuntimeError: In a process forked from one that has used TensorFlow.
        """
        check_not_forked()
        import tensorflow as tf

        _fit_need_not_warn()
        check_at_least(0, first_epoch=first_epoch, first_batch=first_batch)
        if first_batch >= len(self):
            raise InputError(
                f"first_batch must be less than the {len(self)} batches of an epoch. "
                f"Received: first_batch={first_batch}. Begin with the next epoch."
            )
        reader = _Reader(self, first_epoch, goes_on=not first_batch)
        # TensorFlow never forgets a Python function. Text and threads shall go with the dataset.
        reference = weakref.ref(reader)
        types = [tf.int32] * 3 + [tf.float32] * self.has_weights

        def read(index):
            arrays = tf.numpy_function(lambda i: reference().arrays(i), [index], types)
            source_ids, target_ids, labels, *weights = arrays
            for ids in (source_ids, target_ids, labels):
                ids.set_shape((None, None))
            for weight in weights:
                weight.set_shape((None,))
            return {"source_ids": source_ids, "target_ids": target_ids}, labels, *weights

        # Not Dataset.from_generator: TensorFlow then has malloc hand memory back to the system all
        # the time, and the training pays for new pages in each step.
        dataset = tf.data.Dataset.range(first_batch, len(self)).map(read)
        if len(self) - first_batch >= _FEWEST_BATCHES_TO_PREFETCH:
            dataset = dataset.prefetch(2)
        dataset = without_tuning(dataset)
        dataset._keras_transformer_reader = reader  # each dataset made of this one refers to it
        return dataset


def without_tuning(dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    """The dataset without the thread by which tf.data tunes it while it runs.

    That thread sleeps for up to a minute, and what ends an iterator, as each epoch does, waits.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _fit_need_not_warn() -> None:
    """Has Python leave out fit's warning that `shuffle=True`, its default, does nothing here.

    These batches bring their own order, new in each epoch.
    """
    warnings.filterwarnings("ignore", "`shuffle=True` was passed, but will be ignored", UserWarning)


class _Reader:
    """Batches of the first epoch of which the last batch has not been asked for.

    Without `goes_on`, it stays at the one epoch.
    """

    def __init__(self, epochs: Epochs, first_epoch: int, *, goes_on: bool):
        self._epochs = epochs
        self._epoch = first_epoch
        self._goes_on = goes_on

    def arrays(self, index: int) -> list[np.ndarray]:
        inputs, *others = self._epochs.batch(self._epoch, int(index))
        if self._goes_on and index == len(self._epochs) - 1:
            self._epoch += 1  # now, because nothing asks for what follows the last
        return [inputs["source_ids"], inputs["target_ids"], *others]
