"""The heads of attention (section 3.2.2): options, projections, splitting and joining.

Axes as in `layers/attention.py`.
"""

import itertools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_transformer.config import multiples_near
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.initializers import InitializerLike, SideBySide
from keras_transformer.masks import attend_to, for_all_heads
from keras_transformer.tensors import Tensor


class MultiHeadLayer(keras.Layer):
    """The base class of self- and cross-attention."""

    def __init__(
        self,
        num_heads: int,
        head_dim: int | None = None,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        **kwargs: Any,
    ) -> None:
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
        self.weights_dropout: keras.Layer = Dropout(dropout, dtype=self.dtype_policy)

    def get_config(self) -> dict[str, Any]:
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

    def resolve_widths(self, model_dim: int) -> None:
        if self.head_dim is None and model_dim % self.num_heads:
            raise ValueError(
                "The input's last axis must be a multiple of num_heads unless head_dim is given."
                f" Received: last axis {model_dim}, num_heads={self.num_heads}. Choose a width of"
                f" {multiples_near(model_dim, self.num_heads)}, or give head_dim."
            )
        self.key_width = self.head_dim or model_dim // self.num_heads
        self.value_width = self.value_dim or self.key_width

    def make_projection(self, name: str, input_dim: int, *head_widths: int) -> keras.layers.Dense:
        """Makes one fused linear map to all heads, with a part for each of the widths."""
        widths = [self.num_heads * width for width in head_widths]
        initializer = SideBySide(self.kernel_initializer, widths)
        return self._linear(name, input_dim, sum(widths), initializer)

    def make_output_projection(self, model_dim: int) -> keras.layers.Dense:
        input_dim = self.num_heads * self.value_width
        return self._linear("output", input_dim, model_dim, self.kernel_initializer.clone())

    def _linear(
        self,
        name: str,
        input_dim: int,
        output_dim: int,
        kernel_initializer: keras.initializers.Initializer,
    ) -> keras.layers.Dense:
        linear = keras.layers.Dense(
            output_dim,
            use_bias=self.use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=self.bias_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )
        linear.build((None, input_dim))
        return linear

    # Positions are projected as rows of a matrix: a product of two matrices is one TensorFlow
    # operation, while with more axes it is about twenty, which take time to trace.

    def to_heads(
        self, projection: Callable[[Tensor], Tensor], inputs: Tensor, *head_widths: int
    ) -> list[Tensor]:
        """Projects inputs to Float (batch, heads, length, width), for each of the widths."""
        _, length, input_dim = ops.shape(inputs)
        rows = ops.reshape(inputs, (-1, input_dim))  # (batch * length, input_dim)
        rows = projection(rows)  # (batch * length, heads * all widths)
        parts = self.split_parts(rows, *head_widths)  # (batch * length, heads * width) each
        heads = [
            ops.reshape(part, (-1, length, self.num_heads, width))  # (batch, length, heads, width)
            for part, width in zip(parts, head_widths, strict=True)
        ]
        return [ops.transpose(x, (0, 2, 1, 3)) for x in heads]  # (batch, heads, length, width)

    def split_parts(self, rows: Tensor, *head_widths: int) -> list[Tensor]:
        """Splits the output of a fused projection: (rows, heads * width) for each width."""
        if len(set(head_widths)) == 1:
            return ops.split(rows, len(head_widths), axis=-1)  # one operation instead of several
        ends = [self.num_heads * end for end in itertools.accumulate(head_widths[:-1])]
        return ops.split(rows, ends, axis=-1)

    def join_heads(self, heads: Tensor, inputs: Tensor) -> Tensor:
        """Returns Concat(head_1, ..., head_h) W^O, in the shape of `inputs`.

        Args:
            heads: Float (batch, heads, length, value_dim).
            inputs: Float (batch, length, model_dim).
        """
        heads = ops.transpose(heads, (0, 2, 1, 3))  # (batch, length, heads, value_dim)
        width = self.num_heads * self.value_width
        rows = ops.reshape(heads, (-1, width))  # (batch * length, heads * value_dim)
        rows = self.output_projection(rows)  # (batch * length, model_dim)
        return ops.reshape(rows, ops.shape(inputs))  # (batch, length, model_dim)

    @staticmethod
    def mask_of_heads(
        attention_mask: Tensor | None, key_mask: Tensor | None = None
    ) -> Tensor | None:
        """Prepares the attention mask, or if None the keys' padding mask, for all heads."""
        return for_all_heads(attend_to(key_mask) if attention_mask is None else attention_mask)
