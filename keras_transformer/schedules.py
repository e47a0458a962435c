"""The learning rate of the paper (5.3)."""

from typing import Any

import keras
from keras import ops

from keras_transformer.tensors import Tensor


@keras.saving.register_keras_serializable(package="keras_transformer")
class InverseSquareRootSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to a peak, then falls with the inverse square root of the update.

        rate(step) = peak_learning_rate * min(step / warmup_steps, sqrt(warmup_steps / step))

    Source: section 5.3, equation 3, where the peak is model_dim**-0.5 * warmup_steps**-0.5.

    Deviation: equation 3 counts updates from 1, `keras.optimizers` from 0. Step 0 has the rate of
    step 1, since a rate of 0 would teach nothing; every later update has the equation's rate for
    the update before it.

    Args:
        peak_learning_rate: The rate of update number `warmup_steps`, above 0.
        warmup_steps: Updates until the peak, at least 1.

    Call arguments:
        step: The equation's step, Integer () or Float (); Keras passes the number of updates made.

    Returns:
        The rate, Float ().

    Raises:
        ValueError: If `peak_learning_rate` is not above 0 or `warmup_steps` is below 1.
    """

    def __init__(self, peak_learning_rate: float, warmup_steps: int) -> None:
        if not peak_learning_rate > 0:
            raise ValueError(
                "peak_learning_rate must be above 0. Received:"
                f" peak_learning_rate={peak_learning_rate}. Choose 0.0007, as in the paper."
            )
        check_warmup_steps(warmup_steps)
        super().__init__()
        self.peak_learning_rate = peak_learning_rate
        self.warmup_steps = warmup_steps

    def __call__(self, step: int | Tensor) -> Tensor:
        step = ops.maximum(ops.cast(step, "float32"), 1.0)
        rising = step / self.warmup_steps
        falling = ops.sqrt(self.warmup_steps / step)
        return self.peak_learning_rate * ops.minimum(rising, falling)

    def get_config(self) -> dict[str, Any]:
        return {
            "peak_learning_rate": self.peak_learning_rate,
            "warmup_steps": self.warmup_steps,
        }


def check_warmup_steps(warmup_steps: int) -> None:
    """Raises ValueError unless there is at least one step of warm-up."""
    if not warmup_steps >= 1:
        raise ValueError(
            f"warmup_steps must be at least 1. Received: warmup_steps={warmup_steps}. Choose 4000,"
            " as in the paper."
        )
