"""Attention (section 3.2).

Axes, always in this order:
    batch           sentences
    heads           h
    query_length    positions that ask
    key_length      positions that answer
    model_dim       d_model, width of the input and the output
    head_dim        d_k, width of one head's queries and keys
    value_dim       d_v, width of one head's values
"""

import functools
from collections.abc import Callable

import keras
from keras import ops

from keras_transformer.layers.heads import MultiHeadLayer
from keras_transformer.masks import hide
from keras_transformer.tensors import Shape, Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Computes Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V.

    Source: equation 1.

    Args:
        query: Float (..., query_length, head_dim).
        key: Float (..., key_length, head_dim).
        value: Float (..., key_length, value_dim).
        attention_mask: As in `attention_weights`.
        dropout: A function applied to the weights, or None.

    Returns:
        Float (..., query_length, value_dim).
    """
    weights = attention_weights(query, key, attention_mask)  # (..., query_length, key_length)
    if dropout is not None:
        weights = dropout(weights)
    return ops.matmul(weights, value)  # (..., query_length, value_dim)


def attention_weights(query: Tensor, key: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Computes softmax(Q K^T / sqrt(d_k)), the weight of each key's value in a query's output.

    Source: equation 1.

    Args:
        query: Float (..., query_length, head_dim).
        key: Float (..., key_length, head_dim).
        attention_mask: Boolean, broadcastable to (..., query_length, key_length), True where a
            query may see a key, or the output of `masks.to_add`; None if it may see all.

    Returns:
        Float (..., query_length, key_length); each row sums to 1.
    """
    query = query * query.shape[-1] ** -0.5
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2))  # (..., query_length, key_length)
    return masked_softmax(scores, attention_mask)


