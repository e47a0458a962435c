"""Checks before a command starts that it can write its results."""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from training.command_line.errors import InputError


def check_output_files(
    outputs: Mapping[str, str | None],
    inputs: Mapping[str, str | None] | None = None,
    *,
    overwrite: bool,
) -> None:
    """Refuses output files that could not be written; makes their folders.

    Args:
        outputs: Files to write, by option; None for an option that was not given.
        inputs: Files to read, by option, likewise.
        overwrite: Whether existing files may be replaced.

    Raises:
        InputError: If an output is a folder or a device, exists, cannot be made, or is the same
            file as another output or an input.
    """
    taken = {option: path for option, path in (inputs or {}).items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        _check_file(option, path, overwrite)
        for other, other_path in taken.items():
            if _is_same(path, other_path):
                raise InputError(
                    f"{path}: {option} and {other} must be different files. Received: the same one."
                    " Choose another name."
                )
        taken[option] = path
    for option, path in outputs.items():
        if path is not None:
            folder = Path(os.path.realpath(path)).parent
            _check_writable(option, path, folder, prefix=os.path.basename(path))


def check_output_folder(option: str, path: str) -> None:
    """Refuses a folder that cannot be made or written to; does not make the folder.

    Args:
        option: The option that names the folder.
        path: The folder.

    Raises:
        InputError: If the path is a file, is not UTF-8, or cannot be written to.
    """
    if not path:
        raise InputError(f"{option} must name a folder. Received: an empty name. Give a name.")
    check_utf_8(option, path)
    folders = (Path(path), *Path(path).parents)
    existing = next(folder for folder in folders if os.path.exists(folder))
    if not existing.is_dir():
        raise InputError(
            f"{path}: {option} must be a folder. Received: {existing}: Not a directory. Choose"
            " another name."
        )
    _check_writable(option, path, existing)


def check_utf_8(option: str, path: str) -> None:
    """Refuses a path that TensorFlow could not write to.

    Raises:
        InputError: If the path is not UTF-8, or the locale keeps Python from encoding it so.
    """
    name = os.fsencode(os.path.abspath(path))
    try:
        if os.fsdecode(name) == name.decode("utf-8"):
            return
        advice = f"Set PYTHONUTF8=1, since {sys.getfilesystemencoding()} cannot encode it."
    except UnicodeDecodeError:
        advice = "Choose another name."
    raise InputError(
        f"{path}: the name of {option}, and of the folders above it, must be UTF-8, or TensorFlow"
        f" cannot use it. Received: {name}. {advice}"
    )


def _check_file(option: str, path: str, overwrite: bool) -> None:
    what = f"{path}: {option} must be the name of a file"
    if not path or path.endswith("/") or os.path.isdir(path):
        kind = "a folder" if path else "an empty name"
        raise InputError(f"{what}. Received: {kind}. Give a file in it.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{what}. Received: a device or a pipe. Choose another name.")
    if os.path.exists(path) and not overwrite:
        raise InputError(
            f"{path}: the output must not exist. Received: an existing file. Choose another"
            " name, or give --overwrite."
        )


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them does not exist
        return os.path.realpath(path) == os.path.realpath(other)


def _check_writable(option: str, path: str, folder: Path, prefix: str = "tmp") -> None:
    received = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=prefix):
            return
    except (FileExistsError, NotADirectoryError):
        received = "a file in place of its folder"
    except OSError as error:
        received = error.strerror
    raise InputError(
        f"{path}: {option} must be where this user can write. Received: {received}. Choose another"
        " place."
    )
