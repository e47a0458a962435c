"""The plan of a search, and its folder.

search.yaml   the plan, which a rerun must match
trials/       for each trial a run folder, its log and its outcome     tokenizers/
keras_tuner/  Keras Tuner's own state          .lock   workers/   locks of running processes
trials.jsonl  trials.md  trials.png  best.yaml    the results, rewritten after each trial
comparison/   the best settings against the start, with --confirm-seeds
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
LOCK_SECONDS = 10  # not 0, since `is_held` briefly takes a lock to see whether it is free


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """Everything that determines a search, except how long it runs."""

    record: RunRecord  # the settings that the search starts from, and fingerprints of the data
    space: Space  # the settings to tune, and their values
    algorithm: Algorithm
    objective: Monitor  # the metric that ranks trials, at the best epoch of each
    max_epochs: int  # of a trial
    factor: int  # Hyperband: the ratio of the epochs of each rung to those of the rung below
    max_parameters: int | None  # the search passes over larger models

    @property
    def settings(self) -> TrainingSettings:
        return self.record.settings

    @property
    def sign(self) -> int:
        """1 if a smaller objective is better, else -1."""
        return sign_of(self.objective)

    def differences(self, earlier: "SearchPlan") -> list[str]:
        """Lists differences from an earlier plan, each as `name: OLD there, NEW now`."""
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
        """Reads the plan from search.yaml; raises InputError if that fails."""
        content = {name: entry.value for name, entry in read_yaml_mapping(self.plan_path).items()}
        version = content.get(FORMAT_KEY)
        if version != FORMAT_VERSION:
            raise InputError(
                f"{self.plan_path}: the search's format must be version {FORMAT_VERSION}. Received:"
                f" {FORMAT_KEY}={version}. Use the version of this project that wrote the file, or"
                " choose another --output."
            )
        try:
            record = RunRecord(make_settings(content["settings"]), content["data_sha256"])
            own = {name: content[name] for name in OWN_VALUES}
            return SearchPlan(record=record, space=Space.of(content["space"]), **own)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.plan_path}: the file must be unchanged since the search wrote it. Received:"
                f" a damaged file ({error}). Choose another --output."
            ) from error

    @contextlib.contextmanager
    def claimed(self, plan: SearchPlan) -> Iterator[None]:
        """Locks the folder, so that only workers of this search may use it.

        Raises:
            InputError: If another process has locked the folder, or the folder contains another
                search or anything else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(
                f"{self.path}: a search needs a folder. Received: a file. Choose another --output."
            )
        names = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        if not self.plan_path.exists() and names - {self.lock_path.name, self.workers_path.name}:
            raise InputError(
                f"{self.path}: a search needs a folder of its own. Received: a folder with other"
                " files. Choose another --output."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        with held(self.lock_path, f"{self.path}: only one process may search in a folder"):
            if self.plan_path.exists():
                self.check_same(plan)
            else:
                self.write_plan(plan)
            yield

    def check_same(self, plan: SearchPlan) -> None:
        """Raises InputError with the differences if a plan differs from the folder's."""
        differences = plan.differences(self.read_plan())
        if differences:
            raise InputError(
                f"{self.path}: a search must be resumed with the values it was started with."
                f" Received: {'; '.join(differences)}. Give the earlier values, or choose another"
                " --output."
            )

    def worker_lock(self, tuner_id: str) -> contextlib.AbstractContextManager:
        """Returns the lock that the worker with this name holds while it runs."""
        self.workers_path.mkdir(parents=True, exist_ok=True)
        rule = f"{tuner_id}: each worker must have a KERASTUNER_TUNER_ID of its own"
        return held(self._worker_path(tuner_id), rule)

    def is_at_work(self, tuner_id: str) -> bool:
        """Returns whether the worker with this name is running, on this or another machine."""
        return is_held(self._worker_path(tuner_id))

    def _worker_path(self, tuner_id: str) -> Path:
        name = "".join(letter if letter.isalnum() else "_" for letter in tuner_id)
        return self.workers_path / f"{name}.lock"


def is_held(path: Path) -> bool:
    """Returns whether a process holds the lock on this file."""
    if not path.exists():
        return False
    try:
        with filelock.FileLock(path, timeout=0):
            return False
    except filelock.Timeout:
        return True


@contextlib.contextmanager
def held(path: Path, rule: str) -> Iterator[None]:
    """Locks a file, and writes this process's id into it.

    Raises:
        InputError: If another process holds the lock. The message starts with `rule`.
    """
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as error:
        owner = path.read_text().strip() or "?"
        raise InputError(
            f"{rule}. Received: process {owner} is running. Wait for that process, or stop it."
        ) from error
    try:
        path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()
