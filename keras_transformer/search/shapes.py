"""Fixed and growing shapes, in which the backends differ most."""

import keras

from keras_transformer.tensors import Tensor


def shapes_are_dynamic() -> bool:
    """Whether tensors may grow from step to step."""
    return keras.backend.backend() == "tensorflow"


def as_length(length: int | Tensor) -> int | Tensor:
    """Returns a length for allocation: as it is on TensorFlow, a Python int elsewhere."""
    return length if shapes_are_dynamic() else int(length)
