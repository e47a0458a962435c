"""Names, reads and writes the files of a run folder.

    config.yaml      every setting, resolved; the format's version; SHA-256 of the data; asked_for:
                     requested settings for which the tokenizer has a different value
    tokenizer.model  model.keras    read by evaluate, translate and export; model.keras comes last
    checksums.json   SHA-256 of these and of metrics.jsonl; written last, removed before any changes
    checkpoints/     logs/ (TensorBoard)   metrics.jsonl (a line per epoch)   .lock

Each file is written under a temporary name and then renamed, so that no file is ever incomplete. A
run is finished when model.keras exists and metrics.jsonl ends with the line about it. A finished
run that is trained further keeps its model.keras until the new one replaces it.
"""

import itertools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from training.command_line.errors import InputError
from training.runs.files import TEMPORARY_PREFIX, refuse_links_out, write_text
from training.runs.record import RunRecord
from training.settings import read_yaml_mapping

MOST_METRICS_BYTES = 2**24
_MOST_LINES = 100_000
_MOST_LINE_BYTES = 2**16

_CHECKPOINT_NAME = re.compile(r"epoch_(\d+)_batch_(\d+)\.")


class Position(NamedTuple):
    """How far training has progressed; later positions are greater.

    Attributes:
        epoch: Complete epochs.
        batch: Complete batches of the next epoch.
    """

    epoch: int
    batch: int

    def __str__(self):
        return f"epoch_{self.epoch:04d}_batch_{self.batch:05d}"

    def in_words(self, num_parts: int = 1) -> str:
        """Describes the position; with `num_parts` above 1, `batch` counts parts of batches."""
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
    """The paths of a run's files, and methods that read and write them.

    Args:
        path: The folder, which need not exist.
        read_only: Whether writing methods do nothing, because another process writes.
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
        self.checksums_path = self.path / "checksums.json"
        self.lock_path = self.path / ".lock"

    @property
    def is_finished(self) -> bool:
        """Whether training has ended and has not been continued since."""
        if not self.model_path.exists():
            return False
        metrics = self.read_metrics()
        return not metrics or "final" in metrics[-1]

    @property
    def is_blank(self) -> bool:
        """Whether the folder is empty, except for traces of a failed start."""
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
        """Refuses a folder that holds something other than a run, or links to other folders.

        Raises:
            InputError: If the path is not a folder, has a link out of it, or has content but no
                config.yaml of ours.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(
                f"{self.path}: a run needs a folder. Received: a file. Choose another --output."
            )
        refuse_links_out(self.path)
        if not self.is_blank and not self.is_ours:
            raise InputError(
                f"{self.path}: a run needs a folder of its own. Received: a folder that holds"
                " something other than a run of this project. Choose another --output."
            )

    def check_finished(self) -> None:
        """Refuses an unfinished run, and one with links out of its folder.

        Raises:
            InputError: If a file of a finished run is missing, or a link leaves the folder.
        """
        refuse_links_out(self.path)
        for path in (self.config_path, self.tokenizer_path, self.model_path):
            if not path.exists():
                raise InputError(
                    f"{self.path}: a finished run must hold {path.name}. Received: no such file."
                    " Run training.train with the same settings again to finish it."
                )

    def check_unchanged(self) -> None:
        """Refuses a finished run whose files are not as checksums.json lists them.

        Raises:
            InputError: The library's, if a file has changed or is missing.
        """
        from keras_transformer.checksums import check_run

        check_run(self.path)

    def check_ended(self) -> None:
        """Refuses a finished run that is being trained further.

        Raises:
            InputError: If training has not ended.
        """
        if not self.is_finished:
            raise InputError(
                f"{self.path}: training must have ended before epochs are averaged. Received: a"
                " finished run that is being trained further. Run training.train with the same"
                " settings again to finish it."
            )

    @property
    def position_saved(self) -> Position:
        """The position of the latest complete checkpoint; `START` if there is none."""
        return max(self.positions_with("state"), default=START)

    def positions_with(self, kind: str) -> set[Position]:
        """Returns the positions that have a checkpoint file of this kind."""
        names = [path.name for path in self.checkpoints_path.glob(f"*.{kind}.npz")]
        matches = [_CHECKPOINT_NAME.match(name) for name in names]
        return {Position(int(match[1]), int(match[2])) for match in matches if match}

    def checkpoint_path(self, position: Position, kind: str) -> Path:
        """Returns the path of a checkpoint's "weights", "state", or "average" of the weights."""
        return self.checkpoints_path / f"{position}.{kind}.npz"

    def read_record(self) -> RunRecord:
        """Reads the settings of the run; see `RunRecord.read` and `refuse_links_out`."""
        refuse_links_out(self.path)
        return RunRecord.read(self.config_path)

    def write_record(self, record: RunRecord) -> None:
        if not self.read_only:
            self.remove_checksums()
            record.write(self.config_path)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Reads the lines of metrics.jsonl, up to the first damaged one.

        Raises:
            InputError: If the file is larger than any run's, or a link out of the folder.
        """
        if not self.metrics_path.exists():
            return []
        refuse_links_out(self.path)
        with open(self.metrics_path, "rb") as file:
            content = file.read(MOST_METRICS_BYTES + 1)
        if len(content) > MOST_METRICS_BYTES or content.count(b"\n") > _MOST_LINES:
            raise InputError(
                f"{self.metrics_path}: must have at most {MOST_METRICS_BYTES:,} bytes and"
                f" {_MOST_LINES:,} lines. Received: a larger file. Restore it, or remove it."
            )
        lines = map(_metrics_of, content.split(b"\n"))
        return list(itertools.takewhile(lambda line: line is not None, lines))

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        if not self.read_only:
            self.remove_checksums()
            write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in lines))

    def write_checksums(self) -> None:
        """Writes checksums.json, after the last change to a finished run."""
        from keras_transformer.checksums import RUN_FILES, checksums_of

        if not self.read_only:
            write_text(self.checksums_path, checksums_of(self.path, RUN_FILES))

    def remove_checksums(self) -> None:
        """Removes checksums.json, before a file that it lists changes."""
        if not self.read_only:
            self.checksums_path.unlink(missing_ok=True)


def _metrics_of(line: bytes) -> dict[str, Any] | None:
    """Returns the numbers in a line of metrics.jsonl; None if the line is damaged."""
    if len(line) > _MOST_LINE_BYTES:
        return None
    try:
        metrics = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(metrics, dict):
        return None
    epochs = metrics.get("epochs", [])
    if not isinstance(epochs, list) or not all(type(epoch) is int for epoch in epochs):
        return None
    numbers = {name: value for name, value in metrics.items() if name != "epochs"}
    if numbers.get("num_pairs", 0) is None:  # streamed text is not counted
        del numbers["num_pairs"]
    if not all(isinstance(value, int | float) for value in numbers.values()):
        return None
    return metrics if type(numbers.get("epoch", 0)) is int else None
