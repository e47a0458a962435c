"""The training loss: label-smoothed cross-entropy over real tokens (5.4).

Shapes: labels Integer (batch, length), logits Float (batch, length, vocabulary). Padding is id 0.
"""

from typing import Any

import keras
from keras import ops

from keras_transformer.config import check_below_1
from keras_transformer.custom_gradients import with_gradient
from keras_transformer.masks import padding_mask
from keras_transformer.tensors import Tensor


@keras.saving.register_keras_serializable(package="keras_transformer")
class LabelSmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy against labels that give a little probability to every token.

    For each token with label y and p = softmax(logits):

        loss = -(1 - label_smoothing) * log p[y] - label_smoothing / vocabulary * sum_v log p[v]

    and 0 where the label is padding. Its gradient with respect to the logits is
    `p - (1 - label_smoothing) * one_hot(y) - label_smoothing / vocabulary`.

    Source: section 5.4, "Label Smoothing", epsilon_ls = 0.1, after Szegedy et al. (2015),
    section 7: the smoothing mass is spread evenly over the whole vocabulary, the label itself
    and the padding id included.

    Deviation: the paper does not say how a batch is reduced. We divide the sum by the batch's
    real tokens, so that the size of an update depends neither on padding nor on the number of
    sentences in the batch.

    Args:
        label_smoothing: epsilon_ls, at least 0 and below 1. 0 gives plain cross-entropy.
        reduction: "mean_over_tokens" divides the sum over the batch by its number of real tokens
            (at least 1, so that a batch of padding alone costs 0). None returns the loss of each
            token.
        name: The name of the loss.

    Call arguments:
        y_true: Labels, Integer (batch, length).
        y_pred: Logits, Float (batch, length, vocabulary); cast to float32.
        sample_weight: Optional factor of each sentence, Float (batch,), or of each token, Float
            (batch, length). It scales the losses but not the number of tokens.

    Returns:
        Float (), or Float (batch, length) if `reduction` is None.

    Raises:
        ValueError: If `label_smoothing` is outside [0, 1) or `reduction` is unknown.

    Example:
        model.compile(optimizer, loss=LabelSmoothedCrossentropy(label_smoothing=0.1))
    """

    def __init__(
        self,
        label_smoothing: float = 0.1,
        reduction: str | None = "mean_over_tokens",
        name: str = "label_smoothed_crossentropy",
    ) -> None:
        check_below_1(label_smoothing=label_smoothing)
        if reduction not in ("mean_over_tokens", None):
            raise ValueError(
                f"reduction must be 'mean_over_tokens' or None. Received: reduction={reduction!r}."
                " Choose None to reduce the losses of the tokens yourself."
            )
        super().__init__(name=name, reduction=None, dtype="float32")
        self.label_smoothing = label_smoothing
        self.reduction = reduction

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        # Keras' version would convert ids to floats, apply the implicit mask of y_pred and divide
        # by batch * length.
        losses = self.call(y_true, y_pred)
        if sample_weight is not None:
            losses = losses * per_token(sample_weight)
        if self.reduction is None:
            return losses
        return ops.sum(losses) / self.num_tokens(y_true)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        labels, logits = ops.cast(y_true, "int32"), ops.cast(y_pred, "float32")
        losses = smoothed_crossentropy(labels, logits, self.label_smoothing)  # (batch, length)
        return ops.where(padding_mask(labels), losses, 0.0)

    def num_tokens(self, labels: Tensor) -> Tensor:
        """Returns the number by which to divide the summed losses, Float (), at least 1.

        Each replica divides by the tokens of all replicas. Optimizers sum the replicas' gradients,
        so the update is that of the whole batch.
        """
        return ops.maximum(sum_over_replicas(ops.sum(real_tokens(labels))), 1.0)

    def get_config(self) -> dict[str, Any]:
        return {
            "label_smoothing": self.label_smoothing,
            "reduction": self.reduction,
            "name": self.name,
        }


def smoothed_crossentropy(labels: Tensor, logits: Tensor, label_smoothing: float) -> Tensor:
    """Computes the formula of LabelSmoothedCrossentropy for each token, including padding.

    Each pass over the vocabulary is expensive. So the softmax is computed once and kept, and the
    gradient is a formula: three times faster on a CPU than differentiating `log_softmax`.

    Args:
        labels: Integer (batch, length).
        logits: Float (batch, length, vocabulary).
        label_smoothing: epsilon_ls.

    Returns:
        Float (batch, length).
    """

    def crossentropy(labels: Tensor, logits: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        probabilities = ops.softmax(logits, axis=-1)
        at_label = (1.0 - label_smoothing) * label_logits(labels, logits)
        everywhere = label_smoothing * ops.mean(logits, axis=-1)
        losses = log_normalizer(logits, probabilities) - at_label - everywhere
        numbers = (
            ops.convert_to_tensor(number, logits.dtype)
            for number in (label_smoothing / logits.shape[-1], label_smoothing - 1.0)
        )
        return losses, (probabilities, *numbers)

    return with_gradient(
        "smoothed_crossentropy", crossentropy, _crossentropy_gradient, labels, logits
    )


def _crossentropy_gradient(
    upstream: Tensor,
    labels: Tensor,
    logits: Tensor,
    probabilities: Tensor,
    share: Tensor,
    less_at_label: Tensor,
) -> tuple[Tensor | None, Tensor]:
    gradients = (probabilities - share) * ops.expand_dims(upstream, -1)
    return None, add_at_labels(gradients, labels, less_at_label * upstream)


def negative_log_likelihood(labels: Tensor, logits: Tensor) -> Tensor:
    """Computes -log softmax(logits)[label] of each token, including padding.

    Uses the same operations as the loss, so that a graph with both computes the softmax once
    (TensorFlow and XLA merge equal operations).

    Args:
        labels: Integer (batch, length).
        logits: Float (batch, length, vocabulary).

    Returns:
        Float (batch, length).
    """
    probabilities = ops.softmax(logits, axis=-1)
    return log_normalizer(logits, probabilities) - label_logits(labels, logits)


def log_normalizer(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Returns log sum_v exp(logits[v]), Float (batch, length), without another exp.

    Solves log p[v] = logits[v] - log_normalizer for the largest p[v], which is at least
    1 / vocabulary and so never underflows.
    """
    return ops.max(logits, axis=-1) - ops.log(ops.max(probabilities, axis=-1))


