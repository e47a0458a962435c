"""Self-attention within a neighborhood, the last row of Table 1."""

import keras
from keras import ops

from keras_transformer.layers.attention import scaled_dot_product_attention


class RestrictedSelfAttention(keras.layers.Layer):
    """Lets each position attend to itself and to `radius` positions on either side.

    Computes MultiHead(X) as in `MultiHeadSelfAttention`, except that position i sees position j
    only if |i - j| <= radius. Queries are grouped into blocks of `radius` positions; a block needs
    the keys of its own, the previous and the next block. So the cost grows with length * radius.

    Source: Table 1 and section 4, "a neighborhood of size r", here 2 * radius + 1.

    Args:
        num_heads: h, which must divide the input's width.
        radius: The number of visible positions on either side, which must divide the length.

    Call arguments:
        inputs: Float (batch, length, model_dim).

    Returns:
        Float (batch, length, model_dim).
    """

    def __init__(self, num_heads, radius, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.radius = radius

    def build(self, inputs_shape):
        model_dim = inputs_shape[-1]
        self.query_key_value = keras.layers.Dense(3 * model_dim, name="query_key_value")
        self.query_key_value.build(inputs_shape)
        self.output_projection = keras.layers.Dense(model_dim, name="output")
        self.output_projection.build(inputs_shape)

    def call(self, inputs):
        batch, length, model_dim = ops.shape(inputs)
        heads, radius, blocks = self.num_heads, self.radius, length // self.radius
        parts = ops.split(self.query_key_value(inputs), 3, axis=-1)
        query, key, value = (
            ops.transpose(
                ops.reshape(part, (batch, blocks, radius, heads, model_dim // heads)),
                (0, 3, 1, 2, 4),
            )  # (batch, heads, blocks, radius, head_dim)
            for part in parts
        )
        attended = scaled_dot_product_attention(
            query, _with_neighbours(key), _with_neighbours(value), self._mask(blocks)
        )
        attended = ops.transpose(attended, (0, 2, 3, 1, 4))
        return self.output_projection(ops.reshape(attended, (batch, length, model_dim)))

    def _mask(self, blocks):
        """Returns Boolean (blocks, radius, 3 * radius), True where a query may see a key."""
        first = ops.arange(blocks, dtype="int32")[:, None, None] * self.radius
        query = first + ops.arange(self.radius, dtype="int32")[:, None]
        key = first + ops.arange(-self.radius, 2 * self.radius, dtype="int32")
        is_there = ops.logical_and(key >= 0, key < blocks * self.radius)
        return ops.logical_and(ops.abs(query - key) <= self.radius, is_there)


def _with_neighbours(blocks):
    """Returns Float (..., blocks, 3 * radius, head_dim): each block between its neighbors."""
    padded = ops.pad(blocks, [(0, 0), (0, 0), (1, 1), (0, 0), (0, 0)])
    return ops.concatenate([padded[:, :, :-2], blocks, padded[:, :, 2:]], axis=3)
