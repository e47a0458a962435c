"""Reads the arrays of an HDF5 file that Keras wrote, without the HDF5 library.

The format has links to other files, datasets that are computed from others, filters, and structures
that may refer to themselves. Keras uses none of these, so this reader knows only what Keras writes:
groups of groups and of datasets, each dataset in one piece. It refuses everything else by name.
Every structure must lie inside the file and apart from all others, so the time and memory are
bounded by the size of the file. Attributes are not read.

Source: "HDF5 File Format Specification Version 2.0", with superblock 0, object headers of version 1
and groups as symbol tables (sections II.A, III.A to III.D, IV.A).
"""

import itertools
import math
import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from keras_transformer.reading.files import DamagedFile

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Versions 0; offsets and lengths of 8 bytes; 4 names in a leaf, 16 children in a node of a group.
_SUPERBLOCK = bytes([0, 0, 0, 0, 0, 8, 8, 0, 4, 0, 16, 0]) + bytes(4)
_SUPERBLOCK_SIZE, _TREE_SIZE, _SYMBOLS_SIZE, _ENTRY_SIZE = 96, 544, 328, 40
_NOWHERE = 2**64 - 1
_NAME = re.compile(rb"[A-Za-z0-9_]{1,200}")

_MOST_STRUCTURES = 200_000
_MOST_LEVELS = 32  # of groups in groups, and of nodes in a group's tree
_MOST_DIMENSIONS = 8

# The kinds of messages in an object's header. Fill values, times and attributes are skipped.
_DATASPACE, _DATATYPE, _LAYOUT, _CONTINUATION, _SYMBOL_TABLE = 0x01, 0x03, 0x08, 0x10, 0x11
_SKIPPED = {0x00, 0x05, 0x0C, 0x12}
_REFUSED = {
    0x06: "a link that may lead to another file",
    0x07: "a dataset whose data is in another file",
    0x0B: "a filter, such as compression",
}