def label_logits(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns the logit of each label, Float (batch, length)."""
    chosen = ops.take_along_axis(logits, ops.expand_dims(labels, -1), axis=-1)  # (batch, length, 1)
    return ops.squeeze(chosen, -1)  # (batch, length)


def add_at_labels(values: Tensor, labels: Tensor, addends: Tensor) -> Tensor:
    """Adds (batch, length) addends to (batch, length, vocabulary) values at the labels."""
    shape = ops.shape(values)
    rows = ops.reshape(values, (-1, shape[-1]))  # (batch * length, vocabulary)
    columns = ops.reshape(labels, (-1,))  # (batch * length,)
    places = ops.stack([ops.arange(ops.shape(rows)[0], dtype="int32"), columns], axis=-1)
    rows = ops.scatter_update(rows, places, ops.reshape(addends, (-1,)), reduction="add")
    return ops.reshape(rows, shape)  # (batch, length, vocabulary)


def real_tokens(labels: Tensor) -> Tensor:
    """Returns 1 for each real token and 0 for padding, Float (batch, length)."""
    return ops.cast(padding_mask(labels), "float32")


def sum_over_replicas(number: Tensor) -> Tensor:
    """Sums a number, Float (), over all replicas of `tf.distribute`.

    Returns the number itself for one replica, and on JAX, where a batch is one array across all
    devices.
    """
    if keras.backend.backend() != "tensorflow":
        return number
    import tensorflow as tf

    replica = tf.distribute.get_replica_context() if tf.distribute.has_strategy() else None
    # It is also None when Keras infers shapes, outside all replicas.
    return number if replica is None else replica.all_reduce(tf.distribute.ReduceOp.SUM, number)


def per_token(sample_weight: Tensor) -> Tensor:
    """Makes weights (batch,) or (batch, length) broadcastable to (batch, length)."""
    sample_weight = ops.cast(sample_weight, "float32")
    if len(sample_weight.shape) == 1:
        sample_weight = ops.expand_dims(sample_weight, -1)  # (batch, 1)
    return sample_weight
