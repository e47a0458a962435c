"""Attention (section 3.2).

Shapes, in the order in which axes always stand:
    batch           sentences
    beams           hypotheses of one sentence, in step-by-step decoding only
    heads           h
    query_length    positions that ask
    key_length      positions that are asked
    model_dim       d_model, width of the input and of the output
    head_dim        d_k, width of one head's queries and keys
    value_dim       d_v, width of one head's values
"""

import itertools
from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.config import multiples_near
from keras_transformer.decoding.cache import HeadOrder, KeyValues, write
from keras_transformer.decoding.few_rows import matmul_of_few_rows
from keras_transformer.gathering import take
from keras_transformer.layers.dropout import Dropout
from keras_transformer.masks import attend_to, for_all_heads, hide


def attention_weights(query, key, attention_mask=None, key_in_columns=False):
    """softmax(Q K^T / sqrt(d_k)), how much each query takes from each key.

    Source: equation 1.
    Deviation: the softmax is computed in float32 where the dtype is a half precision, which loses
        small weights; a query that may see no key at all gets equal weights, not NaN.

    Args:
        query: Float (..., query_length, head_dim).
        key: Float (..., key_length, head_dim).
        attention_mask: Boolean, broadcastable to (..., query_length, key_length), True where a
            query may see a key, or what `masks.to_add` makes of it; None if it may see all.
        key_in_columns: Whether the keys stand as Float (..., head_dim, key_length), which are
            multiplied by faster.

    Returns:
        Float (..., query_length, key_length); each row sums to 1.
    """
    head_dim = query.shape[-1]
    matmul = _matmul_for(query)
    scores = matmul(query * head_dim**-0.5, key, transpose_y=not key_in_columns)
    if scores.shape[-1] == 1:
        return ops.ones_like(scores)  # one key takes all; Keras warns of a softmax over one number
    dtype = scores.dtype
    scores = ops.cast(scores, keras.backend.result_type(dtype, "float32"))
    if attention_mask is not None:
        scores = hide(scores, attention_mask)
    return ops.cast(ops.softmax(scores), dtype)


