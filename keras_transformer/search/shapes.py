"""Fixed and growing shapes, in which the backends differ most."""

import keras


def shapes_are_dynamic() -> bool:
    """Whether tensors may grow from step to step."""
    return keras.backend.backend() == "tensorflow"


def as_length(length):
    """Returns a length for allocation: as it is on TensorFlow, a Python int elsewhere."""
    return length if shapes_are_dynamic() else int(length)
