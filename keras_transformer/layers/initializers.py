"""Initializers for kernels that hold several matrices side by side."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_transformer.tensors import Shape, Tensor

# The name of an initializer, its config or an initializer.
InitializerLike: TypeAlias = str | dict[str, Any] | keras.initializers.Initializer


@keras.saving.register_keras_serializable(package="keras_transformer")
class SideBySide(keras.initializers.Initializer):
    """Fills each part of a fused kernel with its own random matrix.

    An initializer that scales by fan-in and fan-out would treat the fused query, key and value
    kernel as one wide matrix, and make its values too small.

    Args:
        initializer: Fills each part; a name, a config or a Keras initializer.
        widths: Output widths of the parts, in order.
    """

    def __init__(self, initializer: InitializerLike, widths: Sequence[int]) -> None:
        self.initializer = keras.initializers.get(initializer)
        self.widths = tuple(widths)

    def __call__(self, shape: Shape, dtype: str | None = None) -> Tensor:
        parts = [
            self._initializer_of(part)((*shape[:-1], width), dtype)
            for part, width in enumerate(self.widths)
        ]
        return ops.concatenate(parts, axis=-1)

    def _initializer_of(self, part: int) -> keras.initializers.Initializer:
        """Copies the initializer with a seed of its own: equal seeds would draw equal parts."""
        config = self.initializer.get_config()
        if isinstance(config.get("seed"), int):
            config["seed"] += part
        return type(self.initializer).from_config(config)

    def get_config(self) -> dict[str, Any]:
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "widths": list(self.widths),
        }
