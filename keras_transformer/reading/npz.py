"""Reads the arrays in a file that `numpy.savez` wrote."""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from keras_transformer.reading.archive import Member, members_of, read_member
from keras_transformer.reading.files import DamagedFile, opened
from keras_transformer.reading.tensors import Header, Tensors

_HEAD_SIZE = 10  # "\x93NUMPY", version 1.0, and the size of the header that follows
_MOST_HEADER_BYTES = 1024
_MOST_DIMENSIONS = 8
_HEADER = re.compile(
    r"\{'descr': '(?P<dtype>[<|][fiubU]\d{1,3})', 'fortran_order': (?P<by_column>False|True),"
    r" 'shape': \((?P<shape>[\d, ]{0,200})\), \} *\n"
)


def read_npz(
    path: Path, check: Callable[[Mapping[str, Header]], None] | None = None
) -> dict[str, np.ndarray]:
    """Reads a file of arrays of numbers and texts; unpickles nothing.

    Args:
        path: The file.
        check: Called with the declared shapes and dtypes before any array is read; raises
            `DamagedFile` if they are not what is expected.

    Returns:
        The arrays by name, in the order of their names. They cannot be written to.

    Raises:
        DamagedFile: If the file is damaged, or not one that `numpy.savez` wrote.
    """
    with opened_npz(path) as (headers, read):
        if check is not None:
            check(headers)
        return {name: read(name) for name in headers}


@contextlib.contextmanager
def opened_npz(path: Path) -> Iterator[Tensors]:
    """Opens a file of arrays; reads only what it declares about them. See `read_npz`."""
    with opened(path) as file:
        members = {
            name.removesuffix(".npy"): (member, *_header_of(file, name, member))
            for name, member in sorted(members_of(file).items())
        }

        def read(name: str) -> np.ndarray:
            member, (shape, dtype), order, start = members[name]
            array = np.frombuffer(read_member(file, member), dtype, math.prod(shape), start)
            return array.reshape(shape, order=order)

        yield Tensors({name: header for name, (_, header, *_) in members.items()}, read)


def read_headers(path: Path) -> dict[str, Header]:
    """Reads only what a file declares about its arrays; see `read_npz`."""
    with opened(path) as file:
        members = members_of(file)
        return {
            name.removesuffix(".npy"): _header_of(file, name, member)[0]
            for name, member in members.items()
        }


def _header_of(file: BinaryIO, name: str, member: Member) -> tuple[Header, Literal["C", "F"], int]:
    """Reads an array's header; returns it, the order of elements, and the header's size."""
    if not name.endswith(".npy"):
        raise DamagedFile(f"the member {name}, which is not an array")
    file.seek(member.offset)
    head = file.read(min(member.size, _HEAD_SIZE + _MOST_HEADER_BYTES))
    size = _HEAD_SIZE + int.from_bytes(head[8:_HEAD_SIZE], "little")
    match = _HEADER.fullmatch(head[_HEAD_SIZE:size].decode("latin-1"))
    if not head.startswith(b"\x93NUMPY\x01\x00") or len(head) < size or not match:
        raise DamagedFile(f"the array {name} with a header that is not one of numbers or text")
    try:
        shape = tuple(int(size) for size in match["shape"].replace(",", " ").split())
        dtype = np.dtype(match["dtype"])
    except (TypeError, ValueError) as error:
        raise DamagedFile(f"the array {name} with a header that NumPy does not write") from error
    if len(shape) > _MOST_DIMENSIONS or 0 in shape:
        raise DamagedFile(f"the array {name} of {len(shape)} dimensions, or empty")
    if size + math.prod(shape) * dtype.itemsize != member.size or not dtype.itemsize:
        raise DamagedFile(f"the array {name} of shape {shape} in {member.size:,} bytes")
    return Header(shape, dtype), "F" if match["by_column"] == "True" else "C", size
