"""A trial: a run folder that is trained up to some epoch, and what came of it."""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from training.command_line.errors import InputError, input_errors
from training.devices.base import Devices
from training.files import TEMPORARY_PREFIX, replacing, write_text
from training.runs.folder import START, RunFolder
from training.runs.monitor import badness
from training.runs.record import RunRecord
from training.runs.text import check_text, shared_tokenizer
from training.settings import TrainingSettings
from training.tuning.child_process import Failure, run_child
from training.tuning.plan import SearchFolder, SearchPlan

if TYPE_CHECKING:
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer

COMPLETED, FAILED = "completed", "failed"
LOCK_SECONDS = 60  # how long a training needs to stop once its search is gone


class TrialFailed(Exception):
    """The settings of a trial cannot be trained with; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial.

    Attributes:
        trial: Its name.
        status: COMPLETED or FAILED.
        settings: The tuned ones, by name.
        reason: Why it failed, or None.
        objective: The best of its epochs, or None.
        perplexity: Of the validation text in that epoch, which ranks equal objectives; or None.
        best_epoch: The epoch that they are of, from 1.
        epochs: How many it has, those of the trial that it continues included.
        parameters: Of its model; None where it came to none.
        vocabulary_size: Sub-words of its tokenizer, which may be fewer than were asked for.
        minutes: Of training, those of the trial that it continues included.
        continues: The trial of a lower rung that it took up, or None.
    """

    trial: str
    status: str
    settings: dict[str, Any]
    reason: str | None = None
    objective: float | None = None
    perplexity: float | None = None
    best_epoch: int | None = None
    epochs: int = 0
    parameters: int | None = None
    vocabulary_size: int | None = None
    minutes: float = 0.0
    continues: str | None = None

    def badness(self, objective: str) -> tuple[float, float]:
        """What a better one of the completed trials has less of."""
        # Trials of earlier versions do not know their perplexity.
        perplexity = math.inf if self.perplexity is None else self.perplexity
        return badness({objective: self.objective, "val_perplexity": perplexity}, objective)


def train_apart(run: RunFolder, settings: TrainingSettings, watch: Callable[[], None]) -> None:
    """Trains a prepared run folder in a process of its own.

    Raises:
        TrialFailed: If it fails because of its settings.
        InputError: If it fails for another reason.
        KeyboardInterrupt: If it is stopped.
    """
    await_free(run)
    options = ["--config", str(run.config_path), "--output", str(run.path)]
    failure = run_child("training.train", options, log_path(run), watch)
    if failure is None:
        return
    if failure.is_of_settings:
        raise TrialFailed(failure.reason)
    raise failed_to_train(run, failure)


def await_free(run: RunFolder) -> None:
    """Waits for a training whose search was killed and that is still about to stop.

    Raises:
        InputError: If it goes on.
    """
    if not run.path.exists():
        return
    try:
        with filelock.FileLock(run.lock_path, timeout=LOCK_SECONDS):
            pass
    except filelock.Timeout as error:
        raise InputError(
            f"{run.path}: only one process may train in a folder. Received: another one is still at"
            f" work after {LOCK_SECONDS} seconds. Wait for it, or stop it, and run the same command"
            " again."
        ) from error


def failed_to_train(run: RunFolder, failure: Failure) -> InputError:
    """The error of a command that failed for another reason than its settings."""
    return InputError(
        f"{run.path}: {failure.reason.rstrip('.')}. What the training printed is in"
        f" {log_path(run)}."
    )


def log_path(run: RunFolder) -> Path:
    """Where the trainings of a run folder print to."""
    return run.path.with_name(f"{run.path.name}.log")


