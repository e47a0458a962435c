"""Unpacks .gz, .bz2 and .xz files (in any case), and tells formats by name or by first bytes."""

import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import bz2
    import lzma

PathName = str | os.PathLike[str]

FORMATS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}

# The first bytes of files. Some formats are only named in errors.
_BEGINNINGS = {
    "gzip": rb"\x1f\x8b",
    "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\0",
    "Zstandard": rb"\x28\xb5\x2f\xfd",
    "zip": rb"PK\x03\x04",
    "7z": rb"7z\xbc\xaf\x27\x1c",
}

_PACKED_BYTES_AT_ONCE = 2**16


class DamagedStream(Exception):
    """Raised for a .bz2 or .xz file that is cut short, damaged or in another format."""


# Reading the result of `unpacked` raises these for damaged files.
DAMAGES = (DamagedStream, gzip.BadGzipFile, EOFError, zlib.error)


def format_of_name(path: PathName) -> str | None:
    """Returns the compressed format that a file's name promises; None for a plain file."""
    return FORMATS.get(os.path.splitext(path)[1].lower())


def format_of_bytes(beginning: bytes) -> str | None:
    """Returns the compressed format of a file that begins with these bytes; None if unknown."""
    return next((name for name, start in _BEGINNINGS.items() if re.match(start, beginning)), None)


def without_suffix(name: str) -> str:
    """Drops the suffix of a compressed format: "pairs.tsv" for "pairs.tsv.gz"."""
    return os.path.splitext(name)[0] if format_of_name(name) else name


def unpacked(file: BinaryIO, path: PathName) -> Iterable[bytes]:
    """Returns the lines of a file, unpacked, to be read once; `path` tells the format.

    Raises:
        ModuleNotFoundError: This Python was built without the module for the format.
    """
    name = format_of_name(path)
    if name is None:
        return file
    return gzip.open(file) if name == "gzip" else io.BufferedReader(_Streams(file, name))


class _Streams(io.RawIOBase):
    """Unpacks a file of one or more compressed streams in a row.

    `bz2.open` and `lzma.open` stop silently if a later stream is damaged.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._decompressor = _decompressor(name)
        self._is_within_stream = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            packed = self._packed()
            if packed is None:
                return 0
            try:
                data = self._decompressor.decompress(packed, len(buffer))
            except Exception as error:  # OSError or lzma.LZMAError
                raise DamagedStream(str(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def _packed(self) -> bytes | None:
        """Returns the decompressor's next input; None at the end of the file."""
        if not (self._decompressor.eof or self._decompressor.needs_input):
            return b""
        packed = self._decompressor.unused_data or self._file.read(_PACKED_BYTES_AT_ONCE)
        if self._decompressor.eof:
            self._decompressor, self._is_within_stream = _decompressor(self._name), False
        if not packed:
            if self._is_within_stream:
                raise DamagedStream("the file ends in the middle of a stream")
            return None
        self._is_within_stream = True
        return packed


def _decompressor(name: str) -> "bz2.BZ2Decompressor | lzma.LZMADecompressor":
    if name == "bzip2":
        import bz2

        return bz2.BZ2Decompressor()
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ)
