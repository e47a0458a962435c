"""What a training writes down as it goes, and what stops it."""

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import keras

from keras_transformer.wording import counted
from training.command_line.errors import UnfitSettings
from training.command_line.running import Terminated, handling_signals
from training.devices.base import Devices
from training.runs.checkpoints import Progress, remove_other_checkpoints, save_checkpoint, values_of
from training.runs.folder import Position, RunFolder
from training.runs.monitor import badness
from training.settings import TrainingSettings


class StopRequest:
    """Whether somebody has asked the training to stop: Ctrl-C, or SIGTERM."""

    def __init__(self):
        self.reason: type[KeyboardInterrupt] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Notes the first signal, to stop after the update that is running; obeys the second."""
        with handling_signals(self._note, signal.SIGINT, signal.SIGTERM):
            yield

    def obey(self) -> None:
        """Raises KeyboardInterrupt, or Terminated, if there was a signal."""
        if self.reason is not None:
            raise self.reason

    def _note(self, number, _frame):
        reason = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self.reason is not None:
            raise reason
        self.reason = reason
        with contextlib.suppress(OSError):  # a stderr that is closed
            os.write(2, b"\nstopping after this update; once more stops at once\n")


class SaveProgress(keras.callbacks.Callback):
    """Writes checkpoints within epochs, and at their end a line of metrics and a checkpoint.

    A training that is taken up again from any of them goes on as if nothing had happened: `fit`
    is handed the batches that were left, this callback the metrics of those before.

    Args:
        run: The run folder.
        settings: How often, how many, and how long.
        progress: Where the training is taken up.
        stop_request: Is obeyed as soon as a checkpoint is written.
        devices: Where the training runs: of several workers, a request to one stops all.

    Raises:
        KeyboardInterrupt: On request; a checkpoint has been written then.
        UnfitSettings: If the loss is not finite; no checkpoint is written then.
    """

    def __init__(
        self,
        run: RunFolder,
        settings: TrainingSettings,
        progress: Progress,
        stop_request: StopRequest,
        devices: Devices | None = None,
    ):
        super().__init__()
        self.devices = devices or Devices()
        self.run = run
        self.settings = settings
        self.resumed = progress
        self.stop_request = stop_request

    def on_epoch_begin(self, epoch, logs=None):
        resumed = self.resumed if epoch == self.resumed.position.epoch else Progress()
        self.epoch, self.first_batch = epoch, resumed.position.batch
        self.start_seconds = time.monotonic() - resumed.seconds
        if resumed.metrics:
            for variable, array in zip(self.model.metrics_variables, resumed.metrics, strict=True):
                variable.assign(array)
        self.unchecked = None

    def on_train_batch_end(self, batch, logs=None):
        # Reading a loss waits for the device, so each is read when the next batch is under way.
        self._check_finite()
        position = Position(self.epoch, self.first_batch + batch + 1)
        self.unchecked = (position, (logs or {}).get("loss", 0.0))
        if batch + 1 == self.params["steps"]:
            return  # on_epoch_end comes next
        steps = self.settings.checkpoint_steps
        is_due = steps is not None and position.batch % steps == 0
        is_stop = self.devices.someone_wants(self.stop_request.reason is not None)
        if is_due or is_stop:
            self._save(position, time.monotonic() - self.start_seconds)
        if is_stop:
            self._stop()

    def on_epoch_end(self, epoch, logs=None):
        self._check_finite()
        line = {"epoch": epoch + 1}
        line |= {name: float(value) for name, value in (logs or {}).items()}
        line["learning_rate"] = float(self.model.optimizer.learning_rate)
        line["steps"] = self._num_updates()
        line["seconds"] = round(time.monotonic() - self.start_seconds, 3)
        metrics = [*self.run.read_metrics(), line]
        self.run.write_metrics(metrics)
        self._save(Position(epoch + 1, 0))
        if self.devices.someone_wants(self.stop_request.reason is not None):
            self._stop()
        if self.devices.from_chief(is_over(metrics, self.settings)):
            self.model.stop_training = True

    def _stop(self) -> NoReturn:
        self.stop_request.obey()
        raise Terminated  # the signal came to another worker

    def _save(self, position: Position, seconds: float = 0.0) -> None:
        self._check_finite()
        save_checkpoint(self.run, self.model, position, seconds)
        wanted = epochs_kept(self.run.read_metrics(), self.settings)
        remove_other_checkpoints(self.run, position, self.settings.keep_checkpoints, wanted)

    def _check_finite(self) -> None:
        """The logs hold the mean over the epoch, so what was not finite once stays so."""
        if self.unchecked is None:
            return
        (epoch, batch), loss = self.unchecked
        self.unchecked = None
        if not math.isfinite(float(loss)):
            raise UnfitSettings(
                f"The training loss must stay finite. Received: loss={float(loss)} in batch"
                f" {-(-batch // self.settings.accumulation_steps)} of epoch {epoch + 1}, update"
                f" {self._num_updates()}."
                " The last checkpoint is kept; train another --output with a lower"
                " peak_learning_rate, more warmup_steps, or dtype_policy float32."
            )

    def _num_updates(self) -> int:
        return int(*values_of([self.model.optimizer.iterations]))


def time_is_up(metrics: list[dict[str, Any]], max_minutes: float | None) -> bool:
    """Whether one more epoch, as long as the last, would end after `max_minutes` of epochs.

    The epochs before an interruption count, too; the time between does not.

    Args:
        metrics: A line for each epoch so far.
        max_minutes: None is no limit.
    """
    seconds = [line["seconds"] for line in metrics if "epoch" in line]
    return bool(seconds) and seconds[-1] > seconds_left(metrics, max_minutes)


def seconds_left(metrics: list[dict[str, Any]], max_minutes: float | None) -> float:
    """What the epochs so far leave of `max_minutes`; infinity if there is no limit."""
    if max_minutes is None:
        return math.inf
    return 60 * max_minutes - sum(line["seconds"] for line in metrics if "epoch" in line)


def short_warmup(settings: TrainingSettings, num_batches: int) -> str | None:
    """A warning for a training that would end during its warm-up; None if it would not.

    Args:
        settings: Of the training; it is assumed not to end early.
        num_batches: Updates in an epoch.
    """
    updates, warmup_steps = settings.epochs * num_batches, settings.warmup_steps
    if updates >= warmup_steps:
        return None
    return (
        "warning: the training would end during its warm-up, and hardly learn: it has"
        f" {counted(updates, 'update')} ({counted(settings.epochs, 'epoch')} of"
        f" {counted(num_batches, 'batch', 'batches')}), and the rate rises until update"
        f" {warmup_steps:,} (warmup_steps). Choose for example warmup_steps={max(1, updates // 4)}"
        f" with peak_learning_rate={settings.highest_rate:.2g} (the present peak), more epochs, or"
        " a smaller batch_tokens."
    )


def epochs_wanted(metrics: list[dict[str, Any]], settings: TrainingSettings) -> list[int]:
    """The epochs whose weights would make the model, if training ended now, in their order.

    The last ones are never more than half of all (rounded up): in a short training the weights of
    the first epochs would spoil the mean.

    Args:
        metrics: A line for each epoch so far.
        settings: How many epochs, and which: the last, or the best; of equals the first.
    """
    lines = [line for line in metrics if "epoch" in line]
    count = settings.average_checkpoints
    if count == 1 or settings.average_epochs == "best":
        lines = sorted(lines, key=lambda line: badness(line, settings.monitor))[:count]
    else:
        lines = lines[-min(count, -(-len(lines) // 2)) :]
    return sorted(line["epoch"] for line in lines)


def best_epoch(metrics: list[dict[str, Any]], settings: TrainingSettings) -> int | None:
    """The best epoch so far by `monitor`, of equals the first; None if there is none."""
    lines = [line for line in metrics if "epoch" in line]
    best = min(lines, key=lambda line: badness(line, settings.monitor), default=None)
    return best and best["epoch"]


def epochs_kept(metrics: list[dict[str, Any]], settings: TrainingSettings) -> list[int]:
    """The epochs whose weights are needed at the end: to be averaged, and the best one."""
    best = best_epoch(metrics, settings)
    return sorted({*epochs_wanted(metrics, settings), *([] if best is None else [best])})


def is_over(metrics: list[dict[str, Any]], settings: TrainingSettings) -> bool:
    """Whether no epoch is to follow those that the metrics tell of.

    All that decides is in the metrics, so a training that is taken up again decides the same.
    """
    num_epochs = sum("epoch" in line for line in metrics)
    return num_epochs >= settings.epochs or early_end(metrics, settings) is not None


def early_end(metrics: list[dict[str, Any]], settings: TrainingSettings) -> str | None:
    """Why a training ends before it has all its epochs, in one line; None if it does not."""
    num_epochs = sum("epoch" in line for line in metrics)
    if num_epochs >= settings.epochs:
        return None
    reason = None
    if time_is_up(metrics, settings.max_minutes):
        reason = f"one more would take it beyond {settings.max_minutes:g} minutes (max_minutes)"
    elif _is_hopeless(metrics, settings):
        count = settings.early_stopping_epochs
        last = "the last" if count == 1 else f"the last {count}"
        reason = f"{last} brought no better {settings.monitor} (early_stopping_epochs)"
    return reason and f"ended after {num_epochs} of {settings.epochs} epochs: {reason}"


def _is_hopeless(metrics: list[dict[str, Any]], settings: TrainingSettings) -> bool:
    """Whether the best epoch lies as far back as early stopping allows."""
    lines = [line for line in metrics if "epoch" in line]
    if settings.early_stopping_epochs is None or not lines:
        return False
    return lines[-1]["epoch"] - best_epoch(metrics, settings) >= settings.early_stopping_epochs


def cut_metrics(run: RunFolder, epochs_done: int) -> None:
    """Drops lines of epochs that will be trained again."""
    metrics = run.read_metrics()
    kept = [line for line in metrics if line.get("epoch", epochs_done + 1) <= epochs_done]
    if kept != metrics:
        run.write_metrics(kept)
