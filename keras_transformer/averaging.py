"""Averages of weights: over several checkpoints (section 6.1), or moving averages in training."""

from collections.abc import Iterable

import keras
import numpy as np


def average_weights(checkpoints: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
    """Returns the mean of the checkpoints, array by array.

    Sums in float64 and returns each array in its own dtype. Arrays that are not floats (counters,
    the state of dropout's random generators) are taken from the last checkpoint.

    Source: section 6.1: the base model averages the last 5 checkpoints, the big model the last 20.

    Args:
        checkpoints: The arrays of each checkpoint, in the order of `model.get_weights()`. With a
            generator, at most two checkpoints and the sum are in memory at a time.

    Raises:
        ValueError: If there is no checkpoint, or if checkpoints differ in their number of arrays,
            in a shape or in a dtype.

    Example:
        def weights_of(path):
            model.load_weights(path)
            return model.get_weights()

        model.set_weights(average_weights(weights_of(path) for path in last_five_paths))
    """
    sums: list[np.ndarray] = []
    last: list[np.ndarray] = []
    num_checkpoints = 0
    for weights in checkpoints:
        weights = [np.asarray(array) for array in weights]
        if not num_checkpoints:
            sums = [np.zeros(array.shape, "float64") for array in weights]
        else:
            _check_same_arrays(last, weights, num_checkpoints)
        for total, array in zip(sums, weights, strict=True):
            if _is_float(array):
                total += array
        last = weights
        num_checkpoints += 1
    if not num_checkpoints:
        raise ValueError(
            "Averaging needs at least one checkpoint. Received: no checkpoints. Keep at least one"
            " checkpoint of the run, and read a generator only once."
        )
    return [
        np.asarray(total / num_checkpoints, dtype=array.dtype) if _is_float(array) else array
        for total, array in zip(sums, last, strict=True)
    ]


def averaged_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables that hold the moving averages of a model's weights.

    Args:
        model: Compiled with `Adam(ema_decay=...)`.

    Returns:
        The average of each of `model.weights`, in order; the weight itself if it is not trainable,
        or before the first update.

    Raises:
        ValueError: If the model's optimizer keeps no averages.

    Example:
        averages = [keras.ops.convert_to_numpy(v) for v in averaged_variables(model)]
        model.set_weights(averages)  # at the end of training
    """
    if not keeps_averages(model):
        raise ValueError(
            "Averaged weights need a model whose optimizer keeps averages. Received:"
            f" optimizer={type(model.optimizer).__name__}. Compile with Adam(ema_decay=0.999)."
        )
    optimizer = innermost_optimizer(model)
    if not optimizer.built or not int(keras.ops.cast(optimizer.iterations, "int32")):
        return list(model.weights)
    average_of = {
        id(variable): average
        for variable, average in zip(model.trainable_variables, optimizer.averages, strict=True)
    }
    return [average_of.get(id(weight), weight) for weight in model.weights]


def keeps_averages(model: keras.Model) -> bool:
    """Whether the model is compiled with an optimizer that averages its weights."""
    return getattr(innermost_optimizer(model), "ema_decay", None) is not None


def innermost_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    """Returns the optimizer without the wrapper that Keras adds under the policy mixed_float16."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def _is_float(array: np.ndarray) -> bool:
    # NumPy does not regard bfloat16 as a float.
    return keras.backend.is_float_dtype(array.dtype.name)


def _check_same_arrays(
    expected: list[np.ndarray], received: list[np.ndarray], position: int
) -> None:
    if len(expected) != len(received):
        raise ValueError(
            "All checkpoints must hold the same number of arrays. Received:"
            f" {len(expected)} arrays in checkpoint {position - 1}, {len(received)} in checkpoint"
            f" {position} (counted from 0). Average only checkpoints of one run."
        )
    for index, (a, b) in enumerate(zip(expected, received, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(
                "All checkpoints must hold arrays of the same shapes and dtypes. Received:"
                f" array {index} is {a.dtype} {a.shape} in checkpoint {position - 1}, {b.dtype}"
                f" {b.shape} in checkpoint {position} (counted from 0). Average only checkpoints"
                " of one run."
            )
