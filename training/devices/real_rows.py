"""Makes the `loss` that `fit` reports count only rows of text, not the blank rows of a batch."""

import threading

import keras
from keras import ops

from keras_transformer.losses import sum_over_replicas
from keras_transformer.masks import padding_mask


class LossOfRealRows(keras.metrics.Mean):
    """The mean of the batches' losses, each weighted by its number of rows with labels.

    Keras weights a batch by its number of rows. Blank rows must not count, or the mean would depend
    on how many devices share the batches. Keras first gives this metric the loss, and then gives
    the labels to `compute_metrics`, so the metric keeps the loss until the labels come.

    The state is that of Keras' own metric, so that checkpoints fit both.
    """

    def __init__(self):
        super().__init__(name="loss")
        # TensorFlow runs each replica of a process in a thread, and all share this object.
        self._waiting = threading.local()

    def update_state(self, values, sample_weight=None):
        """Keeps a batch's loss for `weigh`; ignores `sample_weight`, the number of all rows."""
        self._waiting.loss = values

    def weigh(self, labels):
        """Adds the loss that `update_state` kept.

        Args:
            labels: Integer (batch, length), or this replica's share of these rows.
        """
        has_labels = ops.any(padding_mask(labels), axis=1)  # (batch,)
        num_rows = sum_over_replicas(ops.sum(ops.cast(has_labels, "float32")))
        super().update_state(getattr(self._waiting, "loss", 0.0), num_rows / _num_replicas())


def weigh_real_rows(model: keras.Model) -> None:
    """Makes a compiled model report the loss of real rows. Call this before the model is built."""
    tracker = LossOfRealRows()
    compute_metrics = model.compute_metrics

    def weigh_and_compute_metrics(x, y, y_pred, sample_weight=None):
        tracker.weigh(y)
        return compute_metrics(x, y, y_pred, sample_weight)

    # Keras' own __setattr__ would list the metric a second time.
    object.__setattr__(model, "_loss_tracker", tracker)
    object.__setattr__(model, "compute_metrics", weigh_and_compute_metrics)


def _num_replicas() -> int:
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
