"""A run folder: what a training leaves behind, who may write it, and what it must agree with.

    config.yaml      every setting, resolved; the format's version; sha256 of the data; asked_for:
                     settings of the tokenizer that it could not, or did not, have
    tokenizer.model  model.keras    what evaluate, translate and export read; model.keras comes last
    checkpoints/     logs/ (TensorBoard)     metrics.jsonl (a line an epoch)     .lock

Each file is written under a temporary name and renamed, so that a name never stands for half a
file. A run is finished when model.keras is there and metrics.jsonl ends with the line about it. To
overwrite a finished run, the new one is trained in `.NAME.new` beside it and takes its place at the
end. A finished run that is trained further keeps its model.keras until the new one replaces it.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import filelock
import yaml

from keras_transformer.text.lines import refuse_pipe
from keras_transformer.wording import counted, listed
from training.command_line.errors import InputError
from training.settings import (
    DATA_SETTINGS,
    LIMITS,
    SETTING_NAMES,
    TrainingSettings,
    make_settings,
    read_settings_file,
    read_yaml_mapping,
)

if TYPE_CHECKING:
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer

FORMAT_VERSION = 2
TEMPORARY_PREFIX = ".unfinished."


# Settings that a tokenizer has for itself, whatever was asked for.
TOKENIZER_SETTINGS = ("vocabulary_size", "normalization")

_CHECKPOINT_NAME = re.compile(r"epoch_(\d+)_batch_(\d+)\.")


class Position(NamedTuple):
    """How far a training has come; a later one is greater.

    Attributes:
        epoch: Complete epochs.
        batch: Batches that are done of the epoch after these.
    """

    epoch: int
    batch: int

    def __str__(self):
        return f"epoch_{self.epoch:04d}_batch_{self.batch:05d}"

    def in_words(self, num_parts: int = 1) -> str:
        """The position in words.

        Args:
            num_parts: In how many parts each batch comes; `batch` counts these.
        """
        batches, parts = divmod(self.batch, num_parts)
        words = counted(self.epoch, "epoch")
        if batches:
            words += f" and {counted(batches, 'batch', 'batches')} of the next"
        if parts:
            words += f", and {parts} of the {num_parts} parts of a batch"
        return words


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What config.yaml holds: the settings and the fingerprints of the data.

    Attributes:
        settings: Every setting.
        data_sha256: Hexadecimal sha256 of the data files, as stored, by setting name.
        asked_for: What was asked for, by setting name, where the tokenizer has something else.
    """

    settings: TrainingSettings
    data_sha256: dict[str, str]
    asked_for: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, settings: TrainingSettings) -> "RunRecord":
        """The record of a training that is about to start; reads the data files."""
        return cls(settings, _data_sha256(settings))

    def with_tokenizer(self, tokenizer: "SubwordTokenizer") -> "RunRecord":
        """The record once the tokenizer is known, with what that has in place of what was asked."""
        has = {name: getattr(tokenizer, name) for name in TOKENIZER_SETTINGS}
        asked = {name: getattr(self.settings, name) for name in has}
        return dataclasses.replace(
            self,
            settings=dataclasses.replace(self.settings, **has),
            asked_for={name: value for name, value in asked.items() if value != has[name]},
        )

    def raised_limits(self, earlier: "RunRecord") -> list[str]:
        """The limits of the training that are higher than in an earlier record, or lifted."""
        return [
            name
            for name in LIMITS
            if _is_raised(getattr(earlier.settings, name), getattr(self.settings, name))
        ]

    def differences(self, earlier: "RunRecord", *, ignoring: Collection[str] = ()) -> list[str]:
        """What differs from an earlier record, each as `name: OLD there, NEW now`.

        Data files are compared by content: they may have moved. What was asked for there agrees as
        well as what the tokenizer then had.

        Args:
            earlier: The other record.
            ignoring: Settings that are not compared.
        """
        lines = []
        for name in SETTING_NAMES:
            old, new = getattr(earlier.settings, name), getattr(self.settings, name)
            agreeing = (old, earlier.asked_for.get(name, old))
            if name not in (*DATA_SETTINGS, *ignoring) and new not in agreeing:
                lines.append(f"{name}: {old} there, {new} now")
        for name in DATA_SETTINGS:
            old, new = earlier.data_sha256.get(name, "none"), self.data_sha256.get(name, "none")
            if old != new:
                path = getattr(self.settings, name)
                lines.append(f"{name}: sha256 {old[:12]} there, {new[:12]} now ({path})")
        return lines


