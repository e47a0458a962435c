r"""Reads lines that end in \n or \r\n from plain and compressed files; errors name the line."""

import codecs
import itertools
import os
import stat
from collections.abc import Iterable, Iterator

from keras_transformer.errors import InputError
from keras_transformer.text.blank import is_blank
from keras_transformer.text.compressed import (
    DAMAGES,
    FORMATS,
    PathName,
    format_of_bytes,
    format_of_name,
    unpacked,
)


def read_lines(path: PathName) -> list[str]:
    r"""Reads a text file, whose lines end only in \n or \r\n.

    Args:
        path: The file, in UTF-8, plain, .gz, .bz2 or .xz. A byte order mark is not part of the
            text.

    Returns:
        The lines without \n or \r\n. A line may be empty.

    Raises:
        InputError: The file can't be read, is a pipe or a device, is cut short, is not UTF-8, has a
            NUL byte, or has only blank lines.
    """
    return list(iterate_lines(path))


def read_pairs(source_path: PathName, target_path: PathName) -> tuple[list[str], list[str]]:
    """Reads two files whose lines are translations of each other.

    Args:
        source_path: The source side; see `read_lines`.
        target_path: The target side.

    Returns:
        The source lines, and as many target lines.

    Raises:
        InputError: A file has a fault, or they differ in their number of lines.
    """
    source, target = zip(*iterate_pairs(source_path, target_path), strict=True)
    return list(source), list(target)


def iterate_lines(path: PathName) -> Iterator[str]:
    """`read_lines`, one line at a time; raises errors when it reaches them."""
    number, only_blank = 0, True
    for number, data in enumerate(_iterate_bytes(path), start=1):
        line = _decode(data, path, number)
        only_blank = only_blank and is_blank(line)
        yield line
    if only_blank:
        raise InputError(
            f"{path}: must hold at least one line of text."
            f" Received: {f'{number} blank lines' if number else 'an empty file'}. Check the path."
        )


def iterate_any_lines(path: PathName) -> Iterator[str]:
    """`iterate_lines`, but accepts files that are blank or empty."""
    for number, data in enumerate(_iterate_bytes(path), start=1):
        yield _decode(data, path, number)


def iterate_pairs(source_path: PathName, target_path: PathName) -> Iterator[tuple[str, str]]:
    """`read_pairs`, one pair at a time; notices a shorter file only at its end."""
    sides = iterate_lines(source_path), iterate_lines(target_path)
    number = 0
    for number, (source, target) in enumerate(itertools.zip_longest(*sides)):
        if source is None or target is None:
            longer = number + 1 + sum(1 for _ in itertools.chain(*sides))
            num_lines = (number, longer) if source is None else (longer, number)
            raise InputError(
                f"{source_path} and {target_path} must have the same number of lines."
                f" Received: {num_lines[0]} and {num_lines[1]} lines."
                " Line n of one must be the translation of line n of the other."
            )
        yield source, target


def iterate_columns(path: PathName, columns: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    """Yields source and target of each line of a file of columns separated by tabs.

    Args:
        path: The file; see `read_lines`.
        columns: The columns of source and target, counted from 1; lines may have more columns. None
            for lines of exactly two columns.

    Raises:
        InputError: The file has a fault, see `read_lines`, or a line has the wrong number of
            columns.
    """
    first, second = columns or (1, 2)
    needed = max(first, second)
    for number, line in enumerate(iterate_lines(path), start=1):
        parts = line.split("\t")
        if len(parts) < needed or (columns is None and len(parts) > needed):
            raise InputError(
                f"{path}:{number}: a line must have {'' if columns is None else 'at least '}"
                f"{needed} columns, separated by tabs. Received: {len(parts)}. Fix the line, or"
                " select columns, for example Corpus(FILE, columns=(1, 2)); if the target is in"
                " another file, name that file as well."
            )
        yield parts[first - 1], parts[second - 1]


def iterate_stream(stream: Iterable[bytes]) -> Iterator[bytes]:
    r"""Yields the lines of a stream of bytes, without \n or \r\n, from its start.

    A lone \r does not end a line. A byte order mark at the start is skipped, even if nothing
    follows.
    """
    lines = iter(stream)
    first = next(lines, b"").removeprefix(codecs.BOM_UTF8)
    for line in itertools.chain([first] if first else [], lines):
        yield line.removesuffix(b"\n").removesuffix(b"\r") if line.endswith(b"\n") else line


def describe_os_error(error: OSError) -> str:
    """Describes the error in words, such as "No such file or directory"."""
    return error.strerror or str(error)


def unreadable(path: PathName, error: OSError) -> InputError:
    """Returns the error for a file that is missing or may not be read."""
    return InputError(
        f"{path}: must be a file that can be read."
        f" Received: {describe_os_error(error)}. Check the path."
    )


def refuse_pipe(path: PathName) -> None:
    """Raises an InputError for a pipe, a device or a socket, which can't be read repeatedly.

    Does not open the file, because opening a pipe may hang. Missing files and folders pass: opening
    them raises an error of its own.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise InputError(
            f"{path}: must be a regular file, because files are read more than once."
            f" Received: {kinds.get(stat.S_IFMT(mode), 'a device')}."
            " Write its content to a file, and name that file."
        )


def _iterate_bytes(path: PathName) -> Iterator[bytes]:
    refuse_pipe(path)
    try:
        with open(path, "rb") as file:
            yield from iterate_stream(unpacked(file, path))
    except DAMAGES as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path}: needs a Python that can unpack {format_of_name(path)}."
            f" Received: a Python without the module {error.name}. Unpack the file first."
        ) from error


def _damaged(path: PathName, error: Exception) -> InputError:
    promised, found = format_of_name(path), _format_of(path)
    received = str(error)
    if found != promised:
        received = f"a file in {found} format" if found else "a file that does not begin like one"
    return InputError(
        f"{path}: must be a whole {promised} file, as its name says. Received: {received}."
        " Copy or pack the file again, or rename it."
    )


def _format_of(path: PathName) -> str | None:
    with open(path, "rb") as file:
        return format_of_bytes(file.read(16))


def _decode(line: bytes, path: PathName, number: int) -> str:
    if b"\0" in line:
        raise _not_text(path) or InputError(
            f"{path}:{number}: a line must be text in UTF-8. Received: a NUL byte."
            " Convert the file to UTF-8 (UTF-16 has NUL bytes), or remove the byte."
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_text(path) or InputError(
            f"{path}:{number}: a line must be valid UTF-8."
            f" Received: byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line."
            " Convert the file to UTF-8."
        ) from error


def _not_text(path: PathName) -> InputError | None:
    """Returns the error for a compressed file with an unsuitable name; None for other files."""
    found = _format_of(path)
    if found is None or found == format_of_name(path):
        return None
    suffix = {name: suffix for suffix, name in FORMATS.items()}.get(found)
    return InputError(
        f"{path}: must be text, or end in the suffix of its compression."
        f" Received: a file in {found} format."
        + (f" Rename it to end in {suffix}, or unpack it." if suffix else " Unpack it.")
    )
