"""Shows the progress of training: a bar on a terminal, lines elsewhere."""

import math
import time
from collections.abc import Callable

import keras

from keras_transformer.callbacks import LOG_KEY
from training.runs.folder import START, Position


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Shows Keras' bar, or its line per epoch; counts whole batches, not their parts.

    Args:
        num_parts: Parts of each batch.
    """

    def __init__(self, num_parts: int):
        super().__init__()
        self._num_parts = num_parts

    def set_params(self, params):
        self._num_steps = params["steps"]
        super().set_params({**params, "steps": math.ceil(self._num_steps / self._num_parts)})

    def on_train_batch_end(self, batch, logs=None):
        # Counts from the end, since a resumed epoch may start within a batch.
        parts_left = self._num_steps - batch - 1
        if parts_left % self._num_parts == 0:
            super().on_train_batch_end(self.target - parts_left // self._num_parts - 1, logs)


class ProgressLines(keras.callbacks.Callback):
    """Prints a line at intervals: the position, the quality of the model, and the speed.

    Estimates the time left from the speed since the first update, including validation.

    Args:
        seconds: The time between two lines.
        epochs: Epochs of the run.
        num_batches: Batches in an epoch.
        num_parts: Parts of each batch.
        first: The position where training starts or resumes; its `batch` counts parts.
        most_seconds: The most time that training may take from now.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        seconds: float,
        *,
        epochs: int,
        num_batches: int,
        num_parts: int = 1,
        first: Position = START,
        most_seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self._seconds, self._clock = seconds, clock
        self._epochs, self._num_batches, self._num_parts = epochs, num_batches, num_parts
        self._first = first
        self._last_line_seconds = clock()
        self._end_seconds = self._last_line_seconds + most_seconds
        self._after_first_update = None  # parts done, and the time in seconds

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._parts_before = self._first.batch if epoch == self._first.epoch else 0

    def on_train_batch_end(self, batch, logs=None):
        part = self._parts_before + batch + 1
        parts_done = self._epoch * self._num_batches * self._num_parts + part
        if self._after_first_update is None:
            self._after_first_update = parts_done, self._clock()
        if self._is_due():
            number = math.ceil(part / self._num_parts)
            batch_in_words = f"batch {number:,} of {self._num_batches:,}: {_quality(logs or {})}"
            self._print([batch_in_words, *self._pace(logs or {}, parts_done)])

    def on_test_batch_end(self, batch, logs=None):
        if self._is_due():
            self._print([f"validation, batch {batch + 1:,}"])

    def _is_due(self) -> bool:
        now = self._clock()
        if now - self._last_line_seconds < self._seconds:
            return False
        self._last_line_seconds = now
        return True

    def _print(self, what: list[str]) -> None:
        print(", ".join([f"epoch {self._epoch + 1} of {self._epochs}", *what]), flush=True)

    def _pace(self, logs: dict, parts_done: int) -> list[str]:
        """Formats speed and time left; unknown after the first update, which builds the graph."""
        first_parts, first_seconds = self._after_first_update
        if parts_done == first_parts:
            return []
        now = self._clock()
        seconds_a_part = (now - first_seconds) / (parts_done - first_parts)
        parts_left = self._epochs * self._num_batches * self._num_parts - parts_done
        left = duration(min(parts_left * seconds_a_part, self._end_seconds - now))
        speed = [f"{logs[LOG_KEY]:,.0f} tokens/s"] if LOG_KEY in logs else []
        return [*speed, f"{left} left"]


def duration(seconds: float) -> str:
    """Formats a time in its two largest units, such as 2 h 05 min."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _quality(logs: dict) -> str:
    names = [name for name in ("loss", "perplexity") if name in logs]
    return ", ".join(f"{name} {float(logs[name]):.4g}" for name in names)