def scaled_dot_product_attention(query, key, value, attention_mask=None):
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V.

    Source: equation 1.

    Args:
        query: Float (..., query_length, head_dim).
        key: Float (..., key_length, head_dim).
        value: Float (..., key_length, value_dim).
        attention_mask: As in `attention_weights`.

    Returns:
        Float (..., query_length, value_dim).
    """
    return _matmul_for(query)(attention_weights(query, key, attention_mask), value)


def _matmul_for(query):
    """What multiplies for these queries: of one alone, the product of few rows."""
    return matmul_of_few_rows if query.shape[-2] == 1 else _matmul


def _matmul(x, y, transpose_y=False):
    return ops.matmul(x, ops.swapaxes(y, -1, -2) if transpose_y else y)


class ProjectedMemory(NamedTuple):
    """What cross-attention asks at every step of decoding, the same for every hypothesis.

    Attributes:
        key_columns: Float (batch, heads, head_dim, length), the keys as columns: on a processor
            few queries are multiplied by them in half the time that they take by rows.
        value: Float (batch, heads, length, value_dim).
    """

    key_columns: object
    value: object


@keras.saving.register_keras_serializable(package="keras_transformer")
class SideBySide(keras.initializers.Initializer):
    """Fills a fused kernel with one freshly drawn matrix for each of its parts.

    A fan-based initializer looks at the whole matrix: drawn in one piece, the fused query, key and
    value kernel would come out too small.

    Args:
        initializer: What fills each part; a name, a config or a Keras initializer.
        widths: Output widths of the parts, in their order.
    """

    def __init__(self, initializer, widths):
        self.initializer = keras.initializers.get(initializer)
        self.widths = tuple(widths)

    def __call__(self, shape, dtype=None):
        parts = [
            self._initializer_of(part)((*shape[:-1], width), dtype)
            for part, width in enumerate(self.widths)
        ]
        return ops.concatenate(parts, axis=-1)

    def _initializer_of(self, part):
        """One that draws its own numbers: two with the same seed would draw the same."""
        config = self.initializer.get_config()
        if isinstance(config.get("seed"), int):
            config["seed"] += part
        return type(self.initializer).from_config(config)

    def get_config(self):
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "widths": list(self.widths),
        }


class _MultiHeadAttention(keras.Layer):
    """What self- and cross-attention share: the options, the heads, the way out."""

    def __init__(
        self,
        num_heads,
        head_dim=None,
        value_dim=None,
        dropout=0.0,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        numbers = {"num_heads": num_heads, "head_dim": head_dim, "value_dim": value_dim}
        for name, width in numbers.items():
            if width is not None and width < 1:
                raise ValueError(
                    f"{name} must be at least 1. Received: {name}={width}. Choose 1 or more."
                )
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.value_dim = value_dim
        self.dropout = dropout
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.weights_dropout = Dropout(dropout, dtype=self.dtype_policy)
        # In which queries, keys and values meet; a model for translating may choose a shorter one.
        self.attention_dtype = self.compute_dtype

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "value_dim": self.value_dim,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }

    def _resolve_widths(self, model_dim):
        """Sets the widths of one head, found from the input's where they were not given."""
        if self.head_dim is None and model_dim % self.num_heads:
            raise ValueError(
                "The input's last axis must be a multiple of num_heads unless head_dim is given."
                f" Received: last axis {model_dim}, num_heads={self.num_heads}. Choose a width of"
                f" {multiples_near(model_dim, self.num_heads)}, or give head_dim."
            )
        self.key_width = self.head_dim or model_dim // self.num_heads
        self.value_width = self.value_dim or self.key_width

    def _projection(self, name, input_dim, *head_widths):
        """A linear map to all heads of one or several of queries, keys and values at once."""
        widths = [self.num_heads * width for width in head_widths]
        projection = keras.layers.Dense(
            sum(widths),
            use_bias=self.use_bias,
            kernel_initializer=SideBySide(self.kernel_initializer, widths),
            bias_initializer=self.bias_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )
        projection.build((None, None, input_dim))
        return projection

    def _output_projection(self, output_dim):
        projection = keras.layers.Dense(
            output_dim,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            dtype=self.dtype_policy,
            name="output",
        )
        projection.build((None, None, self.num_heads * self.value_width))
        return projection

    # Between inputs and heads, positions stand as the rows of a matrix: the product of a matrix is
    # one TensorFlow operation, that of anything wider some twenty, which take their time to trace.

    def _to_heads(self, rows, length, *head_widths, order: HeadOrder | None = None):
        """Float (batch * length, all widths) to one or several (batch, heads, length, width)."""
        rows = ops.cast(rows, self.attention_dtype)
        if order is not None and len(set(head_widths)) == 1:
            rows = ops.reshape(rows, (-1, head_widths[0]))
            if len(head_widths) == 1:
                return [take(rows, order.heads_first)]
            return ops.unstack(take(rows, order.parts_first), len(head_widths))
        if len(set(head_widths)) == 1:
            parts = ops.split(rows, len(head_widths), axis=-1)  # by far the simpler operation
        else:
            ends = [self.num_heads * end for end in itertools.accumulate(head_widths)]
            parts = ops.split(rows, ends[:-1], axis=-1)
        return [
            self._split_heads(part, length, width)
            for part, width in zip(parts, head_widths, strict=True)
        ]

    def _split_heads(self, rows, length, width):
        if isinstance(length, int) and length == 1:
            return ops.reshape(rows, (-1, self.num_heads, 1, width))
        rows = ops.reshape(rows, (-1, length, self.num_heads, width))
        return ops.transpose(rows, (0, 2, 1, 3))

    def _attend(self, query, key, value, attention_mask, training):
        """softmax(Q K^T / sqrt(d_k)) V for each head, the heads side by side, projected.

        Args:
            query, key, value: Float (batch, heads, length, width).
            attention_mask: As in `attention_weights`, the heads included.
            training: Whether dropout is at work.

        Returns:
            Float (batch * query_length, output_dim).
        """
        weights = attention_weights(query, key, attention_mask)
        weights = self.weights_dropout(weights, training=training)
        return self._summed(ops.cast(weights, self.attention_dtype), value)

    def _summed(self, weights, value, order: HeadOrder | None = None):
        """The weighted sums of the values, the heads side by side, projected.

        Args:
            weights: Float (batch, heads, query_length, key_length).
            value: Float (batch, heads, key_length, value_dim).
            order: HeadOrder of the queries, if they are hypotheses.

        Returns:
            Float (batch * query_length, output_dim).
        """
        attended = _matmul_for(weights)(weights, value)  # (batch, heads, query_length, value_dim)
        if order is not None:
            attended = take(ops.reshape(attended, (-1, self.value_width)), order.beams_first)
        elif attended.shape[2] != 1:
            attended = ops.transpose(attended, (0, 2, 1, 3))
        attended = ops.cast(attended, self.compute_dtype)
        return self.output_projection(
            ops.reshape(attended, (-1, self.num_heads * self.value_width))
        )

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)


