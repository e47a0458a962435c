"""One layer of the encoder stack (section 3.1, Figure 1 left)."""

from typing import Any

import keras

from keras_transformer.layers.attention import MultiHeadSelfAttention
from keras_transformer.layers.feed_forward import ActivationLike, FeedForward
from keras_transformer.layers.initializers import InitializerLike
from keras_transformer.layers.residual import AddAndNorm
from keras_transformer.masks import attend_to
from keras_transformer.tensors import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_transformer")
class EncoderBlock(keras.Layer):
    """Self-attention, then a feed-forward network, each wrapped in Add & Norm.

    Source: section 3.1, "Encoder".

    Args:
        num_heads: h.
        feed_forward_dim: d_ff.
        dropout: P_drop, on the output of each sub-layer, 0 to 1.
        activation: The feed-forward network's nonlinearity.
        normalize_first: Pre-norm instead of the paper's post-norm.
        head_dim: d_k; input width / num_heads if None.
        value_dim: d_v; `head_dim` if None.
        kernel_initializer: Initializes the kernels.
        bias_initializer: Initializes the biases.
        layer_norm_epsilon: Added to the variance in layer normalization, above 0.

    Call arguments:
        inputs: Float (batch, length, model_dim).
        padding_mask: Boolean (batch, length), True at tokens; None if there is no padding. In a
            mask of numbers 0 is False.
        mask: The inputs' implicit mask, which Keras passes; a `padding_mask` replaces it.
        training: Whether to apply dropout.

    Returns:
        Float (batch, length, model_dim).
    """

    def __init__(
        self,
        num_heads: int,
        feed_forward_dim: int,
        dropout: float = 0.1,
        activation: ActivationLike = "relu",
        normalize_first: bool = False,
        head_dim: int | None = None,
        value_dim: int | None = None,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        layer_norm_epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        options = {
            "kernel_initializer": kernel_initializer,
            "bias_initializer": bias_initializer,
            "dtype": self.dtype_policy,
        }

        def residual(name: str) -> AddAndNorm:
            return AddAndNorm(
                dropout, normalize_first, layer_norm_epsilon, dtype=self.dtype_policy, name=name
            )

        self.self_attention = MultiHeadSelfAttention(
            num_heads, head_dim, value_dim, **options, name="self_attention"
        )
        self.self_attention_residual = residual("self_attention_residual")
        self.feed_forward = FeedForward(
            feed_forward_dim, activation, **options, name="feed_forward"
        )
        self.feed_forward_residual = residual("feed_forward_residual")

    def build(self, inputs_shape: Shape) -> None:
        self.self_attention.build(inputs_shape)
        self.self_attention_residual.build(inputs_shape, inputs_shape)
        self.feed_forward.build(inputs_shape)
        self.feed_forward_residual.build(inputs_shape, inputs_shape)

    def call(
        self,
        inputs: Tensor,
        padding_mask: Tensor | None = None,
        mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        if padding_mask is None:
            padding_mask = mask
        residual = self.self_attention_residual
        attended = self.self_attention(
            residual.sublayer_input(inputs),
            attention_mask=attend_to(padding_mask),
            training=training,
        )
        x = residual(inputs, attended, training=training)

        residual = self.feed_forward_residual
        transformed = self.feed_forward(residual.sublayer_input(x))
        return residual(x, transformed, training=training)

    def attention_weights(self, inputs: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Returns each head's self-attention weights, for every position.

        Args:
            inputs, padding_mask: As in `call`.

        Returns:
            Float (batch, heads, length, length); each row sums to 1.
        """
        return self.self_attention.attention_weights(
            self.self_attention_residual.sublayer_input(inputs), attend_to(padding_mask)
        )

    def compute_output_shape(self, inputs_shape: Shape) -> Shape:
        return tuple(inputs_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **options_of(self)}


def options_of(block: keras.Layer) -> dict[str, Any]:
    """Recovers an encoder or decoder block's constructor arguments from its sub-layers."""
    attention, feed_forward = block.self_attention, block.feed_forward
    return {
        "num_heads": attention.num_heads,
        "feed_forward_dim": feed_forward.feed_forward_dim,
        "dropout": block.feed_forward_residual.dropout,
        "activation": keras.activations.serialize(feed_forward.activation),
        "normalize_first": block.feed_forward_residual.normalize_first,
        "head_dim": attention.head_dim,
        "value_dim": attention.value_dim,
        "kernel_initializer": keras.initializers.serialize(attention.kernel_initializer),
        "bias_initializer": keras.initializers.serialize(attention.bias_initializer),
        "layer_norm_epsilon": block.feed_forward_residual.epsilon,
    }
