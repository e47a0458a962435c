"""`checksums.json`: the SHA-256 of each file of a finished run or an export, checked on loading.

It shows damage, and changes made by mistake. It does not show who wrote the files: whoever can
change them can change `checksums.json` too, or the files after they have been compared.
"""

import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from keras_transformer.errors import InputError

CHECKSUMS_FILE = "checksums.json"

# The files of a finished run that are listed. Others, such as checkpoints and logs, are not.
RUN_FILES = ("config.yaml", "metrics.jsonl", "model.keras", "tokenizer.model")

_FORMAT_VERSION = 1
_MOST_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_LOGGER = logging.getLogger("keras_transformer")


def checksums_of(folder: Path, names: Iterable[str]) -> str:
    """Returns the content of `checksums.json` for these files of a folder."""
    return _as_text({name: _sha256(folder / name) for name in names})


def write_export_checksums(version: Path) -> None:
    """Writes `checksums.json` for all files of a new version of an export."""
    text = checksums_of(version, _files_in(version))
    (version / CHECKSUMS_FILE).write_text(text, encoding="utf-8")


def check_run(run: str | os.PathLike[str]) -> None:
    """Compares the files of a finished run with its `checksums.json`.

    Logs a warning if there is none, as in runs of earlier versions.

    Raises:
        InputError: A file is missing or has changed, or is a link that leaves the folder.
    """
    for name in (*RUN_FILES, CHECKSUMS_FILE):
        refuse_link_out(Path(run), name)
    _check(Path(run), is_export=False)


def check_export(version: str | os.PathLike[str]) -> bool:
    """Compares the files of an export's version with its `checksums.json`.

    Logs a warning if there is none, as in exports of earlier versions.

    Returns:
        Whether there is a `checksums.json`.

    Raises:
        InputError: A file is missing, has changed, or is not listed.
    """
    return _check(Path(version), is_export=True)


def _check(folder: Path, is_export: bool) -> bool:
    file = folder / CHECKSUMS_FILE
    content = _content(file)
    if content is None:
        _LOGGER.warning(
            "%s: has no %s, so changes to its files go unnoticed", folder, CHECKSUMS_FILE
        )
        return False
    try:
        listed = _listed(file, content)
        _compare(folder, listed, _files_in(folder) if is_export else RUN_FILES)
    except InputError:
        if _content(file) != content:  # written again by a training in the meantime
            return _check(folder, is_export)
        raise
    return True


def refuse_link_out(folder: Path, name: str) -> None:
    """Refuses a file of a folder if a link leads out of the folder.

    Raises:
        InputError: It does.
    """
    root, target = os.path.realpath(folder), os.path.realpath(folder / name)
    if os.path.commonpath([root, target]) != root:
        raise InputError(
            f"{folder / name}: the folder must hold all its files. Received: a link that leaves the"
            " folder. Put the file itself there."
        )


def _compare(folder: Path, listed: dict[str, str], names: Iterable[str]) -> None:
    names = set(names)
    for name in sorted(names - listed.keys()):
        raise InputError(
            f"{_shown(folder / name)}: must be listed in {CHECKSUMS_FILE}. Received: a file that is"
            " not. Remove it if you put it there; else get the folder again."
        )
    for name in sorted(listed.keys() - names):
        raise InputError(
            f"{folder / name}: must be a file of the folder, because {CHECKSUMS_FILE} lists it."
            " Received: no such file. Get the folder again."
        )
    for name, expected in sorted(listed.items()):
        path = folder / name
        try:
            found = _sha256(path)
        except OSError as error:
            raise InputError(
                f"{path}: must be the file that {CHECKSUMS_FILE} lists. Received:"
                f" {error.strerror}. Get the folder again."
            ) from error
        if found != expected:
            raise InputError(
                f"{path}: must be as {CHECKSUMS_FILE} lists it. Received: SHA-256 {found[:12]}..."
                f" instead of {expected[:12]}.... Get the folder again."
            )


def _content(file: Path) -> bytes | None:
    """Reads `checksums.json`; None if there is none."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise _not_ours(file, "something other than a file")
        with open(file, "rb") as opened:
            return opened.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_ours(file, error.strerror or "an unreadable file") from error


def _listed(file: Path, content: bytes) -> dict[str, str]:
    """Returns the SHA-256 of each file; the text must be exactly as `_as_text` writes it."""
    try:
        listed = json.loads(content)["sha256"] if len(content) <= _MOST_BYTES else {}
        is_ours = all(
            _NAME.fullmatch(name) and ".." not in name and _SHA256.fullmatch(sha256)
            for name, sha256 in listed.items()
        )
        if is_ours and _as_text(listed).encode() == content:
            return listed
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise _not_ours(file, "other content")


def _not_ours(file: Path, received: str) -> InputError:
    return InputError(
        f"{file}: must be as the training or the export wrote it. Received: {received}. Get the"
        " folder again, or remove this file to skip the check."
    )


def _as_text(sha256: dict[str, str]) -> str:
    content = {"format_version": _FORMAT_VERSION, "sha256": dict(sorted(sha256.items()))}
    return json.dumps(content, indent=2) + "\n"


def _files_in(version: Path) -> list[str]:
    """Returns the names of all files but `checksums.json`, with slashes.

    Raises:
        InputError: There is a link or something else that is neither a file nor a folder.
    """
    names = []
    for path, folders, files in os.walk(version):
        for name in (*folders, *files):
            mode = os.lstat(os.path.join(path, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InputError(
                    f"{_shown(Path(path, name))}: an export must have only files and folders."
                    " Received: a link, a pipe or a device. Replace a link with the file itself."
                )
        names += [Path(path, name).relative_to(version).as_posix() for name in files]
    return sorted(name for name in names if name != CHECKSUMS_FILE)


def _shown(path: Path) -> str:
    """Returns a path as one line of text, whatever a stranger called the file."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def _sha256(path: Path) -> str:
    """Returns the SHA-256 of a regular file."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(0, "something other than a file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
