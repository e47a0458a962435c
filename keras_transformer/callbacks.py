"""Callbacks for `model.fit`."""

import math
import time
from typing import Any

import keras
import numpy as np

from keras_transformer.averaging import averaged_variables, innermost_optimizer
from keras_transformer.metrics import Perplexity

LOG_KEY = "tokens_per_second"
SECONDS_BETWEEN_READINGS = 0.5


class TokensPerSecond(keras.callbacks.Callback):
    """Shows the training speed of the epoch in fit's progress bar, as `tokens_per_second`.

    Counts target tokens without padding, like the compiled model's `Perplexity` (with sample
    weights, the sum of the tokens' weights). Excludes validation, and the first batch of a fit,
    which builds the graph.

    Adds the number to the logs of batches and epochs for the callbacks after this one: History, the
    progress bar, CSVLogger. So put it first in the list. Reads the count after an epoch's first
    batches and then at most twice a second, because reading waits for the device. With several
    workers (`tf.distribute`), each reads its own count and assumes that the others' are the same.

    Raises:
        ValueError: At the end of fit's first batch (when Keras builds the metrics) if the model
            was compiled without a Perplexity.

    Example:
        model.compile(..., weighted_metrics=[Perplexity()])
        model.fit(..., callbacks=[TokensPerSecond()])
    """

    def __init__(self) -> None:
        super().__init__()
        self._tokens_per_second = 0.0
        self._is_first_batch = True
        self._is_epoch_running = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._is_first_batch = True

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._is_epoch_running = True
        self._start_clock(num_tokens=0.0)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._is_first_batch:
            self._read()
            self._start_clock(num_tokens=self._num_tokens())
            self._is_first_batch = False
        elif time.monotonic() - self._last_reading_seconds >= SECONDS_BETWEEN_READINGS:
            self._read()
        self._add_to(logs)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        # Validation resets the metrics, and its time does not count.
        self._end_epoch()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._end_epoch()
        self._add_to(logs)

    def _end_epoch(self) -> None:
        if self._is_epoch_running:
            self._read()
        self._is_epoch_running = False

    def _start_clock(self, num_tokens: float) -> None:
        self._start_tokens = num_tokens
        self._start_seconds = time.monotonic()
        self._last_reading_seconds = -math.inf  # read after the next batch: the speed is old

    def _read(self) -> None:
        tokens = self._num_tokens() - self._start_tokens
        # The clock is read only now, since reading the count waits for the steps still running.
        self._last_reading_seconds = time.monotonic()
        if tokens > 0:  # else the epoch's only batch has been read already
            seconds = self._last_reading_seconds - self._start_seconds
            self._tokens_per_second = tokens / seconds

    def _num_tokens(self) -> float:
        count = _perplexity_of(self.model).num_tokens
        copies = getattr(count.value, "values", None)
        if copies is None:
            return float(keras.ops.convert_to_numpy(count))
        # Summing over workers would require all of them to ask at the same time.
        own = sum(float(copy) for copy in copies)
        return own * self.model.distribute_strategy.num_replicas_in_sync / len(copies)

    def _add_to(self, logs: dict[str, Any] | None) -> None:
        if logs is not None:
            logs[LOG_KEY] = self._tokens_per_second


class GradientNorm(keras.callbacks.Callback):
    """Shows the norm of the last update's gradient at the end of each epoch, as `gradient_norm`.

    Adds the number to the epoch's logs for the callbacks after this one, if the model is compiled
    with `Adam(track_gradient_norm=True)` on TensorFlow; otherwise does nothing.

    Example:
        model.compile(optimizer=Adam(1e-3, track_gradient_norm=True), ...)
        model.fit(..., callbacks=[GradientNorm()])
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        norm = getattr(innermost_optimizer(self.model), "gradient_norm", None)
        if norm is not None and logs is not None:
            logs["gradient_norm"] = float(norm.numpy())


class AveragedWeights(keras.callbacks.Callback):
    """Validates with the moving averages of the weights; training continues without them.

    The model holds the averages from the start of an epoch's validation to the epoch's end:
    callbacks before this one see them in `on_epoch_end`, those after it see the weights. An epoch
    without validation never uses them.

    A fit interrupted during validation leaves the averages in the model; `close`, or the next fit
    with the same callback, restores the weights.

    Raises:
        ValueError: At the start of a validation, if the model's optimizer keeps no averages.

    Example:
        model.compile(optimizer=Adam(1e-3, ema_decay=0.999), ...)
        with contextlib.closing(AveragedWeights()) as averaged_weights:
            model.fit(..., callbacks=[averaged_weights])
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: list[np.ndarray] | None = None  # set while the model holds the averages

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.close()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        model = self.model
        averages = _copies(averaged_variables(model))
        if self._weights is None:
            self._weights = _copies(model.weights)
        _assign(model.weights, averages)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Restores the model's own weights if it holds the averages."""
        if self._weights is not None:
            _assign(self.model.weights, self._weights)
            self._weights = None


def _copies(variables: list[keras.Variable]) -> list[np.ndarray]:
    """Copies the variables' values, since JAX reuses the memory of variables."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables: list[keras.Variable], arrays: list[np.ndarray]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _perplexity_of(model: keras.Model) -> Perplexity:
    """Returns the first Perplexity that the model was compiled with."""
    for metric in model.metrics:
        for candidate in [metric, *getattr(metric, "metrics", [])]:
            if isinstance(candidate, Perplexity):
                return candidate
    raise ValueError(
        "TokensPerSecond needs a model compiled with a Perplexity, which counts the tokens."
        f" Received: metrics={[metric.name for metric in model.metrics]}. Compile with"
        " weighted_metrics=[Perplexity()]."
    )
