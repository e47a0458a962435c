"""Gradients given by a formula instead of derived by the backend."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_transformer.tensors import Tensor

# From the arguments to (output, the other tensors that the gradient needs).
Function: TypeAlias = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]

# From (gradient of the output, *arguments, *those tensors) to the gradient of each argument.
Gradient: TypeAlias = Callable[..., tuple[Tensor | None, ...]]


def with_gradient(name: str, function: Function, gradient: Gradient, *arguments: Tensor) -> Tensor:
    """Computes a function whose gradient is given by a formula.

    TensorFlow's own `custom_gradient` registers a new gradient for each traced graph and never
    releases either. Here each gradient is registered once, by name, and reads what it needs from
    the inputs of its operation.

    Args:
        name: A unique name for the gradient.
        function: Maps the arguments to (output, a tuple of more tensors that the gradient needs).
        gradient: Maps (gradient of the output, *arguments, *those tensors) to a tuple with the
            gradient of each argument, or None. It must depend on nothing else.
        arguments: Tensors.

    Returns:
        The output, a tensor.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.executing_eagerly():
            return _in_graph(name, function, gradient, arguments)

    @ops.custom_gradient
    def differentiable(
        *arguments: Tensor,
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor | None, ...]]]:
        output, known = function(*arguments)
        return output, lambda upstream: gradient(upstream, *arguments, *known)

    return differentiable(*arguments)


def _in_graph(
    name: str, function: Function, gradient: Gradient, arguments: Sequence[Tensor]
) -> Tensor:
    """Passes the output and the gradient's inputs through an operation with this gradient."""
    import tensorflow as tf

    name = f"keras_transformer.{name}"
    _register(name, gradient)
    arguments = [tf.convert_to_tensor(argument) for argument in arguments]
    output, known = function(*arguments)
    inputs = [output, *arguments, *known]
    with tf.compat.v1.get_default_graph().gradient_override_map({"IdentityN": name}):
        outputs = tf.identity_n(inputs)
    # A tape finds the gradient by the name recorded last, tf.gradients by the operation's mark.
    tf.__internal__.record_gradient(name, inputs, (), outputs)
    return outputs[0]


def _register(name: str, gradient: Gradient) -> None:
    import tensorflow as tf

    with contextlib.suppress(KeyError):  # already registered

        @tf.RegisterGradient(name)
        def _(operation: Any, upstream: Tensor, *_: Tensor) -> list[Tensor]:
            _, *tensors = operation.inputs
            gradients = gradient(upstream, *tensors)
            return [None, *gradients, *[None] * (len(tensors) - len(gradients))]