@keras.saving.register_keras_serializable(package="keras_transformer")
class MultiHeadSelfAttention(_MultiHeadAttention):
    """Lets each position of a sequence look at all positions of the same sequence.

    MultiHead(X) = Concat(head_1, ..., head_h) W^O,
    head_i = Attention(X W_i^Q, X W_i^K, X W_i^V).

    Source: section 3.2.2.
    Deviation: the projections have biases, as in the authors' own code; query, key and value are
        one fused product, which is the same map computed faster.

    Args:
        num_heads: h.
        head_dim: d_k, width of one head's queries and keys; input width / num_heads if None.
        value_dim: d_v, width of one head's values; `head_dim` if None.
        dropout: Share of attention weights that are dropped in training, 0 to 1. The paper drops
            none.
        use_bias: Whether the four projections have biases.
        kernel_initializer: What fills each of W^Q, W^K, W^V and W^O.
        bias_initializer: What fills the biases.

    Call arguments:
        inputs: Float (batch, length, model_dim).
        attention_mask: Boolean (batch, query_length, key_length) or broadcastable to it, True
            where a query may see a key; None if it may see all. Of numbers 0 is False.
        mask: Boolean (batch, length), True where a token stands; Keras passes the inputs' implicit
            mask here. An `attention_mask` takes its place.
        training: Whether dropout is at work.

    Returns:
        Float (batch, length, model_dim).

    Raises:
        ValueError: If the input's width is not a multiple of `num_heads` and no `head_dim` is
            given.
    """

    def build(self, inputs_shape):
        model_dim = inputs_shape[-1]
        self._resolve_widths(model_dim)
        self.query_key_value = self._projection(
            "query_key_value", model_dim, self.key_width, self.key_width, self.value_width
        )
        self.output_projection = self._output_projection(model_dim)

    def call(self, inputs, attention_mask=None, mask=None, training=None):
        if attention_mask is None:
            attention_mask = attend_to(mask)
        batch, length, model_dim = ops.shape(inputs)
        query, key, value = self._project(ops.reshape(inputs, (-1, model_dim)), length)
        rows = self._attend(query, key, value, for_all_heads(attention_mask), training)
        return ops.reshape(rows, (batch, length, model_dim))

    def attention_weights(self, inputs, attention_mask=None):
        """The weights that `call` sums the values with: Float (batch, heads, length, length)."""
        _, length, model_dim = ops.shape(inputs)
        query, key, _ = self._project(ops.reshape(inputs, (-1, model_dim)), length)
        return attention_weights(query, key, for_all_heads(attention_mask))

    def step(self, rows, cache, place, attention_mask):
        """The same for one new position of each hypothesis.

        Args:
            rows: Float (batch * beams, model_dim), the new position of every hypothesis.
            cache: KeyValues of Float (batch, heads, slots, width), what came before.
            place: Where the new position is written, from `next_position`.
            attention_mask: (batch, beams, slots), which lets each hypothesis see the slots that it
                descends from, its new one too; Boolean or from `masks.to_add`.

        Returns:
            (Float (batch * beams, model_dim), the cache with the new position in it).
        """
        query, key, value = self._project(rows, attention_mask.shape[1], place.order)
        cache = write(cache, KeyValues(key, value), place)
        attention_mask = ops.expand_dims(attention_mask, 1)  # one mask for all heads
        weights = attention_weights(query, cache.key, attention_mask)
        return self._summed(weights, cache.value, place.order), cache

    def _project(self, rows, length, order=None):
        """Query, key and value: Float (batch, heads, length, width) each."""
        widths = (self.key_width, self.key_width, self.value_width)
        return self._to_heads(self.query_key_value(rows), length, *widths, order=order)


@keras.saving.register_keras_serializable(package="keras_transformer")
class MultiHeadCrossAttention(_MultiHeadAttention):
    """Lets each position of the decoder look at all positions of the encoder's output.

    MultiHead(Q, M) = Concat(head_1, ..., head_h) W^O,
    head_i = Attention(Q W_i^Q, M W_i^K, M W_i^V).

    Source: section 3.2.3, "encoder-decoder attention".
    Deviation: as for `MultiHeadSelfAttention`; here key and value are one fused product.

    Args:
        num_heads, head_dim, value_dim, dropout, use_bias, kernel_initializer, bias_initializer:
            As for `MultiHeadSelfAttention`.

    Call arguments:
        query: Float (batch, query_length, model_dim).
        memory: Float (batch, key_length, memory_dim), the encoder's output.
        attention_mask: Boolean (batch, query_length, key_length) or broadcastable to it, True
            where a query may see a key; None if it may see all. Of numbers 0 is False.
        memory_mask: Boolean (batch, key_length), True where a token stands; Keras passes the
            memory's implicit mask here. An `attention_mask` takes its place.
        training: Whether dropout is at work.

    Returns:
        Float (batch, query_length, model_dim).

    Raises:
        ValueError: If the query's width is not a multiple of `num_heads` and no `head_dim` is
            given.
    """

    def build(self, query_shape, memory_shape):
        model_dim = query_shape[-1]
        self._resolve_widths(model_dim)
        self.query_projection = self._projection("query", model_dim, self.key_width)
        self.key_value = self._projection(
            "key_value", memory_shape[-1], self.key_width, self.value_width
        )
        self.output_projection = self._output_projection(model_dim)

    def call(self, query, memory, attention_mask=None, memory_mask=None, training=None):
        if attention_mask is None:
            attention_mask = attend_to(memory_mask)
        batch, length, model_dim = ops.shape(query)
        key, value = self._keys_and_values(memory)
        [query] = self._project(ops.reshape(query, (-1, model_dim)), length)
        rows = self._attend(query, key, value, for_all_heads(attention_mask), training)
        return ops.reshape(rows, (batch, length, model_dim))

    def attention_weights(self, query, memory, attention_mask=None):
        """The weights that `call` sums the values with.

        Returns:
            Float (batch, heads, query_length, key_length).
        """
        _, length, model_dim = ops.shape(query)
        [query] = self._project(ops.reshape(query, (-1, model_dim)), length)
        key, _ = self._keys_and_values(memory)
        return attention_weights(query, key, for_all_heads(attention_mask))

    def project_memory(self, memory) -> ProjectedMemory:
        """What `step` needs of the encoder's output.

        Args:
            memory: Float (batch, length, memory_dim).
        """
        key, value = self._keys_and_values(memory)
        return ProjectedMemory(ops.swapaxes(key, -1, -2), value)

    def step(self, rows, beams, memory, attention_mask, order=None):
        """The same for one new position of each hypothesis.

        The hypotheses of a sentence stand where `call` has positions: all of them ask the same
        keys, which are therefore never copied for each beam.

        Args:
            rows: Float (batch * beams, model_dim).
            beams: Hypotheses of each sentence.
            memory: From `project_memory`.
            attention_mask: (batch, 1, key_length), Boolean or from `masks.to_add`.
            order: HeadOrder of the hypotheses; None to transpose instead.

        Returns:
            Float (batch * beams, model_dim).
        """
        [query] = self._project(rows, beams, order)
        attention_mask = ops.expand_dims(attention_mask, 1)  # one mask for all heads
        weights = attention_weights(query, memory.key_columns, attention_mask, key_in_columns=True)
        return self._summed(weights, memory.value, order)

    def _project(self, rows, length, order=None):
        """The query alone: Float (batch, heads, length, head_dim)."""
        return self._to_heads(self.query_projection(rows), length, self.key_width, order=order)

    def _keys_and_values(self, memory):
        """Float (batch, heads, length, width) each."""
        _, length, memory_dim = ops.shape(memory)
        rows = self.key_value(ops.reshape(memory, (-1, memory_dim)))
        return self._to_heads(rows, length, self.key_width, self.value_width)

    def compute_output_shape(self, query_shape, memory_shape):
        return tuple(query_shape)
