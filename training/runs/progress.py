"""Saves a run's progress in checkpoints and metrics.jsonl, and stops the run on request."""

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from typing import NoReturn

import keras

from training.command_line.errors import InputError, UnfitSettings
from training.command_line.running import Terminated, handling_signals
from training.devices.base import Devices
from training.runs.checkpoints import Progress, remove_other_checkpoints, save_checkpoint, values_of
from training.runs.early_stopping import is_over
from training.runs.folder import Position, RunFolder
from training.runs.kept_epochs import epochs_to_keep
from training.settings import TrainingSettings


class StopRequest:
    """Whether Ctrl-C or SIGTERM has asked the run to stop."""

    def __init__(self):
        self.reason: type[KeyboardInterrupt] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Notes the first signal, to stop after the current update; stops at once on the second."""
        with handling_signals(self._note, signal.SIGINT, signal.SIGTERM):
            yield

    def obey(self) -> None:
        """Raises KeyboardInterrupt or Terminated if a signal has arrived."""
        if self.reason is not None:
            raise self.reason

    def _note(self, number, _frame):
        reason = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self.reason is not None:
            raise reason
        self.reason = reason
        with contextlib.suppress(OSError):  # stderr is closed
            os.write(2, b"\nstopping after this update; once more stops at once\n")


class SaveProgress(keras.callbacks.Callback):
    """Writes checkpoints within epochs, and metrics and a checkpoint after each epoch.

    A run resumed from any checkpoint ends with the same weights as one that was never stopped:
    `fit` receives the remaining batches, and this callback the metrics of the earlier ones.

    Args:
        run: The run folder.
        settings: How often to save, how many to keep, and how long to train.
        progress: Where the run starts or resumes.
        stop_request: The request to stop, obeyed once a checkpoint has been written.
        devices: The devices that the run trains on; a request to one worker stops all.

    Raises:
        KeyboardInterrupt: On request, after writing a checkpoint.
        UnfitSettings: If the loss is not finite; writes no checkpoint then.
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
            self._set_metrics(resumed)
        self.unchecked = None

    def _set_metrics(self, resumed: Progress) -> None:
        variables = self.model.metrics_variables
        shapes = [tuple(variable.shape) for variable in variables]
        if shapes != [array.shape for array in resumed.metrics]:
            path = self.run.checkpoint_path(resumed.position, "state")
            raise InputError(
                f"{path}: must hold the metrics of this run. Received: those of a different model"
                " or version. Remove this file, to resume from an earlier one."
            )
        for variable, array in zip(variables, resumed.metrics, strict=True):
            variable.assign(array)

    def on_train_batch_end(self, batch, logs=None):
        # Reading a loss waits for the device, so read it while the device computes the next batch.
        self._check_finite()
        position = Position(self.epoch, self.first_batch + batch + 1)
        self.unchecked = (position, (logs or {}).get("loss", 0.0))
        if batch + 1 == self.params["steps"]:
            return  # on_epoch_end comes next
        steps = self.settings.checkpoint_steps
        is_due = steps is not None and position.batch % steps == 0
        is_stop = self._must_stop()
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
        if self._must_stop():
            self._stop()
        if self.devices.from_chief(is_over(metrics, self.settings)):
            self.model.stop_training = True

    def _must_stop(self) -> bool:
        return self.devices.someone_wants(self.stop_request.reason is not None)

    def _stop(self) -> NoReturn:
        self.stop_request.obey()
        raise Terminated  # the signal came to another worker

    def _save(self, position: Position, seconds: float = 0.0) -> None:
        self._check_finite()
        save_checkpoint(self.run, self.model, position, seconds)
        epochs = epochs_to_keep(self.run.read_metrics(), self.settings)
        remove_other_checkpoints(self.run, position, self.settings.keep_checkpoints, epochs)

    def _check_finite(self) -> None:
        """Refuses a loss that is not finite, which stays so because it is the epoch's mean."""
        if self.unchecked is None:
            return
        (epoch, batch), loss = self.unchecked
        self.unchecked = None
        if not math.isfinite(float(loss)):
            raise UnfitSettings(
                f"The training loss must stay finite. Received: loss={float(loss)} in batch"
                f" {-(-batch // self.settings.accumulation_steps)} of epoch {epoch + 1}, update"
                f" {self._num_updates()}."
                " The last checkpoint is kept; train with another --output and a lower"
                " peak_learning_rate, more warmup_steps, or dtype_policy float32."
            )

    def _num_updates(self) -> int:
        return int(*values_of([self.model.optimizer.iterations]))
