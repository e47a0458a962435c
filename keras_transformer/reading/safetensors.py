"""Reads the tensors of a safetensors file, one at a time.

Source: the format as its README describes it: the size of a header as 8 bytes, the header as JSON,
then the bytes of all tensors, without gaps.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_transformer.reading.files import DamagedFile, opened
from keras_transformer.reading.tensors import Header, Tensors, from_bfloat16

_MOST_HEADER_BYTES = 2**25
_MOST_DIMENSIONS = 8
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


@contextlib.contextmanager
def opened_safetensors(path: Path) -> Iterator[Tensors]:
    """Opens a safetensors file; reads only its header.

    Raises:
        DamagedFile: If the file is damaged, or a tensor is not one of numbers inside the file.
    """
    with opened(path) as file:
        entries, start = _entries(file)
        headers = {
            name: Header(shape, _declared(kind)) for name, (kind, shape, *_) in entries.items()
        }

        def read(name: str) -> np.ndarray:
            kind, shape, begin, end = entries[name]
            file.seek(start + begin)
            data = file.read(end - begin)
            if len(data) != end - begin:
                raise DamagedFile("a file that has become shorter")
            array = np.frombuffer(data, _DTYPES[kind]).reshape(shape)
            if kind == "BF16":
                return from_bfloat16(array)
            return array.astype("float32") if kind == "F16" else array

        yield Tensors(headers, read)


def _declared(kind: str) -> np.dtype:
    return np.dtype("float32" if kind in ("F16", "BF16") else _DTYPES[kind])


def _entries(file: BinaryIO) -> tuple[dict[str, tuple[str, tuple[int, ...], int, int]], int]:
    """Returns kind, shape, start and end of each tensor, and where the tensors begin."""
    file_size = file.seek(0, 2)
    file.seek(0)
    size = int.from_bytes(file.read(8), "little")
    if file_size < 8 or size > min(file_size - 8, _MOST_HEADER_BYTES):
        raise DamagedFile(f"a header of {size:,} bytes in a file of {file_size:,}")
    try:
        header = json.loads(file.read(size), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise DamagedFile("a header that is not JSON") from error
    if not isinstance(header, dict):
        raise DamagedFile("a header that does not list tensors")
    header.pop("__metadata__", None)
    entries = {name: _entry(name, about) for name, about in header.items()}
    position = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != position:
            raise DamagedFile(f"bytes that belong to no tensor, or to two, at {name[:80]!r}")
        position = end
    if 8 + size + position != file_size:
        raise DamagedFile(f"{file_size:,} bytes where the header describes {8 + size + position:,}")
    return entries, 8 + size


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise DamagedFile("a header that gives a name twice")
    return values


def _entry(name: str, about: Any) -> tuple[str, tuple[int, ...], int, int]:
    shown = repr(name[:80])
    try:
        kind, shape, (begin, end) = about["dtype"], about["shape"], about["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, LookupError, ValueError) as error:
        raise DamagedFile(f"the tensor {shown} without dtype, shape and place") from error
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise DamagedFile(f"the tensor {shown} of dtype {str(kind)[:20]}, which is not supported")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in numbers):
        raise DamagedFile(f"the tensor {shown} of a size that is not a whole number")
    if len(shape) > _MOST_DIMENSIONS:
        raise DamagedFile(f"the tensor {shown} of {len(shape)} dimensions")
    if math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize != end - begin:
        raise DamagedFile(f"the tensor {shown} of shape {shape} in {end - begin:,} bytes"[:200])
    return kind, tuple(shape), begin, end
