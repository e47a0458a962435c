"""Writes files whole or not at all, and tells them by their content."""

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
        path: The final name. If it is a link, the file it points to is replaced.

    Yields:
        The temporary name, in the same folder and with the same suffix.

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

    File names that are not UTF-8 contain surrogates, which UTF-8 cannot hold. They are escaped as
    JSON and YAML do, so that reading the file gives the same name.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_or_keep(path: Path, text: str) -> None:
    """`write_text` for results that took long: if it fails, keeps the text in a temporary file.

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


def file_sha256(path: str | Path) -> str:
    """The hexadecimal sha256 of a file as it is stored."""
    refuse_pipe(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_pipe(path: str | Path) -> None:
    """Refuses a pipe, a socket or a device; does not open it, since opening a pipe may hang.

    Raises:
        InputError: If it is one. A missing file passes: opening it says what is wrong.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise InputError(
            f"{path}: must be a regular file, because files are read more than once. Received:"
            f" {kinds.get(stat.S_IFMT(mode), 'a device')}. Write its content to a file, and name"
            " that."
        )
