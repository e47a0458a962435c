"""The trials of a search: turns values into settings, a trained run folder, and an outcome."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import filelock

from training.command_line.errors import input_errors
from training.devices.base import Devices
from training.runs.architectures import num_parameters
from training.runs.files import replacing, write_text
from training.runs.folder import RunFolder
from training.runs.monitor import badness, needs_translations
from training.runs.record import RunRecord, with_sub_words_of
from training.runs.text import check_text, shared_tokenizer
from training.settings import TrainingSettings
from training.tuning.plan import SearchFolder, SearchPlan
from training.tuning.trial_run import (
    EpochLines,
    TrialFailed,
    epochs_of,
    prepare,
    train_apart,
)

if TYPE_CHECKING:
    from keras_transformer.text.tokenizer_pair import Tokenizer

COMPLETED, FAILED, RUNNING, PASSED_OVER = "completed", "failed", "running", "passed over"


class Complaint(NamedTuple):
    """The reason not to train with given values, and the model's size if that is the reason."""

    reason: str
    parameters: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a trial, or of values that the search passed over."""

    trial: str | None  # the trial's name; None if the values were passed over
    status: str  # COMPLETED, FAILED, RUNNING or PASSED_OVER
    settings: dict[str, Any]  # the tuned settings, by name
    reason: str | None = None  # why the trial failed, or the values were passed over
    objective: float | None = None  # of the best epoch
    perplexity: float | None = None  # of the best epoch; ranks trials with equal objectives
    best_epoch: int | None = None  # from 1
    epochs: int | None = None  # including those of the trial that this one continues
    parameters: int | None = None
    vocabulary_size: int | None = None  # of the tokenizer; may be less than requested
    minutes: float | None = None  # of training, including the trial that this one continues
    continues: str | None = None  # the trial of a lower rung that this one continues

    def badness(self, objective: str) -> tuple[float, float]:
        """Returns a sort key that puts the better of two completed trials first."""
        # Trials of earlier versions have no perplexity.
        perplexity = math.inf if self.perplexity is None else self.perplexity
        return badness({objective: self.objective, "val_perplexity": perplexity}, objective)


def best_of(outcomes: Iterable[Outcome], objective: str) -> Outcome | None:
    """Returns the best completed trial; None if there is none."""
    completed = [outcome for outcome in outcomes if outcome.status == COMPLETED]
    return min(completed, key=lambda outcome: outcome.badness(objective), default=None)


class Trials:
    """The trials of a search, in its folder.

    Args:
        folder: The folder of the search.
        plan: The plan of the search.
        train: Trains a prepared run folder, as `train_apart` does.
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
        """Reads the outcome of a trial; None until the trial has ended."""
        path = self._outcome_path(trial)
        if not path.exists():
            return None
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))

    def _outcome_path(self, trial: str) -> Path:
        return self.folder.trials_path / f"{trial}.json"

    def complaint(self, values: Mapping[str, Any]) -> Complaint | None:
        """Returns the reason not to try Keras Tuner's values; None if they may be tried."""
        try:
            settings = self._settings(values)
        except TrialFailed as error:
            return Complaint(str(error))
        limit = self.plan.max_parameters
        if limit is None:
            return None
        trains_tokenizer = settings.tokenizer is None and settings.initial_run is None
        if trains_tokenizer and num_parameters(settings) <= limit:
            return None  # no tokenizer that is trained has more sub-words than asked for
        try:
            _, tokenizer = self._tokenizer(settings)
        except TrialFailed:
            return None  # the trial itself will say so
        number = num_parameters(with_sub_words_of(tokenizer, settings))
        if number <= limit:
            return None
        return Complaint(f"too large: {number:,} parameters, of at most {limit:,}", number)

    def perform(self, trial: str, values: Mapping[str, Any]) -> Outcome:
        """Trains a trial, or resumes it, and returns its outcome.

        Args:
            trial: The trial's name.
            values: Keras Tuner's values, including Hyperband's epochs and the trial to continue.

        Raises:
            InputError: If the training fails for a reason that all trials share.
            KeyboardInterrupt: If the trial is stopped; the next call resumes it.
        """
        outcome = self.outcome(trial)
        if outcome is None:
            outcome = self._perform(trial, values)
            content = json.dumps(dataclasses.asdict(outcome))
            write_text(self._outcome_path(trial), content + "\n")
        return outcome

    def _perform(self, trial: str, values: Mapping[str, Any]) -> Outcome:
        self.folder.trials_path.mkdir(exist_ok=True)
        run, earlier = self.run(trial), values.get("tuner/trial_id")
        known, best, reason = {}, {}, None
        try:
            self._check_earlier(earlier)
            settings = self._settings(values)
            path, tokenizer = self._tokenizer(settings)
            known["vocabulary_size"] = tokenizer.vocabulary_size
            known["parameters"] = num_parameters(with_sub_words_of(tokenizer, settings))
            record = RunRecord(settings, self.plan.record.data_sha256).with_tokenizer(tokenizer)
            prepare(run, record, path, self.run(earlier) if earlier else None)
            if not run.is_finished:
                self.train(run, settings, EpochLines(run, self.plan.objective))
            best = self._best_epoch(run)
        except TrialFailed as error:
            reason = str(error)
        epochs = epochs_of(run)
        return Outcome(
            trial=trial,
            status=COMPLETED if reason is None else FAILED,
            settings=self.plan.space.settings(values),
            reason=reason,
            objective=best.get(self.plan.objective),
            perplexity=best.get("val_perplexity"),
            best_epoch=best.get("epoch"),
            epochs=len(epochs),
            minutes=sum(line["seconds"] for line in epochs) / 60,
            continues=earlier,
            **known,
        )

    def _check_earlier(self, earlier: str | None) -> None:
        outcome = self.outcome(earlier) if earlier else None
        if outcome is not None and outcome.status == FAILED:
            raise TrialFailed(f"continues trial {earlier}, which failed: {outcome.reason}")

    def _settings(self, values: Mapping[str, Any]) -> TrainingSettings:
        """Returns a trial's settings, without averaging: it keeps the best epoch's model."""
        start, objective = self.plan.settings, self.plan.objective
        try:
            return dataclasses.replace(
                start,
                **self.plan.space.settings(values),
                epochs=values.get("tuner/epochs", self.plan.max_epochs),
                monitor=objective,
                validation_bleu=start.validation_bleu or needs_translations(objective),
                average_checkpoints=1,
            )
        except ValueError as error:
            raise TrialFailed(str(error)) from error

    def _tokenizer(self, settings: TrainingSettings) -> tuple[Path, "Tokenizer"]:
        """Returns the file and the tokenizer that all trials with the same sub-words share."""
        name = f"{settings.tokenizer_type}_{settings.vocabulary_size}"
        if settings.source_vocabulary_size is not None:
            name += f"_from_{settings.source_vocabulary_size}"
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
                check_text(settings)  # raises if the text, not the vocabulary, is at fault
                raise TrialFailed(str(error)) from error
            if not run.tokenizer_path.exists():
                with replacing(run.tokenizer_path) as temporary:
                    tokenizer.save(temporary)
        return run.tokenizer_path, tokenizer

    def _best_epoch(self, run: RunFolder) -> dict[str, Any]:
        objective = self.plan.objective
        best = min(epochs_of(run), key=lambda line: badness(line, objective), default=None)
        if best is None:
            raise TrialFailed("no epoch was trained")
        if not math.isfinite(best[objective]):
            raise TrialFailed(f"{objective} must be finite. Received: {best[objective]}.")
        return best

    def free_disk(self, outcomes: Iterable[Outcome]) -> None:
        """Deletes models except the best trial's, and checkpoints that no trial can continue."""
        ended = [one for one in outcomes if one.status in (COMPLETED, FAILED)]
        best = best_of(ended, self.plan.objective)
        continued = {outcome.continues for outcome in ended}
        for outcome in ended:
            if (
                self.plan.algorithm != "hyperband"
                or outcome.status == FAILED
                or outcome.trial in continued
            ):
                self.drop_checkpoints(outcome.trial)
            if outcome is not best:
                self.run(outcome.trial).model_path.unlink(missing_ok=True)

    def drop_checkpoints(self, trial: str) -> None:
        shutil.rmtree(self.run(trial).checkpoints_path, ignore_errors=True)
