"""Compiles functions of NumPy arrays with TensorFlow or JAX, and keeps them."""

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

import keras
import numpy as np

from keras_transformer.forks import check_not_forked
from keras_transformer.tensors import Nest, Tensor

# Each takes a second to compile and several MB to keep.
_MOST_KEPT = 8

Array: TypeAlias = np.ndarray | np.generic


class CompiledFunctions:
    """Compiles functions that call a model when they first run, and keeps the latest few.

    Args:
        model: The model that the functions call. JAX runs them with its current weights.
        most_tokens: The longest sequence that the model accepts, in tokens; None for no limit.
    """

    def __init__(self, model: keras.Model, most_tokens: int | None) -> None:
        self._model, self._most_tokens = model, most_tokens
        self._kept: dict[Hashable, Callable[..., Nest]] = {}  # the latest is last
        self._lock = threading.Lock()

    def run(self, key: Hashable, function: Callable[..., Nest], *arrays: Array) -> Nest:
        """Runs a function and returns its result: tensors, or a tuple of tensors.

        Args:
            key: The name of the function and everything else that its code depends on.
            function: Maps tensors to tensors.
            arrays: Arrays (batch, ..., length) or (batch,), or numbers. Only batch and length may
                differ between calls with the same key.
        """
        check_not_forked()
        with self._lock:
            compiled = self._kept.pop(key, None) or self._compile(function, arrays)
            self._kept[key] = compiled
            if len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        return compiled(*arrays)

    def _compile(
        self, function: Callable[..., Nest], arrays: Sequence[Array]
    ) -> Callable[..., Nest]:
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            specs = [tf.TensorSpec(_free_shape(array), array.dtype) for array in arrays]
            return tf.function(function, input_signature=specs, autograph=False)
        if keras.backend.backend() == "jax":
            return _jitted(function, self._model, self._most_tokens)
        return function


def _free_shape(array: Array) -> list[int | None]:
    """Returns an array's shape with batch and length left open."""
    shape = list(array.shape)
    for axis in (0, -1) if shape else ():
        shape[axis] = None
    return shape


def _jitted(
    function: Callable[..., Nest], model: keras.Model, most_tokens: int | None
) -> Callable[..., Nest]:
    """Compiles the function with JAX, which compiles it again for each new shape."""
    import jax

    variables = getattr(model, "variables", [])

    @jax.jit
    def stateless(values: Sequence[Tensor], *arrays: Tensor) -> Nest:
        with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
            return function(*arrays)

    def call(*arrays: Array) -> Nest:
        padded = [_in_one_of_few_shapes(array, most_tokens) for array in arrays]
        found = stateless([v.value for v in variables], *padded)
        return keras.tree.map_structure(lambda x: x[: arrays[0].shape[0]], found)

    return call


def _in_one_of_few_shapes(array: Array, most_tokens: int | None) -> Array:
    """Pads the length to a multiple of 16, or to `most_tokens`, and the rows to a power of two.

    Padding is 0; added rows repeat the last one. Numbers stay as they are.
    """
    if isinstance(array, np.generic) or not array.ndim:
        return array
    rows = 1 << (len(array) - 1).bit_length()
    if array.ndim > 1:
        length = array.shape[-1]
        more = -length % 16 if most_tokens is None else min(-length % 16, most_tokens - length)
        array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)])
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
