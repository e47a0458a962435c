"""A run folder: the names of its files, and how they are read and written.

    config.yaml      every setting, resolved; the format's version; sha256 of the data; asked_for:
                     settings for which the tokenizer has another value
    tokenizer.model  model.keras    what evaluate, translate and export read; model.keras comes last
    checkpoints/     logs/ (TensorBoard)     metrics.jsonl (a line an epoch)     .lock

Each file is written under a temporary name and renamed, so that no name ever stands for half a
file. A run is finished when model.keras is there and metrics.jsonl ends with the line about it. A
finished run that is trained further keeps its model.keras until the new one replaces it.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from training.command_line.errors import InputError
from training.runs.files import TEMPORARY_PREFIX, write_text
from training.runs.record import RunRecord
from training.settings import read_yaml_mapping

_CHECKPOINT_NAME = re.compile(r"epoch_(\d+)_batch_(\d+)\.")


class Position(NamedTuple):
    """How far training has come; a later one is greater.

    Attributes:
        epoch: Complete epochs.
        batch: Batches done of the next epoch.
    """

    epoch: int
    batch: int

    def __str__(self):
        return f"epoch_{self.epoch:04d}_batch_{self.batch:05d}"

    def in_words(self, num_parts: int = 1) -> str:
        """The position in words; with `num_parts` above 1, `batch` counts parts of batches."""
        from keras_transformer.wording import counted

        batches, parts = divmod(self.batch, num_parts)
        words = counted(self.epoch, "epoch")
        if batches:
            words += f" and {counted(batches, 'batch', 'batches')} of the next"
        if parts:
            words += f", and {parts} of the {num_parts} parts of a batch"
        return words


START = Position(0, 0)


class RunFolder:
    """The paths of a run, and what is read and written there.

    Args:
        path: The folder; it need not exist.
        read_only: Makes every method that would write do nothing, because another process writes.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False):
        self.path = Path(path)
        self.read_only = read_only
        self.config_path = self.path / "config.yaml"
        self.tokenizer_path = self.path / "tokenizer.model"
        self.model_path = self.path / "model.keras"
        self.checkpoints_path = self.path / "checkpoints"
        self.trained_model_path = self.path / "model.trained.keras"  # see training.average
        self.logs_path = self.path / "logs"
        self.metrics_path = self.path / "metrics.jsonl"
        self.lock_path = self.path / ".lock"

    @property
    def is_finished(self) -> bool:
        """Whether training has ended here and has not been continued since."""
        if not self.model_path.exists():
            return False
        metrics = self.read_metrics()
        return not metrics or "final" in metrics[-1]

    @property
    def is_blank(self) -> bool:
        """Whether nothing is there, except traces of a start that failed."""
        if not self.path.exists():
            return True
        names = {entry.name for entry in self.path.iterdir()}
        return all(name == ".lock" or name.startswith(TEMPORARY_PREFIX) for name in names)

    @property
    def is_ours(self) -> bool:
        """Whether this project wrote its config.yaml."""
        try:
            return "format_version" in read_yaml_mapping(self.config_path)
        except InputError:
            return False

    def check_ours(self) -> None:
        """Refuses a folder that holds something other than a run.

        Raises:
            InputError: If the path is no folder, or has content but no config.yaml of ours.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(
                f"{self.path}: a run needs a folder. Received: a file. Choose another --output."
            )
        if not self.is_blank and not self.is_ours:
            raise InputError(
                f"{self.path}: a run needs a folder of its own. Received: a folder that holds"
                " something other than a run of this project. Choose another --output."
            )

    def check_finished(self) -> None:
        """Refuses a run that has no model yet.

        Raises:
            InputError: If a file that a finished run has is missing.
        """
        for path in (self.config_path, self.tokenizer_path, self.model_path):
            if not path.exists():
                raise InputError(
                    f"{self.path}: a finished run must hold {path.name}. Received: none. Run"
                    " training.train with the same settings again to finish it."
                )

    def check_ended(self) -> None:
        """Refuses a finished run that is being trained further.

        Raises:
            InputError: If it is.
        """
        if not self.is_finished:
            raise InputError(
                f"{self.path}: training must have ended before epochs are averaged. Received: a"
                " finished run that is being trained further. Run training.train with the same"
                " settings again to finish it."
            )

    @property
    def position_saved(self) -> Position:
        """The position of the latest complete checkpoint; the start if there is none."""
        return max(self.positions_with("state"), default=START)

    def positions_with(self, kind: str) -> set[Position]:
        """The positions for which there is a checkpoint file of this kind."""
        names = [path.name for path in self.checkpoints_path.glob(f"*.{kind}.npz")]
        matches = [_CHECKPOINT_NAME.match(name) for name in names]
        return {Position(int(match[1]), int(match[2])) for match in matches if match}

    def checkpoint_path(self, position: Position, kind: str) -> Path:
        """The file of a checkpoint's "weights", its "state", or the "average" of the weights."""
        return self.checkpoints_path / f"{position}.{kind}.npz"

    def read_record(self) -> RunRecord:
        """The settings of the run; see `RunRecord.read`."""
        return RunRecord.read(self.config_path)

    def write_record(self, record: RunRecord) -> None:
        if not self.read_only:
            record.write(self.config_path)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, up to the first damaged one."""
        lines = []
        if self.metrics_path.exists():
            for line in self.metrics_path.read_bytes().splitlines():
                try:
                    lines.append(dict(json.loads(line)))
                except (ValueError, TypeError):
                    break
        return lines

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        if not self.read_only:
            write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in lines))