def _is_raised(old: float | None, new: float | None) -> bool:
    """Whether a limit is higher than it was; None is no limit."""
    return old is not None and (new is None or new > old)


class RunFolder:
    """The paths of a run, and what is done with them.

    Args:
        path: The folder; it need not exist.
        read_only: Whether another process writes the run and this one only reads it: whatever
            would write does nothing then.
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
        """Whether a training has ended here and has not been continued since."""
        if not self.model_path.exists():
            return False
        metrics = self.read_metrics()
        return not metrics or "final" in metrics[-1]

    @property
    def position_saved(self) -> Position:
        """Where the latest complete checkpoint was written; the start if there is none."""
        return max(self.positions_with("state"), default=Position(0, 0))

    def positions_with(self, kind: str) -> set[Position]:
        """The positions of which there is a checkpoint's file of a kind."""
        names = [path.name for path in self.checkpoints_path.glob(f"*.{kind}.npz")]
        matches = [_CHECKPOINT_NAME.match(name) for name in names]
        return {Position(int(match[1]), int(match[2])) for match in matches if match}

    def checkpoint_path(self, position: Position, kind: str) -> Path:
        """Where a checkpoint's "weights", its "state", or the "average" of the weights are."""
        return self.checkpoints_path / f"{position}.{kind}.npz"

    @property
    def is_blank(self) -> bool:
        """Nothing is there but perhaps the traces of a start that came to nothing."""
        if not self.path.exists():
            return True
        names = {entry.name for entry in self.path.iterdir()}
        return all(name == ".lock" or name.startswith(TEMPORARY_PREFIX) for name in names)

    def check_ours(self) -> None:
        """Refuses a folder that holds something else than a run.

        Raises:
            InputError: If the path is no folder, or has things in it but no config.yaml of ours.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(
                f"{self.path}: a run needs a folder. Received: a file. Choose another --output."
            )
        if not self.is_blank and not self._has_our_config():
            raise InputError(
                f"{self.path}: a run needs a folder of its own. Received: a folder that holds"
                " something else than a run of this project. Choose another --output."
            )

    def _has_our_config(self) -> bool:
        try:
            return "format_version" in read_yaml_mapping(self.config_path)
        except InputError:
            return False

    def write_record(self, record: RunRecord) -> None:
        if self.read_only:
            return
        content = {
            "format_version": FORMAT_VERSION,
            "package_version": package_version(),
            **dataclasses.asdict(record.settings),
            "data_sha256": record.data_sha256,
            **({"asked_for": record.asked_for} if record.asked_for else {}),
        }
        write_text(self.config_path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def read_record(self) -> RunRecord:
        """The record of the run.

        Raises:
            InputError: If config.yaml is missing, damaged, or of another format.
        """
        if not self.config_path.exists():
            raise InputError(
                f"{self.path}: a run folder must hold config.yaml. Received: none. Give the folder"
                " that `python -m training.train --output` wrote."
            )
        content = {name: entry.value for name, entry in read_yaml_mapping(self.config_path).items()}
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{self.config_path}: the run folder's format must be version {FORMAT_VERSION}."
                f" Received: format_version={version}. Use the version of this project that wrote"
                " it, or train anew."
            )
        values = read_settings_file(self.config_path)
        sha256, asked_for = content.get("data_sha256"), content.get("asked_for")
        if not isinstance(sha256, dict):
            raise InputError(
                f"{self.config_path}: the file must hold every setting, and data_sha256 behind"
                " them. Received: no data_sha256. It is damaged: restore it, or train anew."
            )
        asked_for = asked_for if isinstance(asked_for, dict) else {}
        return RunRecord(make_settings(values, values), sha256, asked_for)

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

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, up to the first that is damaged."""
        lines = []
        if self.metrics_path.exists():
            for line in self.metrics_path.read_bytes().splitlines():
                try:
                    lines.append(dict(json.loads(line)))
                except (ValueError, TypeError):
                    break
        return lines

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        if self.read_only:
            return
        write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in lines))


