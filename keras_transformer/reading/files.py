"""Opens files of a folder that may come from a stranger."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


class DamagedFile(Exception):
    """Raised if a file is not what its writer writes; says what was found."""


def check_is_inside(path: Path) -> None:
    """Refuses a file that is not a regular one, or a link that leaves its folder.

    Raises:
        DamagedFile: If the file is missing, or one of these.
    """
    try:
        if path.is_symlink():
            folder, target = os.path.realpath(path.parent), os.path.realpath(path)
            if os.path.commonpath([folder, target]) != folder:
                raise DamagedFile("a link that leaves its folder")
        mode = os.stat(path).st_mode
    except OSError as error:
        raise DamagedFile(error.strerror or "an unreadable file") from error
    if not stat.S_ISREG(mode):
        raise DamagedFile("a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file that is inside its folder.

    Raises:
        DamagedFile: If it is another kind of file, or cannot be read.
    """
    check_is_inside(path)
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise DamagedFile(error.strerror or "an unreadable file") from error


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Reads a whole file of at most `most_bytes`.

    Raises:
        DamagedFile: If it is larger, or not a regular file inside its folder.
    """
    with opened(path) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise DamagedFile(f"more than {most_bytes:,} bytes")
    return data