class Array(NamedTuple):
    """Where in the file the elements of an array are."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


def read_hdf5(data: bytes) -> dict[str, np.ndarray]:
    """Reads all arrays of an HDF5 file that Keras wrote.

    Args:
        data: The whole file. The arrays share its memory.

    Returns:
        The arrays by their path, such as `layers/dense/vars/0`.

    Raises:
        DamagedFile: If the file is damaged, or has something that Keras does not write.
    """
    found = _File(data).arrays()
    return {
        path: np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)
        for path, (shape, dtype, offset) in found.items()
    }


class _File:
    """Walks through the structures of a file, and keeps the places that they occupy."""

    def __init__(self, data: bytes):
        self.data = data
        self.places: list[tuple[int, int]] = []  # the start and end of each structure
        self.unclaimed = len(data)

    def arrays(self) -> dict[str, Array]:
        """Finds all arrays; reads none of their elements."""
        head = self.take(0, _SUPERBLOCK_SIZE)
        if not head.startswith(_SIGNATURE + _SUPERBLOCK):
            raise DamagedFile("it does not begin as an HDF5 file that Keras writes does")
        base, _, end, driver, _, root = struct.unpack_from("<6Q", head, 24)
        if (base, end, driver) != (0, len(self.data), _NOWHERE):
            raise DamagedFile(f"{len(self.data):,} bytes where the file declares {end:,}")
        arrays = dict(self.members_of(root, "", 0))
        self.check_apart()
        return arrays

    def take(self, offset: int, size: int) -> bytes:
        """Returns the bytes of a structure, which no other structure may share."""
        self.claim(offset, size)
        return self.data[offset : offset + size]

    def claim(self, offset: int, size: int) -> None:
        if offset + size > len(self.data):
            raise DamagedFile(f"a structure of {size:,} bytes that ends outside the file")
        if len(self.places) == _MOST_STRUCTURES:
            raise DamagedFile(f"more than {_MOST_STRUCTURES:,} structures")
        self.places.append((offset, offset + size))
        self.unclaimed -= size
        if self.unclaimed < 0:
            raise DamagedFile("structures that are larger than the file")

    def check_apart(self) -> None:
        """Refuses structures that share bytes, such as an object with two names."""
        for (_, end), (start, _) in itertools.pairwise(sorted(self.places)):
            if start < end:
                raise DamagedFile("two structures in one place")

    def members_of(self, header: int, path: str, level: int) -> Iterator[tuple[str, Array]]:
        """Yields the arrays of the object with a header at this offset, with their paths."""
        if level > _MOST_LEVELS:
            raise DamagedFile(f"more than {_MOST_LEVELS} levels of groups")
        messages = self.messages_of(header)
        if _SYMBOL_TABLE not in messages:
            yield path, self.array_of(messages, path)
            return
        tree, heap = _unpack("<2Q", messages[_SYMBOL_TABLE])
        names = self.names_in(heap)
        seen = set()
        for entry in self.entries_of(tree):
            name = _name_at(entry[0], names)
            if name in seen:
                raise DamagedFile(f"the name {name} twice in {path or 'the root'}")
            seen.add(name)
            if entry[2] == 2:
                raise DamagedFile(f"{path}/{name}, a link to another name")
            yield from self.members_of(entry[1], f"{path}/{name}".lstrip("/"), level + 1)

    def messages_of(self, header: int) -> dict[int, bytes]:
        """Returns the messages in an object's header by their kind."""
        version, _, count, _, size = _unpack("<2BHIIxxxx", self.take(header, 16))
        if version != 1:
            raise DamagedFile(f"an object header of version {version}")
        messages: dict[int, bytes] = {}
        blocks, num_read = [(header + 16, size)], 0
        for offset, size in blocks:
            block, position = self.take(offset, size), 0
            while position < len(block) and num_read < count:
                kind, length, flags = _unpack("<HHBxxx", block[position : position + 8])
                content = block[position + 8 : position + 8 + length]
                position, num_read = position + 8 + length, num_read + 1
                if position > len(block):
                    raise DamagedFile("a structure that is cut off")
                if kind == _CONTINUATION:
                    blocks.append(_unpack("<2Q", content))
                elif kind not in _SKIPPED:
                    _add_message(messages, kind, flags, content)
        return messages

    def names_in(self, heap: int) -> bytes:
        """Returns the part of the file where a group keeps its members' names."""
        signature, size, _, offset = _unpack("<8s3Q", self.take(heap, 32))
        if signature != b"HEAP" + bytes(4):
            raise DamagedFile("no names where a group's names must be")
        return self.take(offset, size)

    def entries_of(self, tree: int, level: int | None = None) -> Iterator[tuple[int, int, int]]:
        """Yields each member of a group: its name's offset, its header's offset, and its kind."""
        signature, kind, own_level, count = _unpack("<4sBBH16x", self.take(tree, _TREE_SIZE)[:24])
        if signature != b"TREE" or kind != 0 or count > 32:
            raise DamagedFile("no tree where a group's members must be")
        if own_level > _MOST_LEVELS or level not in (None, own_level):
            raise DamagedFile("a group whose tree has uneven branches")
        node = struct.unpack_from(f"<{2 * count}Q", self.data, tree + 24)
        for child in node[1::2]:  # a key comes before each child
            if own_level:
                yield from self.entries_of(child, own_level - 1)
            else:
                yield from self.leaf(child)

    def leaf(self, offset: int) -> Iterator[tuple[int, int, int]]:
        block = self.take(offset, _SYMBOLS_SIZE)
        signature, count = _unpack("<6sH", block[:8])
        if signature != b"SNOD\x01\x00" or count > 8:
            raise DamagedFile("no list of members where a group's members must be")
        for index in range(count):
            yield struct.unpack_from("<2QI", block, 8 + index * _ENTRY_SIZE)

    def array_of(self, messages: dict[int, bytes], path: str) -> Array:
        """Returns the array that a header describes; its elements must be in the file."""
        if {*messages} != {_DATASPACE, _DATATYPE, _LAYOUT}:
            raise DamagedFile(f"{path}, which is neither a group nor an array")
        shape, dtype = _shape(messages[_DATASPACE]), _dtype(messages[_DATATYPE])
        version, layout = _unpack("<2B", messages[_LAYOUT][:2])
        if (version, layout) != (3, 1):
            kind = {0: "compact", 2: "chunked", 3: "virtual"}.get(layout, "unknown")
            raise DamagedFile(f"{path}, a dataset whose layout is {kind}")
        offset, size = _unpack("<2Q", messages[_LAYOUT][2:18])
        if size != math.prod(shape) * dtype.itemsize:
            raise DamagedFile(f"{path} with shape {shape} in {size:,} bytes")
        self.claim(offset, size)
        return Array(shape, dtype, offset)


