"""Reads and writes a run's config.yaml: resolved settings and fingerprints of the data."""

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from training.command_line.errors import InputError
from training.runs.files import file_sha256, write_text
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
    from keras_transformer.text.tokenizer_pair import Tokenizer

FORMAT_VERSION = 2

# Settings for which the tokenizer may have its own value, whatever was asked for.
TOKENIZER_SETTINGS = ("vocabulary_size", "source_vocabulary_size", "normalization")


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The settings of a run and the fingerprints of its data.

    Attributes:
        settings: Every setting.
        data_sha256: Hexadecimal SHA-256 of the data files, as stored, by setting name.
        asked_for: The values asked for, by setting, where the tokenizer has different ones.
    """

    settings: TrainingSettings
    data_sha256: dict[str, str]
    asked_for: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, settings: TrainingSettings) -> "RunRecord":
        """Makes the record of a run that is about to start; reads the data files."""
        return cls(settings, _data_sha256(settings))

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Reads the record in a config.yaml.

        Raises:
            InputError: If the file is missing, damaged, or in a different format.
        """
        if not path.exists():
            raise InputError(
                f"{path.parent}: a run folder must hold config.yaml. Received: no such file. Give"
                " the folder that `python -m training.train --output` wrote."
            )
        content = {name: entry.value for name, entry in read_yaml_mapping(path).items()}
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path}: the run folder's format must be version {FORMAT_VERSION}. Received:"
                f" format_version={str(version)[:80]}. Use the version of this project that wrote"
                " it, or train again."
            )
        values = read_settings_file(path)
        sha256, asked_for = content.get("data_sha256"), content.get("asked_for")
        if not _is_fingerprints(sha256):
            raise InputError(
                f"{path}: the file must hold every setting, and data_sha256 after them. Received:"
                " no data_sha256. It is damaged: restore it, or train again."
            )
        asked_for = asked_for if isinstance(asked_for, dict) else {}
        asked_for = {name: asked_for[name] for name in TOKENIZER_SETTINGS if name in asked_for}
        return cls(make_settings(values, values), sha256, asked_for)

    def write(self, path: Path) -> None:
        """Writes the record as a config.yaml."""
        content = {
            "format_version": FORMAT_VERSION,
            "package_version": package_version(),
            **dataclasses.asdict(self.settings),
            "data_sha256": self.data_sha256,
            **({"asked_for": self.asked_for} if self.asked_for else {}),
        }
        write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def with_tokenizer(self, tokenizer: "Tokenizer") -> "RunRecord":
        """Returns the record with the tokenizer's own values instead of those asked for."""
        settings = with_sub_words_of(tokenizer, self.settings)
        asked = {name: getattr(self.settings, name) for name in TOKENIZER_SETTINGS}
        return dataclasses.replace(
            self,
            settings=settings,
            asked_for={
                name: value for name, value in asked.items() if value != getattr(settings, name)
            },
        )

    def raised_limits(self, earlier: "RunRecord") -> list[str]:
        """Returns the limits (`LIMITS`) that are higher than in an earlier record, or removed."""

        def is_raised(name):
            old, new = getattr(earlier.settings, name), getattr(self.settings, name)
            return old is not None and (new is None or new > old)

        return [name for name in LIMITS if is_raised(name)]

    def differences(self, earlier: "RunRecord", *, may_raise: bool = False) -> list[str]:
        """Lists the differences from an earlier record, as `name: OLD there, NEW now`.

        Compares data files by content, since they may have moved. A tokenizer setting may equal
        either the value asked for earlier or the tokenizer's own.

        Args:
            earlier: The earlier record.
            may_raise: Whether to ignore raised limits.
        """
        ignored = {*DATA_SETTINGS, *(self.raised_limits(earlier) if may_raise else [])}
        lines = []
        for name in SETTING_NAMES:
            old, new = getattr(earlier.settings, name), getattr(self.settings, name)
            agreeing = (old, earlier.asked_for.get(name, old))
            if name not in ignored and new not in agreeing:
                lines.append(f"{name}: {old} there, {new} now")
        for name in DATA_SETTINGS:
            old, new = earlier.data_sha256.get(name, "none"), self.data_sha256.get(name, "none")
            if old != new:
                path = getattr(self.settings, name)
                lines.append(f"{name}: sha256 {old[:12]} there, {new[:12]} now ({path})")
        return lines


def with_sub_words_of(tokenizer: "Tokenizer", settings: TrainingSettings) -> TrainingSettings:
    """Returns settings with the tokenizer's own values of `TOKENIZER_SETTINGS`."""
    is_shared = settings.source_vocabulary_size is None and tokenizer.shares_vocabulary
    source_size = None if is_shared else tokenizer.source_vocabulary_size
    return dataclasses.replace(
        settings,
        vocabulary_size=tokenizer.vocabulary_size,
        source_vocabulary_size=source_size,
        normalization=tokenizer.normalization,
    )


def most_ids_of(settings: TrainingSettings) -> int:
    """Returns the most ids that a side of the run's tokenizer may have."""
    return max(settings.vocabulary_size, settings.source_vocabulary_size or 0)


def package_version() -> str:
    """Returns the installed version of this project."""
    try:
        return importlib.metadata.version("keras-seq2seq-transformer")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _is_fingerprints(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(text, str) and len(text) <= 64 for item in value.items() for text in item
    )


def _data_sha256(settings: TrainingSettings) -> dict[str, str]:
    """Returns the fingerprint of each setting's text: of one file, or of several in order."""
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