def masked_softmax(scores: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Returns the softmax over the scores that the mask allows.

    Deviation: computed in float32 or wider, since half precision loses small weights; a query that
        may see no key gets equal weights, not NaN.
    """
    if scores.shape[-1] == 1:
        return ops.ones_like(scores)  # Keras warns of a softmax over one number
    dtype = scores.dtype
    scores = ops.cast(scores, keras.backend.result_type(dtype, "float32"))
    if attention_mask is not None:
        scores = hide(scores, attention_mask)
    return ops.cast(ops.softmax(scores), dtype)


@keras.saving.register_keras_serializable(package="keras_transformer")
class MultiHeadSelfAttention(MultiHeadLayer):
    """Lets each position of a sequence look at all positions of the same sequence.

        MultiHead(X) = Concat(head_1, ..., head_h) W^O
        head_i = Attention(X W_i^Q, X W_i^K, X W_i^V)

    Source: section 3.2.2.
    Deviation: the projections have biases, as in the authors' own code; query, key and value come
        from one fused product, which gives the same result faster.

    Args:
        num_heads: h.
        head_dim: d_k, width of one head's queries and keys; input width / num_heads if None.
        value_dim: d_v, width of one head's values; `head_dim` if None.
        dropout: Share of attention weights dropped in training, 0 to 1. The paper drops none.
        use_bias: Whether the four projections have biases.
        kernel_initializer: Initializes each of W^Q, W^K, W^V and W^O.
        bias_initializer: Initializes the biases.

    Call arguments:
        inputs: Float (batch, length, model_dim).
        attention_mask: Boolean (batch, query_length, key_length) or broadcastable to it, True
            where a query may see a key; None if it may see all. In a mask of numbers 0 is False.
        mask: Boolean (batch, length), True at tokens. Keras passes the inputs' implicit mask here;
            an `attention_mask` replaces it.
        training: Whether to apply dropout.

    Returns:
        Float (batch, length, model_dim).

    Raises:
        ValueError: If `head_dim` is None and the input's width is not a multiple of `num_heads`.
    """

    def build(self, inputs_shape: Shape) -> None:
        model_dim = inputs_shape[-1]
        self.resolve_widths(model_dim)
        self.widths = (self.key_width, self.key_width, self.value_width)
        self.query_key_value = self.make_projection("query_key_value", model_dim, *self.widths)
        self.output_projection = self.make_output_projection(model_dim)

    def call(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None = None,
        mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        query, key, value = self._project(inputs)  # (batch, heads, length, width) each
        attention_mask = self.mask_of_heads(attention_mask, mask)
        dropout = functools.partial(self.weights_dropout, training=training)
        attended = scaled_dot_product_attention(query, key, value, attention_mask, dropout)
        return self.join_heads(attended, inputs)  # (batch, length, model_dim)

    def attention_weights(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Returns `call`'s weights of the values, Float (batch, heads, length, length)."""
        query, key, _ = self._project(inputs)  # (batch, heads, length, width) each
        return attention_weights(query, key, self.mask_of_heads(attention_mask))

    def _project(self, inputs: Tensor) -> list[Tensor]:
        return self.to_heads(self.query_key_value, inputs, *self.widths)

    def compute_output_shape(self, inputs_shape: Shape) -> Shape:
        return tuple(inputs_shape)


@keras.saving.register_keras_serializable(package="keras_transformer")
class MultiHeadCrossAttention(MultiHeadLayer):
    """Lets each position of the decoder look at all positions of the encoder's output.

        MultiHead(Q, M) = Concat(head_1, ..., head_h) W^O
        head_i = Attention(Q W_i^Q, M W_i^K, M W_i^V)

    Source: section 3.2.3, "encoder-decoder attention".
    Deviation: as in `MultiHeadSelfAttention`; here key and value come from one fused product.

    Args:
        num_heads, head_dim, value_dim, dropout, use_bias, kernel_initializer, bias_initializer:
            As in `MultiHeadSelfAttention`.

    Call arguments:
        query: Float (batch, query_length, model_dim).
        memory: Float (batch, key_length, memory_dim), the encoder's output.
        attention_mask, training: As in `MultiHeadSelfAttention`.
        memory_mask: Boolean (batch, key_length), True at tokens. Keras passes the memory's implicit
            mask here; an `attention_mask` replaces it.

    Returns:
        Float (batch, query_length, model_dim).

    Raises:
        ValueError: If `head_dim` is None and the query's width is not a multiple of `num_heads`.
    """

    def build(self, query_shape: Shape, memory_shape: Shape) -> None:
        model_dim, memory_dim = query_shape[-1], memory_shape[-1]
        self.resolve_widths(model_dim)
        self.query_projection = self.make_projection("query", model_dim, self.key_width)
        self.key_value = self.make_projection(
            "key_value", memory_dim, self.key_width, self.value_width
        )
        self.output_projection = self.make_output_projection(model_dim)

    def call(
        self,
        query: Tensor,
        memory: Tensor,
        attention_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        key, value = self.keys_and_values(memory)  # (batch, heads, key_length, width) each
        query_heads = self._query_heads(query)  # (batch, heads, query_length, head_dim)
        attention_mask = self.mask_of_heads(attention_mask, memory_mask)
        dropout = functools.partial(self.weights_dropout, training=training)
        attended = scaled_dot_product_attention(query_heads, key, value, attention_mask, dropout)
        return self.join_heads(attended, query)  # (batch, query_length, model_dim)

    def attention_weights(
        self, query: Tensor, memory: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Returns `call`'s weights of the values.

        Returns:
            Float (batch, heads, query_length, key_length).
        """
        key, _ = self.keys_and_values(memory)  # (batch, heads, key_length, head_dim)
        query = self._query_heads(query)  # (batch, heads, query_length, head_dim)
        return attention_weights(query, key, self.mask_of_heads(attention_mask))

    def _query_heads(self, query: Tensor) -> Tensor:
        [query] = self.to_heads(self.query_projection, query, self.key_width)
        return query

    def keys_and_values(self, memory: Tensor) -> list[Tensor]:
        """Projects the memory to key and value, Float (batch, heads, key_length, width) each."""
        return self.to_heads(self.key_value, memory, self.key_width, self.value_width)

    def compute_output_shape(self, query_shape: Shape, memory_shape: Shape) -> Shape:
        return tuple(query_shape)
