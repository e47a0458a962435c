"""The options that name an experiment's parallel text, as a folder or as single files."""

import re
from collections.abc import Sequence
from pathlib import Path

from training.command_line.errors import InputError, UsageError
from training.command_line.parser import CommandParser
from training.settings import DATA_SETTINGS

VALIDATION_NAMES = ("validation", "valid", "val", "dev")


def add_text_options(parser: CommandParser) -> None:
    """Adds --data and --languages, and options for single files instead of a folder."""
    parser.add_option(
        "data", str | None, None, "A folder with train.en, train.de, val.en, val.de, or .gz, .xz."
    )
    parser.add_option(
        "languages", str, ["en", "de"], "Suffixes of source and target in --data.", nargs=2
    )
    for name in DATA_SETTINGS:
        if name != "train_corpora":
            parser.add_option(name, str | None, None, "A file, instead of --data.")


def text_of(options) -> dict[str, str]:
    """Returns the text's files by the names of settings; empty if the options name no file."""
    files = {name: options.get(name) for name in DATA_SETTINGS if options.get(name) is not None}
    if options.data is None:
        return files
    if files:
        raise UsageError(
            "--data must not be given together with single files. Received: --data and"
            f" {', '.join(files)}. Leave out either."
        )
    return text_settings(options.data, options.languages)


def text_settings(folder: str | Path, languages: Sequence[str]) -> dict[str, str]:
    """Returns the four settings of `training.train` that name the text's files.

    Args:
        folder: The folder with train.en, train.de, validation.en and validation.de, for example.
            The names may start with valid, val or dev instead of validation, and .gz, .bz2 or .xz
            may follow.
        languages: The suffixes of the source files and of the target files.

    Raises:
        InputError: If a file is missing, or there are not exactly two languages.
    """
    if len(languages) != 2:
        raise InputError(
            "--languages must be two, source and target. Received:"
            f" {' '.join(languages) or 'no language'}. For example, give --languages en de."
        )
    names = {"train": ("train",), "validation": VALIDATION_NAMES}
    return {
        f"{split}_{side}": str(_find(Path(folder), names[split], language))
        for split in names
        for side, language in zip(("source", "target"), languages, strict=True)
    }


def _find(folder: Path, stems: Sequence[str], language: str) -> Path:
    names = [f"{stem}.{language}" for stem in stems]
    files = [path for path in sorted(folder.glob("*"), reverse=True) if path.is_file()]
    # Plain files win, since they come last.
    found = {re.sub(r"(?i)\.(gz|bz2|xz)$", "", path.name): path for path in files}
    for name in names:
        if name in found:
            return found[name]
    raise InputError(
        f"{folder}: the folder of the text must hold {names[0]}. Received: none of"
        f" {', '.join(names)}, plain or compressed. Name the folder with --data and the suffixes"
        " with --languages."
    )