@contextlib.contextmanager
def claim(output: str | Path, record: RunRecord, *, overwrite: bool) -> Iterator[RunFolder]:
    """Holds the folder to train in, for this process alone.

    A blank or new folder is trained in as it is, and so is an unfinished run of the same settings
    and data. The limits of the training (`LIMITS`) may have been raised: then a finished run is
    trained further, too, and keeps its model until the new one replaces it. With `overwrite`, any
    other run stays as it is until the caller's block has finished another one beside it.

    Args:
        output: Where the finished run shall be.
        record: Settings and data of this training.
        overwrite: Whether another run may be replaced.

    Yields:
        The folder, locked.

    Raises:
        InputError: If another process holds it, it is no run, it is finished, or it was started
            with other settings or data.
    """
    run = RunFolder(Path(output).resolve())
    _complete_swap(run)
    run.check_ours()
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(run))
        if not run.is_blank and _must_be_replaced(run, record, overwrite):
            staging, old = _sibling(run, "new"), _sibling(run, "old")
            for folder in (staging, old):
                folder.check_ours()
            stack.enter_context(locked(staging))
            _discard_if_different(staging, record)
            yield staging
            _swap(run, staging)
        else:
            yield run


def _must_be_replaced(run: RunFolder, record: RunRecord, overwrite: bool) -> bool:
    """False for a run to train further: an unfinished one, or one whose limits were raised."""
    if overwrite:
        with contextlib.suppress(InputError):  # another format, or damaged
            return run.is_finished or bool(record.differences(run.read_record()))
        return True
    if run.is_finished and not _is_extended(run, record):
        further = f"raise {listed(LIMITS, 'or')} to train it further"
        if run.position_saved == (0, 0):
            further = "put its checkpoints back to train it further"
        raise InputError(
            f"{run.path}: the output must not hold a finished run. Received: a finished run."
            f" Choose another --output, give --overwrite to replace it, or {further}."
        )
    earlier = run.read_record()
    differences = record.differences(earlier, ignoring=record.raised_limits(earlier))
    if differences:
        raise InputError(
            f"{run.path}: a run must be resumed with the settings and data that it was started"
            f" with. Received: {'; '.join(differences)}. Give the earlier ones (only"
            f" {listed(LIMITS)} may be raised), choose another --output, or give --overwrite."
        )
    return False


def _is_extended(run: RunFolder, record: RunRecord) -> bool:
    """Whether a finished run has a checkpoint to continue from, and a raised limit."""
    with contextlib.suppress(InputError):
        return run.position_saved > (0, 0) and bool(record.raised_limits(run.read_record()))
    return False


def _discard_if_different(staging: RunFolder, record: RunRecord) -> None:
    """Empties a folder beside the run in which other settings were tried."""
    if staging.is_blank:
        return
    with contextlib.suppress(InputError):
        earlier = staging.read_record()
        if not record.differences(earlier, ignoring=record.raised_limits(earlier)):
            return
    _empty(staging)


