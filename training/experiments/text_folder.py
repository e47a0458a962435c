"""A folder with a parallel text, found by its files' names."""

from collections.abc import Sequence
from pathlib import Path

from keras_transformer.text.compressed import without_suffix
from training.command_line.errors import InputError

VALIDATION_NAMES = ("validation", "valid", "val", "dev")


def text_settings(folder: str | Path, languages: Sequence[str]) -> dict[str, str]:
    """The four settings of `training.train` that name its text.

    Args:
        folder: Holds train.en, train.de, validation.en and validation.de, or as the languages
            are; .gz, .bz2 and .xz files are taken, and valid, val or dev for validation.
        languages: The suffix of the source files and that of the target files.

    Raises:
        InputError: If a file is missing, or the languages are not two.
    """
    if len(languages) != 2:
        raise InputError(
            "--languages must be two, source and target. Received:"
            f" {' '.join(languages) or 'none'}. Give for example --languages en de."
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
    found = {without_suffix(path.name): path for path in files}  # plain ones win
    for name in names:
        if name in found:
            return found[name]
    raise InputError(
        f"{folder}: the folder of the text must hold {names[0]}. Received: none of"
        f" {', '.join(names)}, plain or compressed. Name the folder with --data and the suffixes"
        " with --languages."
    )
