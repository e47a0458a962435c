"""What happens when an epoch of training ends, and what stops one."""

import math
import time
from typing import Any

import keras

from training.checkpoints import remove_other_checkpoints, save_checkpoint
from training.command import InputError
from training.run_folder import RunFolder

SECONDS_BETWEEN_LOOKS = 1.0


class EpochEnd(keras.callbacks.Callback):
    """Adds the epoch's line to metrics.jsonl, then commits the epoch with a checkpoint.

    Args:
        run: The run folder.
        average_checkpoints: How many epochs' weights the end of training wants; 1 wants the best.
        max_minutes: When to end the training, as for `time_is_up`.
    """

    def __init__(self, run: RunFolder, average_checkpoints: int, max_minutes: float | None = None):
        super().__init__()
        self.run = run
        self.average_checkpoints = average_checkpoints
        self.max_minutes = max_minutes

    def on_epoch_begin(self, epoch, logs=None):
        self.start_seconds = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        num_epochs = epoch + 1
        line = {"epoch": num_epochs}
        line |= {name: float(value) for name, value in (logs or {}).items()}
        line["learning_rate"] = float(self.model.optimizer.learning_rate)
        line["steps"] = int(self.model.optimizer.iterations)
        line["seconds"] = round(time.monotonic() - self.start_seconds, 3)
        metrics = [*self.run.read_metrics(), line]
        self.run.write_metrics(metrics)
        save_checkpoint(self.run, self.model, num_epochs)
        wanted = epochs_wanted(metrics, self.average_checkpoints)
        remove_other_checkpoints(self.run, wanted, latest=num_epochs)
        if time_is_up(metrics, self.max_minutes):
            self.model.stop_training = True


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stops a training that has diverged, before its weights reach a checkpoint.

    The loss in the logs is a mean over the epoch, so what was not finite once stays so. It is
    looked at once a second, because reading it waits for the device.

    Raises:
        InputError: If it is not finite.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self.last_look_seconds = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() - self.last_look_seconds >= SECONDS_BETWEEN_LOOKS:
            self._check(logs)
            self.last_look_seconds = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs)

    def _check(self, logs):
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise InputError(
                f"The training loss must stay finite. Received: loss={loss} by update"
                f" {int(self.model.optimizer.iterations)}. The last complete epoch is kept; train"
                " another --output with a lower peak_learning_rate, more warmup_steps, or"
                " dtype_policy float32."
            )


def time_is_up(metrics: list[dict[str, Any]], max_minutes: float | None) -> bool:
    """Whether one more epoch, as long as the last, would end after `max_minutes` of epochs.

    The epochs before an interruption count, too; the time between does not.

    Args:
        metrics: A line for each epoch so far.
        max_minutes: None is no limit.
    """
    seconds = [line["seconds"] for line in metrics if "epoch" in line]
    if max_minutes is None or not seconds:
        return False
    return sum(seconds) + seconds[-1] > 60 * max_minutes


def epochs_wanted(metrics: list[dict[str, Any]], average_checkpoints: int) -> list[int]:
    """The epochs whose weights would make the model, if training ended now.

    Args:
        metrics: A line for each epoch so far.
        average_checkpoints: How many of the last epochs; 1 is the one epoch of the lowest
            validation perplexity, the first of equals.
    """
    lines = [line for line in metrics if "epoch" in line]
    if average_checkpoints == 1:
        lines = [min(lines, key=lambda line: line["val_perplexity"])]
    return [line["epoch"] for line in lines[-average_checkpoints:]]


def cut_metrics(run: RunFolder, epochs_done: int) -> None:
    """Drops lines of epochs that will be trained again."""
    metrics = run.read_metrics()
    kept = [line for line in metrics if line.get("epoch", epochs_done + 1) <= epochs_done]
    if kept != metrics:
        run.write_metrics(kept)
