"""What a search is, and the folder that it owns.

search.yaml   what the search is; a rerun must agree with it
trials/       a run folder for each trial, its log and its outcome     tokenizers/
keras_tuner/  what Keras Tuner remembers          .lock   workers/   who is at work
trials.jsonl  trials.md  trials.png  best.yaml    what came out, renewed after each trial
comparison/   the winner against the start, with --confirm-seeds
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import filelock
import yaml

from training.command_line.errors import InputError
from training.files import write_text
from training.runs.monitor import needs_translations, sign_of
from training.runs.record import RunRecord
from training.settings import Monitor, TrainingSettings, make_settings, read_yaml_mapping
from training.tuning.space import Space

Algorithm = Literal["random", "bayesian", "hyperband"]

FORMAT_KEY, FORMAT_VERSION = "search_format_version", 1
LOCK_SECONDS = 10  # others look whether a lock is held by taking it for a moment


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """Everything that decides what a search does, but for how long.

    Attributes:
        record: The settings that the search starts from, and the fingerprints of the data.
        space: What is tried instead of them.
        algorithm: How the values of a trial are chosen.
        objective: What the best epoch of a trial is judged by.
        max_epochs: The most epochs of a trial.
        factor: Of Hyperband: how many times as many epochs the next rung has.
        max_parameters: Larger models are passed over; None sets no limit.
    """

    record: RunRecord
    space: Space
    algorithm: Algorithm
    objective: Monitor
    max_epochs: int
    factor: int
    max_parameters: int | None

    @property
    def settings(self) -> TrainingSettings:
        return self.record.settings

    @property
    def sign(self) -> int:
        """1 where a smaller objective is better, else -1."""
        return sign_of(self.objective)

    def differences(self, earlier: "SearchPlan") -> list[str]:
        """What differs from an earlier plan, each as `name: OLD there, NEW now`."""
        lines = []
        old, new = earlier._own(), self._own()
        for name in old:
            if old[name] != new[name]:
                lines.append(f"{name}: {old[name]} there, {new[name]} now")
        old, new = earlier.space.content(), self.space.content()
        for name in old | new:
            if old.get(name) != new.get(name):
                lines.append(
                    f"{name} in the space: {old.get(name, 'none')} there,"
                    f" {new.get(name, 'none')} now"
                )
        return lines + self.record.differences(earlier.record)

    def trial_settings(self, chosen: dict[str, Any], epochs: int) -> TrainingSettings:
        """The settings of a trial.

        Its model is that of the epoch that it is judged by, so nothing is averaged.

        Raises:
            ValueError: If the chosen ones contradict each other or the others.
        """
        return dataclasses.replace(
            self.settings,
            **chosen,
            epochs=epochs,
            monitor=self.objective,
            validation_bleu=self.settings.validation_bleu or needs_translations(self.objective),
            average_checkpoints=1,
        )

    def _own(self) -> dict[str, Any]:
        names = ["algorithm", "objective", "max_epochs", "max_parameters"]
        names += ["factor"] * (self.algorithm == "hyperband")
        return {name: getattr(self, name) for name in names}


class SearchFolder:
    """The paths of a search.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).resolve()
        self.plan_path = self.path / "search.yaml"
        self.lock_path = self.path / ".lock"
        self.workers_path = self.path / "workers"
        self.trials_path = self.path / "trials"
        self.tokenizers_path = self.path / "tokenizers"
        self.comparison_path = self.path / "comparison"
        self.rows_path = self.path / "trials.jsonl"
        self.table_path = self.path / "trials.md"
        self.picture_path = self.path / "trials.png"
        self.best_path = self.path / "best.yaml"

    def write_plan(self, plan: SearchPlan) -> None:
        content = {
            FORMAT_KEY: FORMAT_VERSION,
            **plan._own(),
            "factor": plan.factor,
            "space": plan.space.content(),
            "settings": dataclasses.asdict(plan.settings),
            "data_sha256": plan.record.data_sha256,
        }
        write_text(self.plan_path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def read_plan(self) -> SearchPlan:
        """The plan of the search that the folder holds.

        Raises:
            InputError: If it is none, damaged, or of another format.
        """
        content = {name: entry.value for name, entry in read_yaml_mapping(self.plan_path).items()}
        version = content.get(FORMAT_KEY)
        if version != FORMAT_VERSION:
            raise InputError(
                f"{self.plan_path}: the search's format must be version {FORMAT_VERSION}. Received:"
                f" {FORMAT_KEY}={version}. Use the version of this project that wrote it, or choose"
                " another --output."
            )
        try:
            record = RunRecord(make_settings(content["settings"]), content["data_sha256"])
            names = ("algorithm", "objective", "max_epochs", "factor", "max_parameters")
            own = {name: content[name] for name in names}
            return SearchPlan(record=record, space=Space.of(content["space"]), **own)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.plan_path}: must be as the search wrote it. Received: a file in which"
                f" something is wrong ({error}). Choose another --output."
            ) from error

    @contextlib.contextmanager
    def claimed(self, plan: SearchPlan) -> Iterator[None]:
        """Holds the folder for this process alone, workers of the same search excepted.

        Raises:
            InputError: If another process holds it, or it holds something else or another search.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(
                f"{self.path}: a search needs a folder. Received: a file. Choose another --output."
            )
        names = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        if not self.plan_path.exists() and names - {self.lock_path.name, self.workers_path.name}:
            raise InputError(
                f"{self.path}: a search needs a folder of its own. Received: a folder that holds"
                " something else. Choose another --output."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        with _held(self.lock_path, f"{self.path}: only one process may search in a folder"):
            if self.plan_path.exists():
                self.check_same(plan)
            else:
                self.write_plan(plan)
            yield

    def check_same(self, plan: SearchPlan) -> None:
        """Refuses a plan that is not that of the folder.

        Raises:
            InputError: Which names the differences.
        """
        differences = plan.differences(self.read_plan())
        if differences:
            raise InputError(
                f"{self.path}: a search must go on with what it was started with. Received:"
                f" {'; '.join(differences)}. Give the earlier ones, or choose another --output."
            )

    def worker_lock(self, tuner_id: str) -> contextlib.AbstractContextManager:
        """Is held while a worker of this name is at work.

        Raises:
            InputError: On entering, if there is one.
        """
        self.workers_path.mkdir(parents=True, exist_ok=True)
        what = "each worker must have a KERASTUNER_TUNER_ID of its own"
        return _held(self._worker_path(tuner_id), f"{tuner_id}: {what}")

    def is_at_work(self, tuner_id: str) -> bool:
        """Whether the worker of this name runs, on this machine or another."""
        return is_held(self._worker_path(tuner_id))

    def _worker_path(self, tuner_id: str) -> Path:
        name = "".join(letter if letter.isalnum() else "_" for letter in tuner_id)
        return self.workers_path / f"{name}.lock"


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of this file."""
    if not path.exists():
        return False
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


@contextlib.contextmanager
def _held(path: Path, rule: str) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as error:
        owner = path.read_text().strip() or "?"
        raise InputError(
            f"{rule}. Received: process {owner} is at work. Wait for it, or stop it."
        ) from error
    try:
        path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()
