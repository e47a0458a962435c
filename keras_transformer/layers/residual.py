"""Add & Norm, which wraps every sub-layer (sections 3.1 and 5.4)."""

from typing import Any

import keras

from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.tensors import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_transformer")
class AddAndNorm(keras.Layer):
    """Adds a sub-layer's output to its input and normalizes, in either order.

        post-norm: LayerNorm(x + Dropout(Sublayer(x)))
        pre-norm:  x + Dropout(Sublayer(LayerNorm(x)))

    Post-norm is the paper's order; `normalize_first=True` chooses pre-norm. A block calls
    `sublayer_input` before the sub-layer, and the layer itself after it.

    Source: section 3.1 (residual, layer normalization), section 5.4 (dropout).
    Deviation: pre-norm is not in the paper; later work made it common.

    Args:
        dropout: P_drop, share of the sub-layer's output dropped in training, 0 to 1.
        normalize_first: Whether to use pre-norm.
        epsilon: Added to the variance in layer normalization; the paper gives no value.

    Call arguments:
        inputs: Float (batch, length, model_dim), carried past the sub-layer by the residual.
        sublayer_output: Float (batch, length, model_dim).
        training: Whether to apply dropout.

    Returns:
        Float (batch, length, model_dim).
    """

    def __init__(
        self,
        dropout: float = 0.1,
        normalize_first: bool = False,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.dropout = dropout
        self.normalize_first = normalize_first
        self.epsilon = epsilon
        self.output_dropout = Dropout(dropout, dtype=self.dtype_policy)
        self.normalization = LayerNormalization(
            epsilon=epsilon, dtype=self.dtype_policy, name="normalization"
        )

    def build(self, inputs_shape: Shape, sublayer_output_shape: Shape) -> None:
        self.normalization.build(inputs_shape)

    def sublayer_input(self, inputs: Tensor) -> Tensor:
        """Returns the sub-layer's input: normalized in pre-norm, unchanged in post-norm."""
        return self.normalization(inputs) if self.normalize_first else inputs

    def call(self, inputs: Tensor, sublayer_output: Tensor, training: bool | None = None) -> Tensor:
        added = inputs + self.output_dropout(sublayer_output, training=training)
        return added if self.normalize_first else self.normalization(added)

    def compute_output_shape(self, inputs_shape: Shape, sublayer_output_shape: Shape) -> Shape:
        return tuple(inputs_shape)
