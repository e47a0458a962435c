"""Add & Norm: what stands around every sub-layer (sections 3.1 and 5.4)."""

import keras

from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.normalization import LayerNormalization


@keras.saving.register_keras_serializable(package="keras_transformer")
class AddAndNorm(keras.Layer):
    """Adds a sub-layer's output to its input and normalizes; the place where the orders differ.

    post-norm: LayerNorm(x + Dropout(Sublayer(x))), the paper's order;
    pre-norm:  x + Dropout(Sublayer(LayerNorm(x))), with `normalize_first=True`.

    A block asks twice: `sublayer_input` before the sub-layer, the layer itself after it.

    Source: section 3.1 (residual, layer normalization), section 5.4 (dropout).
    Deviation: pre-norm is not in the paper; it is the one option that later work made common.

    Args:
        dropout: P_drop, share of the sub-layer's output that is dropped in training, 0 to 1.
        normalize_first: Whether the order is pre-norm.
        epsilon: What layer normalization adds to the variance; the paper gives none.

    Call arguments:
        inputs: Float (batch, length, model_dim), what the residual carries past the sub-layer.
        sublayer_output: Float (batch, length, model_dim).
        training: Whether dropout is at work.

    Returns:
        Float (batch, length, model_dim).
    """

    def __init__(self, dropout=0.1, normalize_first=False, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.dropout = dropout
        self.normalize_first = normalize_first
        self.epsilon = epsilon
        self.output_dropout = Dropout(dropout, dtype=self.dtype_policy)
        self.normalization = LayerNormalization(
            epsilon=epsilon, dtype=self.dtype_policy, name="normalization"
        )

    def build(self, inputs_shape, sublayer_output_shape):
        self.normalization.build(inputs_shape)

    def sublayer_input(self, inputs):
        """What the sub-layer gets to see: normalized in pre-norm, as it is in post-norm."""
        return self.normalization(inputs) if self.normalize_first else inputs

    def call(self, inputs, sublayer_output, training=None):
        added = inputs + self.output_dropout(sublayer_output, training=training)
        return added if self.normalize_first else self.normalization(added)

    def compute_output_shape(self, inputs_shape, sublayer_output_shape):
        return tuple(inputs_shape)
