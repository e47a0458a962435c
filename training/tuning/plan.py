"""What a search is, and the folder that it owns.

search.yaml   the plan; a rerun must agree with it
trials/       for each trial a run folder, its log and its outcome     tokenizers/
keras_tuner/  Keras Tuner's own state          .lock   workers/   locks of running processes
trials.jsonl  trials.md  trials.png  best.yaml    the results, rewritten after each trial
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
from training.runs.files import write_text
from training.runs.monitor import sign_of
from training.runs.record import RunRecord
from training.settings import Monitor, TrainingSettings, make_settings, read_yaml_mapping
from training.tuning.space import Space

Algorithm = Literal["random", "bayesian", "hyperband"]

FORMAT_KEY, FORMAT_VERSION = "search_format_version", 1
OWN_VALUES = ("algorithm", "objective", "max_epochs", "max_parameters", "factor")
LOCK_SECONDS = 10  # `is_held` takes a lock for a moment to see whether it is free


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """Everything that decides what a search does, except how long it runs."""

    record: RunRecord  # the settings that it starts from, and the fingerprints of the data
    space: Space  # what it tries instead of them
    algorithm: Algorithm
    objective: Monitor  # judges the best epoch of each trial
    max_epochs: int  # of a trial
    factor: int  # Hyperband: how many times more epochs each rung has than the one before
    max_parameters: int | None  # larger models are passed over

    @property
    def settings(self) -> TrainingSettings:
        return self.record.settings

    @property
    def sign(self) -> int:
        """1 if a smaller objective is better, else -1."""
        return sign_of(self.objective)

    def differences(self, earlier: "SearchPlan") -> list[str]:
        """What differs from an earlier plan, each as `name: OLD there, NEW now`."""
        old, new = earlier._compared(), self._compared()
        lines = [
            f"{name}: {old.get(name, 'none')} there, {new.get(name, 'none')} now"
            for name in old | new
            if old.get(name) != new.get(name)
        ]
        return lines + self.record.differences(earlier.record)

    def _compared(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in OWN_VALUES}
        if self.algorithm != "hyperband":
            del own["factor"]
        return own | {f"{name} in the space": one for name, one in self.space.content().items()}


class SearchFolder:
    """The paths of a search, whose folder need not exist yet."""

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
            **{name: getattr(plan, name) for name in OWN_VALUES},
            "space": plan.space.content(),
            "settings": dataclasses.asdict(plan.settings),
            "data_sha256": plan.record.data_sha256,
        }
        write_text(self.plan_path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def read_plan(self) -> SearchPlan:
        """The plan in search.yaml, refused if it is missing, damaged or of another format."""
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
            own = {name: content[name] for name in OWN_VALUES}
            return SearchPlan(record=record, space=Space.of(content["space"]), **own)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.plan_path}: the file must be as the search wrote it. Received: a damaged"
                f" one ({error}). Choose another --output."
            ) from error

    @contextlib.contextmanager
    def claimed(self, plan: SearchPlan) -> Iterator[None]:
        """Holds the folder; only workers of the same search may use it meanwhile.

        Raises:
            InputError: If another process holds it, or it holds another search or anything else.
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
        with held(self.lock_path, f"{self.path}: only one process may search in a folder"):
            if self.plan_path.exists():
                self.check_same(plan)
            else:
                self.write_plan(plan)
            yield

    def check_same(self, plan: SearchPlan) -> None:
        """Refuses a plan that differs from the folder's, and names the differences."""
        differences = plan.differences(self.read_plan())
        if differences:
            raise InputError(
                f"{self.path}: a search must be resumed as it was started. Received:"
                f" {'; '.join(differences)}. Give the earlier values, or choose another --output."
            )

    def worker_lock(self, tuner_id: str) -> contextlib.AbstractContextManager:
        """The lock that a worker of this name holds while it runs."""
        self.workers_path.mkdir(parents=True, exist_ok=True)
        rule = f"{tuner_id}: each worker must have a KERASTUNER_TUNER_ID of its own"
        return held(self._worker_path(tuner_id), rule)

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
    try:
        with filelock.FileLock(path, timeout=0):
            return False
    except filelock.Timeout:
        return True


@contextlib.contextmanager
def held(path: Path, rule: str) -> Iterator[None]:
    """Holds the lock of a file with this process's id in it; refuses with `rule` if it is taken."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as error:
        owner = path.read_text().strip() or "?"
        raise InputError(
            f"{rule}. Received: process {owner} is running. Wait for it, or stop it."
        ) from error
    try:
        path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()
