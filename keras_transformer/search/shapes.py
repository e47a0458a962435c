"""Fixed and growing shapes: where the backends differ most."""

import keras


def shapes_are_dynamic() -> bool:
    """Whether tensors may grow from step to step."""
    return keras.backend.backend() == "tensorflow"


def as_length(length):
    """A length to allocate by: a scalar tensor on TensorFlow, a Python int elsewhere."""
    return length if shapes_are_dynamic() else int(length)
