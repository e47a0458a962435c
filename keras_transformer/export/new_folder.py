"""A folder that appears whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from keras_transformer.errors import InputError


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary folder to write to, which gets its name when the block has succeeded.

    Raises:
        InputError: If something has the name already, or the folder cannot be written.
    """
    path = Path(folder).absolute()
    if path.exists() or path.is_symlink():
        raise InputError(
            f"{folder}: the export needs a new folder. Received: something that exists. Remove it,"
            " or choose another name."
        )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        try:
            unfinished.mkdir(parents=True)
        except OSError as error:
            raise InputError(
                f"{folder}: the export needs a folder where this user can write. Received:"
                f" {error.strerror}. Choose another place."
            ) from error
        yield unfinished
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
