"""Metrics that give every real token the same weight, whatever its batch.

Keras averages `loss` over sentences or batches; the perplexity of a corpus is a mean over tokens.

Shapes: labels Integer (batch, length), logits Float (batch, length, vocabulary). Padding is id 0.
"""

import keras
from keras import ops

from keras_transformer.losses import negative_log_likelihood, per_token, real_tokens


class TokenMean(keras.metrics.Metric):
    """Mean of a value over all real tokens since the last reset.

    Args:
        name: The name of the metric.
        dtype: The dtype of the state; None for float32.
    """

    def __init__(self, name: str, dtype: str | None = None):
        # Not Keras' floatx: in bfloat16 a count that grows by one stops at 256.
        super().__init__(name=name, dtype=dtype or "float32")
        state = {"initializer": "zeros", "dtype": self.dtype}
        self.total = self.add_weight(name="total", **state)
        self.num_tokens = self.add_weight(name="num_tokens", **state)

    def token_values(self, labels, logits):
        """Returns the value of each token, Float (batch, length), and any value at padding."""
        raise NotImplementedError

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: Labels, Integer (batch, length).
            y_pred: Logits, Float (batch, length, vocabulary).
            sample_weight: Optional weight of each sentence, Float (batch,), or of each token,
                Float (batch, length).
        """
        labels = ops.cast(y_true, "int32")
        weights = real_tokens(labels)  # (batch, length)
        if sample_weight is not None:
            weights = weights * per_token(sample_weight)
        values = self.token_values(labels, ops.cast(y_pred, "float32"))
        self.total.assign_add(ops.cast(ops.sum(weights * values), self.total.dtype))
        self.num_tokens.assign_add(ops.cast(ops.sum(weights), self.num_tokens.dtype))

    def result(self):
        return ops.divide_no_nan(self.total, self.num_tokens)


@keras.saving.register_keras_serializable(package="keras_transformer")
class Perplexity(TokenMean):
    """The number of equally likely tokens that would leave the model equally unsure.

    exp(mean -log p[label]), from the model's own probabilities: label smoothing plays no part, so
    runs with and without it are comparable. 1 means certainty (and is the result without tokens);
    the vocabulary size means uniform guessing.

    Source: Table 3, column PPL (dev), per sub-word.

    Args:
        name: The name of the metric, and its key in fit's logs.
        dtype: The dtype of the state; None for float32.
    """

    _direction = "down"  # for Keras' callbacks whose mode is "auto"

    def __init__(self, name: str = "perplexity", dtype: str | None = None):
        super().__init__(name=name, dtype=dtype)

    def token_values(self, labels, logits):
        return negative_log_likelihood(labels, logits)

    def result(self):
        return ops.exp(super().result())


@keras.saving.register_keras_serializable(package="keras_transformer")
class TokenAccuracy(TokenMean):
    """The share of tokens whose label has the highest logit, 0 to 1.

    Args:
        name: The name of the metric, and its key in fit's logs.
        dtype: The dtype of the state; None for float32.
    """

    _direction = "up"

    def __init__(self, name: str = "token_accuracy", dtype: str | None = None):
        super().__init__(name=name, dtype=dtype)

    def token_values(self, labels, logits):
        # argmax gives the same, but is four times slower on TensorFlow's CPU.
        _, best = ops.top_k(logits, k=1)  # (batch, length, 1)
        predictions = ops.cast(ops.squeeze(best, -1), "int32")  # (batch, length)
        return ops.cast(ops.equal(labels, predictions), "float32")


# Keras Tuner, given an objective without a direction, looks its name up in Keras and takes the
# direction from the name of the class it finds, if that is one of Keras' own.
keras.saving.get_custom_objects().update(
    perplexity=type("SparseCategoricalCrossentropy", (Perplexity,), {}),  # lower is better
    token_accuracy=type("SparseCategoricalAccuracy", (TokenAccuracy,), {}),  # higher is better
)
