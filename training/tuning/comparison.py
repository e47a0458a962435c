"""The best settings against those that the search started from, each trained afresh."""

import contextlib
import dataclasses
import json
import math
import shutil
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import filelock
import yaml

from training.command_line.errors import InputError
from training.files import write_text
from training.runs.folder import RunFolder
from training.runs.record import RunRecord
from training.settings import TrainingSettings, make_settings, read_settings_file
from training.tuning.child_process import Failure, run_child
from training.tuning.plan import SearchFolder, SearchPlan
from training.tuning.space import SUB_WORDS
from training.tuning.trials import EpochLines, await_free, failed_to_train, log_path

SIDES = ("start", "best")
LABELS = {"start": "start", "best": "best of the search"}


@dataclasses.dataclass(frozen=True)
class Result:
    """What one training came to.

    Attributes:
        side: One of SIDES.
        seed: Of the training.
        bleu: Of the validation text, with the beams of the settings, 0 to 100.
        perplexity: Of the validation text, by the weights that were kept.
        epochs: How many were trained.
        minutes: How long that took.
    """

    side: str
    seed: int
    bleu: float
    perplexity: float
    epochs: int
    minutes: float


class Comparison:
    """Trainings with seeds that the search has not seen, at the same budget; resumable.

    Args:
        folder: The search's, which is over.
        plan: The search.
        num_seeds: Trainings of each side, at least 2.
        epochs: Of each; None is the settings' own.
        max_minutes: Of each; None is the settings' own.
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
        self.num_seeds = num_seeds
        self.budget = {"epochs": epochs or plan.settings.epochs}
        self.budget["max_minutes"] = max_minutes or plan.settings.max_minutes
        self.path = folder.comparison_path

    def perform(self) -> str:
        """Trains what is not trained yet.

        Returns:
            A Markdown table, which is also in comparison/table.md.

        Raises:
            InputError: If the search found nothing, or one of the trainings fails.
            KeyboardInterrupt: If it is stopped; it goes on when it is performed again.
        """
        if not self.folder.best_path.exists():
            raise InputError(
                f"{self.folder.best_path}: a comparison needs a search of which a trial is"
                " completed. Received: none. Look at the reasons in trials.md."
            )
        best = read_settings_file(self.folder.best_path)
        settings = {"start": self.plan.settings, "best": make_settings(best, best)}
        self.path.mkdir(exist_ok=True)
        with self._alone():
            results = [
                self._result(side, dataclasses.replace(settings[side], seed=seed, **self.budget))
                for seed in self._seeds()
                for side in SIDES
            ]
        rows = [dataclasses.asdict(result) for result in results]
        write_text(self.path / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        is_one_vocabulary = not {*SUB_WORDS} & {*self.plan.space.dimensions}
        text = comparison_table(results, shows_perplexity=is_one_vocabulary)
        write_text(self.path / "table.md", text)
        return text

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps a second process of the same search out."""
        try:
            with filelock.FileLock(self.path / ".lock", timeout=0):
                yield
        except filelock.Timeout as error:
            raise InputError(
                f"{self.path}: only one process may compare in a folder. Received: another one is"
                " at work. Wait for it, or stop it."
            ) from error

    def _seeds(self) -> Sequence[int]:
        return range(self.plan.settings.seed + 1, self.plan.settings.seed + 1 + self.num_seeds)

    def _result(self, side: str, settings: TrainingSettings) -> Result:
        run = RunFolder(self.path / f"{side}_seed_{settings.seed}")
        if run.is_finished:
            self._check_same(run, settings)
        else:
            print(f"comparison: {LABELS[side]}, seed {settings.seed}")
            self._train(run, settings)
        scores = self._scores(run, settings)
        shutil.rmtree(run.checkpoints_path, ignore_errors=True)
        *epochs, final = run.read_metrics()
        return Result(
            side=side,
            seed=settings.seed,
            bleu=scores["bleu"],
            perplexity=final["val_perplexity"],
            epochs=len(epochs),
            minutes=sum(line["seconds"] for line in epochs) / 60,
        )

    def _check_same(self, run: RunFolder, settings: TrainingSettings) -> None:
        record = RunRecord(settings, self.plan.record.data_sha256)
        differences = record.differences(run.read_record())
        if differences:
            raise InputError(
                f"{run.path}: the trainings of a comparison must have one budget and be of the best"
                f" settings. Received: a finished one with others ({'; '.join(differences)})."
                f" Remove {self.path} to compare anew."
            )

    def _train(self, run: RunFolder, settings: TrainingSettings) -> None:
        config = run.path.with_name(f"{run.path.name}.yaml")
        write_text(config, yaml.safe_dump(dataclasses.asdict(settings), allow_unicode=True))
        await_free(run)
        options = ["--config", str(config), "--output", str(run.path)]
        watch = EpochLines(run, "val_perplexity")
        _check(run, run_child("training.train", options, log_path(run), watch))

    def _scores(self, run: RunFolder, settings: TrainingSettings) -> dict[str, Any]:
        """BLEU of the validation text; it is not computed twice."""
        path = self.path / f"{run.path.name}.json"
        if not path.exists():
            source, reference = settings.validation_files()
            options = [str(run.path), "--source", source, "--reference", reference]
            options += ["--json", str(path)]
            _check(run, run_child("training.evaluate", options, log_path(run), lambda: None))
        return json.loads(path.read_text(encoding="utf-8"))


def _check(run: RunFolder, failure: Failure | None) -> None:
    if failure is not None:
        raise failed_to_train(run, failure)


def comparison_table(results: Sequence[Result], *, shows_perplexity: bool) -> str:
    """A Markdown table of both sides, the means first, and the difference in words.

    Args:
        results: Of both sides.
        shows_perplexity: Whether both have the same sub-words, so that theirs compare.
    """
    sides = {side: [result for result in results if result.side == side] for side in SIDES}
    head = ["settings", "seeds", "BLEU", "each", *["perplexity"] * shows_perplexity]
    head += ["epochs", "minutes"]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for side, own in sides.items():
        scores = [result.bleu for result in own]
        perplexity = f"{statistics.mean(result.perplexity for result in own):.3f}"
        lines.append(
            [
                LABELS[side],
                ", ".join(str(result.seed) for result in own),
                f"{statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f}",
                ", ".join(f"{score:.2f}" for score in scores),
                *[perplexity] * shows_perplexity,
                f"{statistics.mean(result.epochs for result in own):.1f}",
                f"{statistics.mean(result.minutes for result in own):.1f}",
            ]
        )
    difference, error = difference_of_means(
        *([result.bleu for result in sides[side]] for side in SIDES)
    )
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return (
        f"{table}\nValidation BLEU, mean ± standard deviation over the seeds. Difference:"
        f" {difference:+.2f}, standard error {error:.2f}.\n"
    )


def difference_of_means(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Mean of the second less mean of the first, and the standard error of that."""
    variances = [statistics.variance(values) / len(values) for values in (first, second)]
    return statistics.mean(second) - statistics.mean(first), math.sqrt(sum(variances))