class Trials:
    """The trials of a search, as they lie in its folder.

    Args:
        folder: The search's.
        plan: What is searched.
        train: Trains a prepared run folder: `train_apart`, or what does as it does.
    """

    def __init__(
        self,
        folder: SearchFolder,
        plan: SearchPlan,
        train: Callable[[RunFolder, TrainingSettings, Callable[[], None]], None] = train_apart,
    ):
        self.folder = folder
        self.plan = plan
        self.train = train

    def run(self, trial: str) -> RunFolder:
        return RunFolder(self.folder.trials_path / trial)

    def outcome(self, trial: str) -> Outcome | None:
        """What came of a trial; None while it is not over."""
        path = self._outcome_path(trial)
        if not path.exists():
            return None
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))

    def perform(self, trial: str, values: Mapping[str, Any]) -> Outcome:
        """Trains a trial, or what is left of it.

        Args:
            trial: Its name.
            values: Of Keras Tuner, with the epochs and the lower trial of Hyperband.

        Raises:
            InputError: If it cannot be trained, for a reason that all trials share.
            KeyboardInterrupt: If it is stopped; it goes on when it is performed again.
        """
        outcome = self.outcome(trial)
        if outcome is None:
            outcome = self._perform(trial, values)
            content = json.dumps(dataclasses.asdict(outcome))
            write_text(self._outcome_path(trial), content + "\n")
        return outcome

    def _perform(self, trial: str, values: Mapping[str, Any]) -> Outcome:
        self.folder.trials_path.mkdir(exist_ok=True)
        chosen = self.plan.space.settings(values)
        earlier = values.get("tuner/trial_id")
        about = {"trial": trial, "settings": chosen, "continues": earlier}
        try:
            self._check_earlier(earlier)
            settings = self._settings(chosen, values.get("tuner/epochs", self.plan.max_epochs))
            path, tokenizer = self._tokenizer(settings)
            about["vocabulary_size"] = tokenizer.vocabulary_size
            about["parameters"] = num_parameters(settings, tokenizer.vocabulary_size)
            run = self.run(trial)
            record = RunRecord(settings, self.plan.record.data_sha256).with_tokenizer(tokenizer)
            prepare(run, record, path, self.run(earlier) if earlier else None)
            if not run.is_finished:
                self.train(run, settings, EpochLines(run, self.plan.objective))
            return self._measured(about)
        except TrialFailed as error:
            return self._measured(about, str(error))

    def _settings(self, chosen: dict[str, Any], epochs: int) -> TrainingSettings:
        try:
            return self.plan.trial_settings(chosen, epochs)
        except ValueError as error:
            raise TrialFailed(str(error)) from error

    def _check_earlier(self, earlier: str | None) -> None:
        outcome = self.outcome(earlier) if earlier else None
        if outcome is not None and outcome.status == FAILED:
            raise TrialFailed(f"continues trial {earlier}, which failed: {outcome.reason}")

    def _tokenizer(self, settings: TrainingSettings) -> tuple[Path, "SubwordTokenizer"]:
        """The tokenizer that trials of the same sub-words share, and where it lies."""
        name = f"{settings.tokenizer_type}_{settings.vocabulary_size}"
        if settings.normalization != "none":
            name += f"_{settings.normalization}"
        run = RunFolder(self.folder.tokenizers_path / name)
        run.path.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(run.lock_path):
            try:
                tokenizer = shared_tokenizer(run, settings, Devices())
            except input_errors() as error:
                if settings.tokenizer is not None or settings.initial_run is not None:
                    raise
                check_text(settings)  # what cannot be read is no fault of the vocabulary
                raise TrialFailed(str(error)) from error
            if not run.tokenizer_path.exists():
                with replacing(run.tokenizer_path) as temporary:
                    tokenizer.save(temporary)
        return run.tokenizer_path, tokenizer

    def _measured(self, about: dict[str, Any], reason: str | None = None) -> Outcome:
        """The outcome that the metrics of the epochs tell of."""
        lines = [line for line in self.run(about["trial"]).read_metrics() if "epoch" in line]
        name = self.plan.objective
        if reason is None and not lines:
            reason = "no epoch was trained"
        best = min(lines, key=lambda line: badness(line, name), default={})
        if reason is None and not math.isfinite(best[name]):
            reason = f"{name} must be finite. Received: {best[name]}."
        if reason is not None:
            best = {}
        return Outcome(
            **about,
            status=COMPLETED if reason is None else FAILED,
            reason=reason,
            objective=best.get(name),
            perplexity=best.get("val_perplexity"),
            best_epoch=best.get("epoch"),
            epochs=len(lines),
            minutes=sum(line["seconds"] for line in lines) / 60,
        )

    def drop_checkpoints(self, trial: str) -> None:
        """Removes what only a continuation needs."""
        shutil.rmtree(self.run(trial).checkpoints_path, ignore_errors=True)

    def drop_model(self, trial: str) -> None:
        self.run(trial).model_path.unlink(missing_ok=True)

    def _outcome_path(self, trial: str) -> Path:
        return self.folder.trials_path / f"{trial}.json"


class EpochLines:
    """Prints a line for each epoch that appears in a run's metrics, each time it is called."""

    def __init__(self, run: RunFolder, objective: str):
        self.run = run
        self.objective = objective
        self.num_shown = len(run.read_metrics())

    def __call__(self) -> None:
        lines = [line for line in self.run.read_metrics() if "epoch" in line]
        for line in lines[self.num_shown :]:
            value, seconds = line.get(self.objective, math.nan), line["seconds"]
            print(f"  epoch {line['epoch']}: {self.objective} {value:.3f} ({seconds:.0f} s)")
        self.num_shown = len(lines)


def prepare(
    run: RunFolder, record: RunRecord, tokenizer: Path, earlier: RunFolder | None = None
) -> None:
    """Makes an unfinished run folder, whole or not at all, unless it is there.

    Args:
        run: The folder.
        record: What it is to be trained with.
        tokenizer: Its tokenizer.model.
        earlier: A run with fewer epochs and otherwise the same settings, from which it goes on
            as if it had never ended. If its checkpoints are gone, the training starts anew.
    """
    if run.path.exists():
        return
    staging = RunFolder(run.path.with_name(TEMPORARY_PREFIX + run.path.name))
    shutil.rmtree(staging.path, ignore_errors=True)
    staging.path.mkdir(parents=True)
    staging.write_record(record)
    shutil.copyfile(tokenizer, staging.tokenizer_path)
    if earlier is not None and earlier.position_saved > START:
        # Files of a run are replaced, never changed, so that both may have the same one.
        shutil.copytree(
            earlier.checkpoints_path, staging.checkpoints_path, copy_function=_link_or_copy
        )
        if earlier.logs_path.exists():
            shutil.copytree(earlier.logs_path, staging.logs_path)
        staging.write_metrics([line for line in earlier.read_metrics() if "epoch" in line])
    os.rename(staging.path, run.path)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def num_parameters(settings: TrainingSettings, vocabulary_size: int) -> int:
    """How many parameters the model of some settings has; nothing is allocated for them."""
    import keras

    from training.runs.architectures import build_model

    with keras.StatelessScope(initialize_variables=False):
        model = build_model(settings, vocabulary_size)
        return sum(math.prod(weight.shape) for weight in model.weights)
