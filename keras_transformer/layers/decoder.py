"""One layer of the decoder stack (section 3.1, Figure 1 right)."""

import keras
from keras import ops

from keras_transformer.layers.attention import MultiHeadCrossAttention, MultiHeadSelfAttention
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.residual import AddAndNorm
from keras_transformer.masks import attend_to, attend_to_earlier


@keras.saving.register_keras_serializable(package="keras_transformer")
class DecoderBlock(keras.Layer):
    """Masked self-attention, attention over the encoder's output, then a feed-forward network.

    Each of the three stands within Add & Norm, and no position sees a later one.
    `call` takes all positions at once, for training; `step` takes one position after the other.

    Source: section 3.1, "Decoder".

    Args:
        num_heads: h.
        feed_forward_dim: d_ff.
        dropout: P_drop, on the output of each sub-layer, 0 to 1.
        activation: The feed-forward network's nonlinearity.
        normalize_first: Pre-norm instead of the paper's post-norm.
        head_dim: d_k; input width / num_heads if None.
        value_dim: d_v; `head_dim` if None.
        kernel_initializer: What fills the kernels.
        bias_initializer: What fills the biases.

    Call arguments:
        inputs: Float (batch, target_length, model_dim).
        memory: Float (batch, source_length, memory_dim), the encoder's output.
        padding_mask: Boolean (batch, target_length), True where a token stands; None if
            everywhere. Of numbers 0 is False.
        memory_padding_mask: Boolean (batch, source_length), likewise.
        inputs_mask, memory_mask: The same two; Keras passes the implicit masks of inputs and memory
            here. `padding_mask` and `memory_padding_mask` take their place.
        training: Whether dropout is at work.

    Returns:
        Float (batch, target_length, model_dim).
    """

    def __init__(
        self,
        num_heads,
        feed_forward_dim,
        dropout=0.1,
        activation="relu",
        normalize_first=False,
        head_dim=None,
        value_dim=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        policy = self.dtype_policy
        initializers = {
            "kernel_initializer": kernel_initializer,
            "bias_initializer": bias_initializer,
        }
        self.self_attention = MultiHeadSelfAttention(
            num_heads,
            head_dim,
            value_dim,
            **initializers,
            dtype=policy,
            name="self_attention",
        )
        self.self_attention_residual = AddAndNorm(
            dropout, normalize_first, dtype=policy, name="self_attention_residual"
        )
        self.cross_attention = MultiHeadCrossAttention(
            num_heads,
            head_dim,
            value_dim,
            **initializers,
            dtype=policy,
            name="cross_attention",
        )
        self.cross_attention_residual = AddAndNorm(
            dropout, normalize_first, dtype=policy, name="cross_attention_residual"
        )
        self.feed_forward = FeedForward(
            feed_forward_dim, activation, **initializers, dtype=policy, name="feed_forward"
        )
        self.feed_forward_residual = AddAndNorm(
            dropout, normalize_first, dtype=policy, name="feed_forward_residual"
        )

    def build(self, inputs_shape, memory_shape):
        self.self_attention.build(inputs_shape)
        self.self_attention_residual.build(inputs_shape, inputs_shape)
        self.cross_attention.build(inputs_shape, memory_shape)
        self.cross_attention_residual.build(inputs_shape, inputs_shape)
        self.feed_forward.build(inputs_shape)
        self.feed_forward_residual.build(inputs_shape, inputs_shape)

    def call(
        self,
        inputs,
        memory,
        padding_mask=None,
        memory_padding_mask=None,
        inputs_mask=None,
        memory_mask=None,
        training=None,
    ):
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
        return self._after_feed_forward(x, training)

    def attention_weights(self, inputs, memory, padding_mask=None, memory_padding_mask=None):
        """What each target position takes from each source position, head by head.

        Args:
            inputs, memory, padding_mask, memory_padding_mask: As for `call`.

        Returns:
            Float (batch, heads, target_length, source_length); each row sums to 1.
        """
        x = self._after_self_attention(inputs, padding_mask, training=False)
        return self.cross_attention.attention_weights(
            self.cross_attention_residual.sublayer_input(x), memory, attend_to(memory_padding_mask)
        )

    def self_attention_weights(self, inputs, padding_mask=None):
        """What each target position takes from itself and each earlier one, head by head.

        Args:
            inputs, padding_mask: As for `call`.

        Returns:
            Float (batch, heads, target_length, target_length); each row sums to 1.
        """
        return self.self_attention.attention_weights(
            self.self_attention_residual.sublayer_input(inputs),
            attend_to_earlier(padding_mask, ops.shape(inputs)[1]),
        )

    def step(self, rows, cache, place, attention_mask, memory, memory_mask):
        """The same as `call` for one new position of each hypothesis, without dropout.

        Args:
            rows: Float (batch * beams, model_dim).
            cache: KeyValues of Float (batch, heads, slots, width), the earlier positions.
            place: Where the new position is written, from `next_position`.
            attention_mask: (batch, beams, slots), which lets each hypothesis see the slots that it
                descends from, its new one too.
            memory: From `cross_attention.project_memory`.
            memory_mask: (batch, 1, source_length), which lets all see the source's tokens.

        Returns:
            (Float (batch * beams, model_dim), the cache with the new position in it).
        """
        residual = self.self_attention_residual
        attended, cache = self.self_attention.step(
            residual.sublayer_input(rows), cache, place, attention_mask
        )
        x = residual(rows, attended, training=False)

        residual = self.cross_attention_residual
        attended = self.cross_attention.step(
            residual.sublayer_input(x), attention_mask.shape[1], memory, memory_mask, place.order
        )
        x = residual(x, attended, training=False)
        return self._after_feed_forward(x, training=False), cache

    def _after_self_attention(self, inputs, padding_mask, training):
        residual = self.self_attention_residual
        attended = self.self_attention(
            residual.sublayer_input(inputs),
            attention_mask=attend_to_earlier(padding_mask, ops.shape(inputs)[1]),
            training=training,
        )
        return residual(inputs, attended, training=training)

    def _after_feed_forward(self, x, training):
        residual = self.feed_forward_residual
        transformed = self.feed_forward(residual.sublayer_input(x))
        return residual(x, transformed, training=training)

    def compute_output_shape(self, inputs_shape, memory_shape):
        return tuple(inputs_shape)

    def get_config(self):
        attention = self.self_attention
        return {
            **super().get_config(),
            "num_heads": attention.num_heads,
            "feed_forward_dim": self.feed_forward.feed_forward_dim,
            "dropout": self.self_attention_residual.dropout,
            "activation": keras.activations.serialize(self.feed_forward.activation),
            "normalize_first": self.self_attention_residual.normalize_first,
            "head_dim": attention.head_dim,
            "value_dim": attention.value_dim,
            "kernel_initializer": keras.initializers.serialize(attention.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(attention.bias_initializer),
        }