def _unpack(pattern: str, data: bytes) -> tuple[Any, ...]:
    try:
        return struct.unpack(pattern, data)
    except struct.error as error:
        raise DamagedFile("a structure that is cut off") from error


def _add_message(messages: dict[int, bytes], kind: int, flags: int, content: bytes) -> None:
    if kind in _REFUSED:
        raise DamagedFile(_REFUSED[kind])
    if kind not in (_DATASPACE, _DATATYPE, _LAYOUT, _SYMBOL_TABLE) or flags & 2:
        raise DamagedFile(f"a message of kind {kind}, which Keras does not write")
    if kind in messages:
        raise DamagedFile(f"two messages of kind {kind} for one object")
    messages[kind] = content


def _name_at(offset: int, names: bytes) -> str:
    end = names.find(0, offset, offset + 256) if offset < len(names) else -1
    name = names[offset:end] if end > 0 else b""
    if not _NAME.fullmatch(name):
        raise DamagedFile("a name that is not letters, digits and underscores")
    return name.decode("ascii")


def _shape(message: bytes) -> tuple[int, ...]:
    """Reads a dataspace, which may repeat its dimensions as the largest that are allowed."""
    version, rank, has_largest = _unpack("<3B5x", message[:8])
    if version != 1 or rank > _MOST_DIMENSIONS or has_largest > 1:
        raise DamagedFile(f"an array of {rank} dimensions, in version {version}")
    shape = _unpack(f"<{rank}Q", message[8 : 8 + 8 * rank])
    if has_largest and message[8 + 8 * rank : 8 + 16 * rank] != message[8 : 8 + 8 * rank]:
        raise DamagedFile("an array that may grow")
    if not all(0 < size < 2**40 for size in shape):
        raise DamagedFile(f"an array of shape {shape}")
    return shape


def _dtype(message: bytes) -> np.dtype:
    """Reads a datatype: IEEE floats and integers, least significant byte first."""
    found = _DTYPES.get(bytes(message).rstrip(b"\x00"))
    if found is None:
        raise DamagedFile("an array of elements that are neither floats nor integers")
    return found


def _datatypes() -> Iterator[tuple[bytes, np.dtype]]:
    """Yields the encoding of each datatype, without zeros at its end."""
    for size, exponent in ((2, 5), (4, 8), (8, 11)):
        bits, mantissa = 8 * size, 8 * size - exponent - 1
        head = struct.pack("<4BI2H", 0x11, 0x20, bits - 1, 0, size, 0, bits)
        body = struct.pack("<4BI", mantissa, exponent, 0, mantissa, 2 ** (exponent - 1) - 1)
        yield (head + body).rstrip(b"\x00"), np.dtype(f"<f{size}")
    for size in (1, 2, 4, 8):
        for sign, kind in ((0, "u"), (8, "i")):
            encoded = struct.pack("<4BI2H", 0x10, sign, 0, 0, size, 0, 8 * size)
            yield encoded.rstrip(b"\x00"), np.dtype(f"<{kind}{size}")


_DTYPES = dict(_datatypes())