def _empty(run: RunFolder) -> None:
    """Removes all but the lock; config.yaml last, so that what is left is known to be ours."""
    entries = [path for path in run.path.iterdir() if path not in (run.lock_path, run.config_path)]
    for path in [*entries, run.config_path]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _remove(run: RunFolder) -> None:
    if run.path.exists():
        _empty(run)
        shutil.rmtree(run.path)


def _sibling(run: RunFolder, suffix: str) -> RunFolder:
    return RunFolder(run.path.with_name(f".{run.path.name}.{suffix}"))


def _swap(run: RunFolder, staging: RunFolder) -> None:
    """Puts the finished new run in the old one's place."""
    old = _sibling(run, "old")
    _remove(old)  # blank, else `claim` would have refused it
    os.rename(run.path, old.path)
    os.rename(staging.path, run.path)
    _remove(old)


def _complete_swap(run: RunFolder) -> None:
    """Finishes a swap that was cut off between its steps."""
    staging, old = _sibling(run, "new"), _sibling(run, "old")
    if not old.path.exists() or not old._has_our_config():
        return
    if not run.path.exists():
        os.rename((staging if staging.is_finished else old).path, run.path)
    _remove(old)


@contextlib.contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Keeps other processes off the folder; a folder that stays blank is removed again."""
    is_new = not run.path.exists()
    run.path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(run.lock_path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InputError(
            f"{run.path}: only one process may train in a folder. Received: process"
            f" {_owner(run)} trains there. Wait for it, stop it, or choose another --output."
        ) from error
    try:
        run.lock_path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        if is_new and run.path.exists() and run.is_blank:
            shutil.rmtree(run.path)
        lock.release()


def _owner(run: RunFolder) -> str:
    with contextlib.suppress(OSError):
        return run.lock_path.read_text().strip() or "?"
    return "?"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Writes a file whole or not at all.

    Args:
        path: The file's name once it is complete. Where it is a link, the file that it leads to is
            replaced.

    Yields:
        The temporary name, in the same folder and with the same suffix, to write under.

    Raises:
        OSError: With `path` as its file name, if writing fails; nothing is left behind then.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{target.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all.

    Names of files that are not UTF-8 have parts that it cannot hold. These are escaped as JSON and
    YAML escape them, so that such a file is read back as it was.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_or_keep(path: Path, text: str) -> None:
    """`write_text` for what took long to find: if it fails, the text is kept elsewhere.

    Raises:
        InputError: If it fails; says where the text is.
    """
    try:
        write_text(path, text)
    except OSError as error:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix=f"{path.name}.", delete=False
        ) as kept:
            kept.write(text)
        raise InputError(
            f"{path}: the result must be written there. Received: {error.strerror}. It is kept in"
            f" {kept.name}: move it to where there is room."
        ) from error


def _data_sha256(settings: TrainingSettings) -> dict[str, str]:
    """The fingerprint of the text that each setting names: of one file, or of several in order."""
    source, target = settings.validation_files()
    corpora = settings.corpora()
    if settings.train_corpora is None:
        sides = zip(*corpora[0].files(), strict=True)
        train = {
            name: _files_sha256(files)
            for name, files in zip(("train_source", "train_target"), sides, strict=True)
            if files[0] is not None
        }
    else:
        parts = [
            f"{corpus.weight:g} {corpus.columns} {' '.join(map(_files_sha256, corpus.files()))}"
            for corpus in corpora
        ]
        train = {"train_corpora": _text_sha256("\n".join(parts))}
    return train | {
        "validation_source": file_sha256(source),
        "validation_target": file_sha256(target),
    }


def _files_sha256(paths: Iterable[Path | None]) -> str:
    digests = [file_sha256(path) for path in paths if path is not None]
    return digests[0] if len(digests) == 1 else _text_sha256(" ".join(digests))


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: str | Path) -> str:
    """Hexadecimal sha256 of a file as it is stored."""
    refuse_pipe(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_version() -> str:
    """This project's installed version."""
    try:
        return importlib.metadata.version("keras-seq2seq-transformer")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
