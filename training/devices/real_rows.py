"""fit's `loss` over rows of text alone, where blank rows fill up a batch."""

import threading

import keras
from keras import ops

from keras_transformer.losses import sum_over_replicas
from keras_transformer.masks import padding_mask


class LossOfRealRows(keras.metrics.Mean):
    """The mean of the batches' losses, each weighed by its rows that have labels.

    Keras weighs a batch by its number of rows. Blank rows must not count, or the mean would depend
    on how many devices share the batches. Keras hands this metric the loss and its step goes on
    with `compute_metrics`, which is handed the labels: one waits for the other.

    The state is that of Keras' own, so that checkpoints fit both.
    """

    def __init__(self):
        super().__init__(name="loss")
        # TensorFlow runs the replicas of a process in a thread each, and they share this object.
        self._taken = threading.local()

    def update_state(self, values, sample_weight=None):
        """Takes the loss of a batch; `sample_weight`, its number of rows, is not used."""
        self._taken.loss = values

    def weigh(self, labels):
        """Adds the loss that was taken last.

        Args:
            labels: Integer (batch, length), or on each replica its share of the rows.
        """
        has_labels = ops.any(padding_mask(labels), axis=1)  # (batch,)
        num_rows = sum_over_replicas(ops.sum(ops.cast(has_labels, "float32")))
        super().update_state(getattr(self._taken, "loss", 0.0), num_rows / _num_replicas())


def weigh_real_rows(model: keras.Model) -> None:
    """Makes a compiled model report the loss of real rows; to be called before it is built."""
    tracker = LossOfRealRows()
    compute_metrics = model.compute_metrics

    def weigh_and_compute_metrics(x, y, y_pred, sample_weight=None):
        tracker.weigh(y)
        return compute_metrics(x, y, y_pred, sample_weight)

    _set(model, "_loss_tracker", tracker)
    _set(model, "compute_metrics", weigh_and_compute_metrics)


def _set(model, name, value):
    """Past Keras' own __setattr__, which would list the metric once more."""
    object.__setattr__(model, name, value)


def _num_replicas() -> int:
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
