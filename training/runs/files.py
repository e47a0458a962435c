"""Writes files completely or not at all, and identifies files by their content."""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from training.command_line.errors import InputError

TEMPORARY_PREFIX = ".unfinished."


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Writes a file under a temporary name and renames it once it is complete.

    Args:
        path: The final name. If it is a link, replaces the file that it points to.

    Yields:
        The temporary name, in the same folder and with the same suffix.

    Raises:
        OSError: If writing fails; names `path`. Leaves no file behind.
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
    """Writes UTF-8 text, completely or not at all.

    File names that are not UTF-8 contain surrogates, which UTF-8 cannot encode. Escapes them as
    JSON and YAML do, so that reading the file restores the name.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_or_keep(path: Path, text: str) -> None:
    """Writes a result that took long to compute; if that fails, keeps it in a temporary file.

    Raises:
        InputError: If writing fails; names the temporary file.
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


def file_sha256(path: str | Path) -> str:
    """Returns the hexadecimal SHA-256 of a file as stored on disk."""
    refuse_pipe(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_links_out(folder: Path) -> None:
    """Refuses a folder that holds a link out of it, or something that is not a file or folder.

    Reading it would read other files, and writing to it would change them.

    Raises:
        InputError: If there is one; names it.
    """
    root = os.path.realpath(folder)
    for parent, folders, files in os.walk(root):
        for path in (os.path.join(parent, name) for name in (*folders, *files)):
            try:
                mode = os.lstat(path).st_mode
            except OSError:  # a temporary file of another process
                continue
            is_link = stat.S_ISLNK(mode)
            if is_link and not os.path.realpath(path).startswith(root + os.sep):
                raise InputError(
                    f"{path}: a run's folder must hold all its files. Received: a link that leaves"
                    " the folder. Put the file itself there."
                )
            if not (is_link or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                refuse_pipe(path)


def refuse_pipe(path: str | Path) -> None:
    """Refuses a pipe, a socket or a device without opening it, since opening a pipe may hang.

    Raises:
        InputError: If the path is one of these. A missing file passes, since opening it will fail.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise InputError(
            f"{path}: must be a regular file, because files are read more than once. Received:"
            f" {kinds.get(stat.S_IFMT(mode), 'a device')}. Write its content to a file, and give"
            " that file."
        )
