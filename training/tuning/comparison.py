"""Compares the best settings with those the search started from, by training both from scratch."""

import dataclasses
import json
import math
import shutil
import statistics
from collections.abc import Sequence
from typing import Any

import yaml

from training.command_line.errors import InputError
from training.runs.files import write_text
from training.runs.folder import RunFolder
from training.runs.record import RunRecord
from training.settings import TrainingSettings, make_settings, read_settings_file
from training.tuning.plan import SearchFolder, SearchPlan, held
from training.tuning.report import markdown_table
from training.tuning.space import SUB_WORDS
from training.tuning.trial_run import (
    EpochLines,
    TrialFailed,
    epochs_of,
    run_apart,
    stopped_by,
)

SIDES = ("start", "best")
LABELS = {"start": "start", "best": "best of the search"}


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of one training."""

    side: str  # one of SIDES
    seed: int
    bleu: float  # on the validation text, with the settings' beam search, 0 to 100
    perplexity: float  # on the validation text, with the weights that were kept
    epochs: int
    minutes: float


class Comparison:
    """Trains both sides with new seeds and the same budget; resumable.

    Args:
        folder: The folder of a finished search.
        plan: The plan of that search.
        num_seeds: The number of trainings of each side, at least 2.
        epochs: The epochs of each training; None takes those of the settings.
        max_minutes: The longest time of each training; None takes that of the settings.
    """

    def __init__(
        self,
        folder: SearchFolder,
        plan: SearchPlan,
        *,
        num_seeds: int,
        epochs: int | None,
        max_minutes: float | None,
    ):
        self.folder = folder
        self.plan = plan
        first = plan.settings.seed + 1
        self.seeds = range(first, first + num_seeds)
        self.budget = {"epochs": epochs or plan.settings.epochs}
        self.budget["max_minutes"] = max_minutes or plan.settings.max_minutes
        self.path = folder.comparison_path

    def perform(self) -> str:
        """Performs the trainings that are not finished, and compares both sides.

        Returns:
            A Markdown table, which is also written to comparison/table.md.

        Raises:
            InputError: If a training fails.
            KeyboardInterrupt: If the comparison is stopped; the next call resumes it.
        """
        best = read_settings_file(self.folder.best_path)
        settings = {"start": self.plan.settings, "best": make_settings(best, best)}
        self.path.mkdir(exist_ok=True)
        with held(self.path / ".lock", f"{self.path}: only one process may compare in a folder"):
            results = [
                self._result(side, dataclasses.replace(settings[side], seed=seed, **self.budget))
                for seed in self.seeds
                for side in SIDES
            ]
        rows = [dataclasses.asdict(result) for result in results]
        write_text(self.path / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        has_same_sub_words = not {*SUB_WORDS} & {*self.plan.space.dimensions}
        text = comparison_table(results, shows_perplexity=has_same_sub_words)
        write_text(self.path / "table.md", text)
        return text

    def _result(self, side: str, settings: TrainingSettings) -> Result:
        run = RunFolder(self.path / f"{side}_seed_{settings.seed}")
        if run.is_finished:
            self._check_same(run, settings)
        else:
            print(f"comparison: {LABELS[side]}, seed {settings.seed}")
            self._train(run, settings)
        scores = self._scores(run, settings)
        shutil.rmtree(run.checkpoints_path, ignore_errors=True)
        epochs = epochs_of(run)
        return Result(
            side=side,
            seed=settings.seed,
            bleu=scores["bleu"],
            perplexity=run.read_metrics()[-1]["val_perplexity"],
            epochs=len(epochs),
            minutes=sum(line["seconds"] for line in epochs) / 60,
        )

    def _check_same(self, run: RunFolder, settings: TrainingSettings) -> None:
        record = RunRecord(settings, self.plan.record.data_sha256)
        differences = record.differences(run.read_record())
        if differences:
            raise InputError(
                f"{run.path}: the trainings of a comparison must use the current settings and"
                f" budget. Received: a finished training that differs ({'; '.join(differences)})."
                f" Remove {self.path} to compare again."
            )

    def _train(self, run: RunFolder, settings: TrainingSettings) -> None:
        config = run.path.with_name(f"{run.path.name}.yaml")
        write_text(config, yaml.safe_dump(dataclasses.asdict(settings), allow_unicode=True))
        options = ["--config", str(config), "--output", str(run.path)]
        _run(run, "training.train", options)

    def _scores(self, run: RunFolder, settings: TrainingSettings) -> dict[str, Any]:
        """Returns the scores of `training.evaluate` on the validation text; computes them once."""
        path = self.path / f"{run.path.name}.json"
        if not path.exists():
            source, reference = settings.validation_files()
            options = [str(run.path), "--source", source, "--reference", reference]
            _run(run, "training.evaluate", [*options, "--json", str(path)])
        return json.loads(path.read_text(encoding="utf-8"))


def _run(run: RunFolder, command: str, options: list[str]) -> None:
    try:
        run_apart(run, command, options, EpochLines(run, "val_perplexity"))
    except TrialFailed as error:
        raise stopped_by(run, str(error)) from error


def comparison_table(results: Sequence[Result], *, shows_perplexity: bool) -> str:
    """Returns a Markdown table of both sides' means, and a sentence on their difference."""
    head = ["settings", "seeds", "BLEU", "each", *["perplexity"] * shows_perplexity]
    head += ["epochs", "minutes"]
    rows, scores = [], {}
    for side in SIDES:
        own = [result for result in results if result.side == side]
        scores[side] = [result.bleu for result in own]
        perplexity = f"{statistics.mean(result.perplexity for result in own):.3f}"
        rows.append(
            [
                LABELS[side],
                ", ".join(str(result.seed) for result in own),
                f"{statistics.mean(scores[side]):.2f} ± {statistics.stdev(scores[side]):.2f}",
                ", ".join(f"{score:.2f}" for score in scores[side]),
                *[perplexity] * shows_perplexity,
                f"{statistics.mean(result.epochs for result in own):.1f}",
                f"{statistics.mean(result.minutes for result in own):.1f}",
            ]
        )
    difference, error = difference_of_means(scores["start"], scores["best"])
    return (
        f"{markdown_table(head, rows)}\nValidation BLEU, mean ± standard deviation over the seeds."
        f" Difference: {difference:+.2f}, standard error {error:.2f}.\n"
    )


def difference_of_means(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of `second` minus that of `first`, and the standard error."""
    variances = [statistics.variance(values) / len(values) for values in (first, second)]
    return statistics.mean(second) - statistics.mean(first), math.sqrt(sum(variances))
