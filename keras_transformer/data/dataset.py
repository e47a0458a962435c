"""Epochs of batches -> a `tf.data.Dataset` that `model.fit` takes."""

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from keras_transformer.data.ranges import check_at_least
from keras_transformer.data.token_lines import Batch
from keras_transformer.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

# fit looks at one batch before it starts, and reading ahead must not carry that look to the end of
# the epoch, which would count as one epoch done. Fewer batches than this are not read ahead.
_FEWEST_BATCHES_TO_PREFETCH = 16


def epochs_dataset(
    batch: Callable[[int, int], Batch],
    num_batches: int,
    first_epoch: int = 0,
    first_batch: int = 0,
) -> "tf.data.Dataset":
    """A dataset of known cardinality, of which each iteration is an epoch.

    Each iteration that reaches its last batch is one epoch, and the next iteration is the next
    epoch, in another order. An iteration that is broken off before (`fit` looks at one batch
    before it starts) is not counted.

    Args:
        batch: Given the number of an epoch and of a batch in it, both from 0, returns the batch.
        num_batches: How many batches each epoch has.
        first_epoch: The number of the first epoch, from 0: where a training is taken up.
        first_batch: How many batches of that epoch are done. If any, the dataset holds the rest
            of that one epoch and no other.

    Raises:
        InputError: There is no such epoch or batch.
    """
    import tensorflow as tf

    check_at_least(0, first_epoch=first_epoch, first_batch=first_batch)
    if first_batch >= num_batches:
        raise InputError(
            f"first_batch must be less than the {num_batches} batches of an epoch. "
            f"Received: first_batch={first_batch}. Begin with the next epoch."
        )
    epochs = _Epochs(batch, first_epoch, last=None if first_batch else num_batches - 1)
    # TensorFlow never forgets a Python function. Text and threads shall go with the dataset.
    reference = weakref.ref(epochs)

    def read(index):
        ids = tf.numpy_function(lambda i: reference().batch(i), [index], [tf.int32] * 3)
        for side in ids:
            side.set_shape((None, None))
        source_ids, target_ids, labels = ids
        return {"source_ids": source_ids, "target_ids": target_ids}, labels

    # Not Dataset.from_generator: TensorFlow then has malloc hand memory back to the system all the
    # time, and the training pays for new pages in each step.
    dataset = tf.data.Dataset.range(first_batch, num_batches).map(read)
    dataset._keras_transformer_epochs = epochs  # each dataset made of this one refers to it
    num_left = num_batches - first_batch
    return dataset.prefetch(2) if num_left >= _FEWEST_BATCHES_TO_PREFETCH else dataset


class _Epochs:
    """Batches of the first epoch of which the last batch has not been asked for.

    With None for the number of that last batch, it stays at the one epoch.
    """

    def __init__(self, batch, first_epoch: int, last: int | None):
        self._batch = batch
        self._epoch = first_epoch
        self._last = last

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inputs, labels = self._batch(self._epoch, int(index))
        if index == self._last:  # now, because nothing asks for what follows the last
            self._epoch += 1
        return inputs["source_ids"], inputs["target_ids"], labels
