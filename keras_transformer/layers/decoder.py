"""One layer of the decoder stack (section 3.1, Figure 1 right)."""

from typing import Any

import keras
from keras import ops

from keras_transformer.layers.attention import MultiHeadCrossAttention, MultiHeadSelfAttention
from keras_transformer.layers.encoder import options_of
from keras_transformer.layers.feed_forward import ActivationLike, FeedForward
from keras_transformer.layers.initializers import InitializerLike
from keras_transformer.layers.residual import AddAndNorm
from keras_transformer.masks import attend_to, attend_to_earlier
from keras_transformer.tensors import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_transformer")
class DecoderBlock(keras.Layer):
    """Masked self-attention, attention over the encoder's output, then a feed-forward network.

    Each of the three is wrapped in Add & Norm, and no position sees a later one.

    Source: section 3.1, "Decoder".

    Args:
        num_heads, feed_forward_dim, dropout, activation, normalize_first, head_dim, value_dim,
            kernel_initializer, bias_initializer, layer_norm_epsilon: As in `EncoderBlock`.

    Call arguments:
        inputs: Float (batch, target_length, model_dim).
        memory: Float (batch, source_length, memory_dim), the encoder's output.
        padding_mask: Boolean (batch, target_length), True at tokens; None if there is no padding.
            In a mask of numbers 0 is False.
        memory_padding_mask: Boolean (batch, source_length), likewise.
        inputs_mask, memory_mask: The implicit masks of inputs and memory, which Keras passes;
            `padding_mask` and `memory_padding_mask` replace them.
        training: Whether to apply dropout.

    Returns:
        Float (batch, target_length, model_dim).
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
        self.cross_attention = MultiHeadCrossAttention(
            num_heads, head_dim, value_dim, **options, name="cross_attention"
        )
        self.cross_attention_residual = residual("cross_attention_residual")
        self.feed_forward = FeedForward(
            feed_forward_dim, activation, **options, name="feed_forward"
        )
        self.feed_forward_residual = residual("feed_forward_residual")

    def build(self, inputs_shape: Shape, memory_shape: Shape) -> None:
        self.self_attention.build(inputs_shape)
        self.self_attention_residual.build(inputs_shape, inputs_shape)
        self.cross_attention.build(inputs_shape, memory_shape)
        self.cross_attention_residual.build(inputs_shape, inputs_shape)
        self.feed_forward.build(inputs_shape)
        self.feed_forward_residual.build(inputs_shape, inputs_shape)

    def call(
        self,
        inputs: Tensor,
        memory: Tensor,
        padding_mask: Tensor | None = None,
        memory_padding_mask: Tensor | None = None,
        inputs_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        padding_mask = inputs_mask if padding_mask is None else padding_mask
        memory_padding_mask = memory_mask if memory_padding_mask is None else memory_padding_mask
        x = self._after_self_attention(inputs, padding_mask, training)

        residual = self.cross_attention_residual
        attended = self.cross_attention(
            residual.sublayer_input(x),
            memory,
            attention_mask=attend_to(memory_padding_mask),
            training=training,
        )
        x = residual(x, attended, training=training)

        residual = self.feed_forward_residual
        transformed = self.feed_forward(residual.sublayer_input(x))
        return residual(x, transformed, training=training)

    def attention_weights(
        self,
        inputs: Tensor,
        memory: Tensor,
        padding_mask: Tensor | None = None,
        memory_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Returns each head's weights of the source positions, for every target position.

        Args:
            inputs, memory, padding_mask, memory_padding_mask: As in `call`.

        Returns:
            Float (batch, heads, target_length, source_length); each row sums to 1.
        """
        x = self._after_self_attention(inputs, padding_mask, training=False)
        return self.cross_attention.attention_weights(
            self.cross_attention_residual.sublayer_input(x), memory, attend_to(memory_padding_mask)
        )

    def self_attention_weights(self, inputs: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Returns each head's self-attention weights, for every target position.

        Args:
            inputs, padding_mask: As in `call`.

        Returns:
            Float (batch, heads, target_length, target_length); each row sums to 1.
        """
        return self.self_attention.attention_weights(
            self.self_attention_residual.sublayer_input(inputs),
            attend_to_earlier(padding_mask, ops.shape(inputs)[1]),
        )

    def _after_self_attention(
        self, inputs: Tensor, padding_mask: Tensor | None, training: bool | None
    ) -> Tensor:
        residual = self.self_attention_residual
        attended = self.self_attention(
            residual.sublayer_input(inputs),
            attention_mask=attend_to_earlier(padding_mask, ops.shape(inputs)[1]),
            training=training,
        )
        return residual(inputs, attended, training=training)

    def compute_output_shape(self, inputs_shape: Shape, memory_shape: Shape) -> Shape:
        return tuple(inputs_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **options_of(self)}
