"""The run folder of a trial, and the child process that trains it."""

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock

from training.command_line.errors import InputError
from training.runs.files import TEMPORARY_PREFIX
from training.runs.folder import START, RunFolder
from training.runs.record import RunRecord
from training.settings import TrainingSettings
from training.tuning.child_process import run_child

LOCK_SECONDS = 60  # a training stops within this time after its search has ended


class TrialFailed(Exception):
    """Raised if a trial's settings cannot be trained with; the message gives the reason."""


def train_apart(run: RunFolder, settings: TrainingSettings, watch: Callable[[], None]) -> None:
    """Trains a prepared run folder in a child process, with `run_apart`."""
    options = ["--config", str(run.config_path), "--output", str(run.path)]
    run_apart(run, "training.train", options, watch)


def run_apart(run: RunFolder, command: str, options: list[str], watch: Callable[[], None]) -> None:
    """Runs a command on a run folder in a child process, and writes its log beside the folder.

    First waits for another training in the folder to stop, since its search may have been killed.

    Raises:
        TrialFailed: If the run's settings are at fault.
        InputError: If the command fails for another reason, or another process keeps training in
            the folder.
        KeyboardInterrupt: If the command is stopped.
    """
    if run.path.exists():
        try:
            with filelock.FileLock(run.lock_path, timeout=LOCK_SECONDS):
                pass
        except filelock.Timeout as error:
            raise InputError(
                f"{run.path}: only one process may train in a folder. Received: another process"
                f" that is still running after {LOCK_SECONDS} seconds. Wait for that process, or"
                " stop it, and run the same command again."
            ) from error
    failure = run_child(command, options, _log_path(run), watch)
    if failure is not None:
        of_settings = failure.is_of_settings
        raise TrialFailed(failure.reason) if of_settings else stopped_by(run, failure.reason)


def stopped_by(run: RunFolder, reason: str) -> InputError:
    """Returns the error with which a run stops the search or the comparison."""
    where = f"The output of the training is in {_log_path(run)}."
    return InputError(f"{run.path}: {reason.rstrip('.')}. {where}")


def _log_path(run: RunFolder) -> Path:
    return run.path.with_name(f"{run.path.name}.log")


def epochs_of(run: RunFolder) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics that describe epochs."""
    return [line for line in run.read_metrics() if "epoch" in line]


class EpochLines:
    """Prints, on each call, the epochs of a run that ended since the previous call."""

    def __init__(self, run: RunFolder, objective: str):
        self.run = run
        self.objective = objective
        self.num_shown = len(run.read_metrics())

    def __call__(self) -> None:
        epochs = epochs_of(self.run)
        for line in epochs[self.num_shown :]:
            value, seconds = line.get(self.objective, math.nan), line["seconds"]
            print(f"  epoch {line['epoch']}: {self.objective} {value:.3f} ({seconds:.0f} s)")
        self.num_shown = len(epochs)


def prepare(
    run: RunFolder, record: RunRecord, tokenizer: Path, earlier: RunFolder | None = None
) -> None:
    """Makes an unfinished run folder unless it exists, either whole or not at all.

    Args:
        run: The folder to make.
        record: The settings to train with, and the fingerprints of the data.
        tokenizer: The run's tokenizer.model.
        earlier: A run that differs only in having fewer epochs. The new run continues it as if it
            had never ended, or starts over if its checkpoints are gone.
    """
    if run.path.exists():
        return
    staging = RunFolder(run.path.with_name(TEMPORARY_PREFIX + run.path.name))
    shutil.rmtree(staging.path, ignore_errors=True)
    staging.path.mkdir(parents=True)
    staging.write_record(record)
    shutil.copyfile(tokenizer, staging.tokenizer_path)
    if earlier is not None and earlier.position_saved > START:
        # A run replaces its files and never changes them, so both runs may share these.
        shutil.copytree(
            earlier.checkpoints_path, staging.checkpoints_path, copy_function=_link_or_copy
        )
        if earlier.logs_path.exists():
            shutil.copytree(earlier.logs_path, staging.logs_path)
        staging.write_metrics(epochs_of(earlier))
    os.rename(staging.path, run.path)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
