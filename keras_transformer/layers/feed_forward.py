"""The position-wise feed-forward network (section 3.3)."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_transformer.layers.initializers import InitializerLike
from keras_transformer.tensors import Shape, Tensor

# The name of an activation, its config or a function.
ActivationLike: TypeAlias = str | dict[str, Any] | Callable[[Tensor], Tensor]


@keras.saving.register_keras_serializable(package="keras_transformer")
class FeedForward(keras.Layer):
    """Two linear maps with a nonlinearity between them, the same at each position.

        FFN(x) = max(0, x W_1 + b_1) W_2 + b_2

    Source: section 3.3, equation 2.

    Args:
        feed_forward_dim: d_ff, the inner width.
        activation: The nonlinearity; a name or a function.
        kernel_initializer: Initializes W_1 and W_2.
        bias_initializer: Initializes b_1 and b_2.

    Call arguments:
        inputs: Float (batch, length, model_dim).

    Returns:
        Float (batch, length, model_dim).
    """

    def __init__(
        self,
        feed_forward_dim: int,
        activation: ActivationLike = "relu",
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        if feed_forward_dim < 1:
            raise ValueError(
                "feed_forward_dim must be at least 1. Received:"
                f" feed_forward_dim={feed_forward_dim}. Choose 1 or more; 4 times the input's"
                " width is usual."
            )
        self.feed_forward_dim = feed_forward_dim
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, inputs_shape: Shape) -> None:
        model_dim = inputs_shape[-1]
        self.inner = self._linear("inner", self.feed_forward_dim, self.activation)
        self.inner.build(inputs_shape)
        self.outer = self._linear("outer", model_dim)
        self.outer.build((*inputs_shape[:-1], self.feed_forward_dim))

    def call(self, inputs: Tensor) -> Tensor:
        # A product of two matrices is one TensorFlow operation; with more axes it is about twenty.
        rows = ops.reshape(inputs, (-1, inputs.shape[-1]))  # (batch * length, model_dim)
        rows = self.inner(rows)  # (batch * length, feed_forward_dim)
        rows = self.outer(rows)  # (batch * length, model_dim)
        return ops.reshape(rows, ops.shape(inputs))  # (batch, length, model_dim)

    def _linear(
        self, name: str, width: int, activation: Callable[[Tensor], Tensor] | None = None
    ) -> keras.layers.Dense:
        return keras.layers.Dense(
            width,
            activation=activation,
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )

    def compute_output_shape(self, inputs_shape: Shape) -> Shape:
        return tuple(inputs_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "feed_forward_dim": self.feed_forward_dim,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }
