"""Gradients given by a formula, not derived by the backend."""

import contextlib
from collections.abc import Callable

import keras
from keras import ops


def with_gradient(name: str, function: Callable, gradient: Callable, *arguments):
    """The output of a function, differentiated by a formula of its own.

    TensorFlow's own `custom_gradient` registers a new gradient whenever a graph is traced, and
    never releases it, nor the graph it belongs to. Here each gradient is registered once, under its
    name, and reads what it needs from the inputs of the operation it is computed for.

    Args:
        name: The gradient's name, unique to it.
        function: From the arguments to (output, a tuple of more tensors that the gradient needs).
        gradient: From (gradient of the output, *arguments, *those tensors) to a tuple with the
            gradient of each argument, None where there is none. It must depend on nothing else.
        arguments: Tensors.

    Returns:
        The output, a tensor.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.executing_eagerly():
            return _in_graph(name, function, gradient, arguments)

    @ops.custom_gradient
    def differentiable(*arguments):
        output, known = function(*arguments)

        # The keyword is PyTorch's: the other backends pass the upstream gradient alone.
        def gradients(*upstreams, upstream=None):
            if upstream is None:
                (upstream,) = upstreams
            return gradient(upstream, *arguments, *known)

        return output, gradients

    return differentiable(*arguments)


def _in_graph(name, function, gradient, arguments):
    """Passes the output, and all that the gradient needs, through an operation that has it."""
    import tensorflow as tf

    name = f"keras_transformer.{name}"
    _register(name, gradient)
    arguments = [tf.convert_to_tensor(argument) for argument in arguments]
    output, known = function(*arguments)
    inputs = [output, *arguments, *known]
    with tf.compat.v1.get_default_graph().gradient_override_map({"IdentityN": name}):
        outputs = tf.identity_n(inputs)
    # A tape looks for the gradient by the name that is recorded last, tf.gradients by the mark.
    tf.__internal__.record_gradient(name, inputs, (), outputs)
    return outputs[0]


def _register(name, gradient):
    import tensorflow as tf

    with contextlib.suppress(KeyError):  # registered already

        @tf.RegisterGradient(name)
        def _(operation, upstream, *_):
            _, *tensors = operation.inputs
            gradients = gradient(upstream, *tensors)
            return [None, *gradients, *[None] * (len(tensors) - len(gradients))]
