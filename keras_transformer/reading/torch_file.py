"""Reads the tensors of a file that PyTorch saved, without PyTorch and without running a pickle.

Such a file is a pickle that names each tensor's storage, and the bytes of the storages. A pickle is
a program, which may call anything. This reader follows it with a machine of its own, which knows
texts, numbers, containers and the few names that tensors need, imports nothing, and calls nothing.
Anything else is refused by name.

Two formats exist: a zip archive (since PyTorch 1.6), and before that several pickles, one after
another, followed by the storages.
"""

import contextlib
import io
import math
import pickletools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from keras_transformer.reading.archive import members_of, read_member
from keras_transformer.reading.files import DamagedFile, opened
from keras_transformer.reading.tensors import Header, Tensors, from_bfloat16

_MOST_PICKLE_BYTES = 2**25
_MOST_DIMENSIONS = 8
_MOST_NUMBER = 2**62
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

# The dtype of each storage's elements. Those of bfloat16 are read as whole numbers.
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_ORDERED_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_KNOWN_NAMES = {_ORDERED_DICT, _TENSOR, _PARAMETER, *(f"torch.{name}" for name in _STORAGES)}


class _Name(NamedTuple):
    """A name that the pickle would import."""

    name: str


class _Storage(NamedTuple):
    kind: str
    key: str
    num_elements: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MARK = _Name("a mark")


@contextlib.contextmanager
def opened_torch_file(path: Path) -> Iterator[Tensors]:
    """Opens a state dict that `torch.save` wrote; reads only its pickle.

    Raises:
        DamagedFile: If the file is damaged, is not a mapping of names to tensors, or names anything
            but tensors.
    """
    with opened(path) as file:
        is_archive = file.read(4) == b"PK\x03\x04"
        state, storage_bytes = _archive(file) if is_archive else _legacy(file)
        tensors = _tensors_of(state)

        def read(name: str) -> np.ndarray:
            return _read(tensors[name], storage_bytes)

        headers = {
            name: Header(tensor.shape, _declared(tensor)) for name, tensor in tensors.items()
        }
        yield Tensors(headers, read)


def _tensors_of(state: Any) -> dict[str, _Tensor]:
    if not isinstance(state, dict):
        raise DamagedFile("a pickle that is not a mapping of names to tensors")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise DamagedFile(f"{str(name)[:80]!r}, which is not a named tensor")
    return state


def _declared(tensor: _Tensor) -> np.dtype:
    halves = "HalfStorage", "BFloat16Storage"
    kind = tensor.storage.kind
    return np.dtype("float32" if kind in halves else _STORAGES[kind])


def _read(tensor: _Tensor, storage_bytes: Callable[[_Storage], bytes]) -> np.ndarray:
    storage, dtype = tensor.storage, np.dtype(_STORAGES[tensor.storage.kind])
    data = storage_bytes(storage)
    if len(data) != storage.num_elements * dtype.itemsize:
        raise DamagedFile(f"a storage of {len(data):,} bytes for {storage.num_elements:,} numbers")
    elements = np.frombuffer(data, dtype)[tensor.offset :]
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    array = np.lib.stride_tricks.as_strided(elements, tensor.shape, strides, writeable=False).copy()
    if storage.kind == "BFloat16Storage":
        return from_bfloat16(array)
    return array.astype("float32") if storage.kind == "HalfStorage" else array


def _archive(file: BinaryIO) -> tuple[Any, Callable[[_Storage], bytes]]:
    members = members_of(file, of_other_programs=True)
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise DamagedFile("an archive that does not have one data.pkl")
    [root] = roots
    if f"{root}/byteorder" in members:
        order = read_member(file, members[f"{root}/byteorder"])
        if order != b"little":
            raise DamagedFile("numbers of another byte order than this reader knows")
    pickle = members[f"{root}/data.pkl"]
    if pickle.size > _MOST_PICKLE_BYTES:
        raise DamagedFile(f"a pickle of {pickle.size:,} bytes")

    def storage_bytes(storage: _Storage) -> bytes:
        member = members.get(f"{root}/data/{storage.key}")
        if member is None:
            raise DamagedFile(f"no storage {storage.key[:80]!r}")
        return read_member(file, member)

    return _value_of(io.BytesIO(read_member(file, pickle))), storage_bytes


def _legacy(file: BinaryIO) -> tuple[Any, Callable[[_Storage], bytes]]:
    file.seek(0)
    head = io.BytesIO(file.read(_MOST_PICKLE_BYTES))
    if (_value_of(head), _value_of(head)) != (_LEGACY_MAGIC, _LEGACY_VERSION):
        raise DamagedFile("a file that does not begin as one of PyTorch")
    about = _value_of(head)
    if not isinstance(about, dict) or about.get("little_endian") is not True:
        raise DamagedFile("numbers of another byte order than this reader knows")
    state, keys = _value_of(head), _value_of(head)
    tensors = _tensors_of(state)
    places = _places(file, head.tell(), keys, tensors)

    def storage_bytes(storage: _Storage) -> bytes:
        offset, size = places[storage.key]
        file.seek(offset)
        return file.read(size)

    return state, storage_bytes


def _places(
    file: BinaryIO, position: int, keys: Any, tensors: Mapping[str, _Tensor]
) -> dict[str, tuple[int, int]]:
    """Returns where each storage of a legacy file begins, and its bytes."""
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if not isinstance(keys, list) or {*map(str, keys)} != {*storages} or len(keys) > len(storages):
        raise DamagedFile("a list of storages that does not fit the tensors")
    end, places = file.seek(0, 2), {}
    for key in map(str, keys):
        storage = storages[key]
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        size = count * np.dtype(_STORAGES[storage.kind]).itemsize
        if count != storage.num_elements or position + 8 + size > end:
            raise DamagedFile(f"a storage of {count:,} numbers, outside the file")
        places[key] = position + 8, size
        position += 8 + size
    return places


def _value_of(file: io.BytesIO) -> Any:
    """Follows one pickle to its end, and returns what it describes."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                break
            machine.follow(opcode.name, argument)
        [value] = machine.stack
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise DamagedFile("a pickle that is damaged") from error
    return value


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def follow(self, opcode: str, argument: Any) -> None:
        if opcode in ("PROTO", "FRAME"):
            return
        if opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode == "MARK":
            self.stack.append(_MARK)
        elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        else:
            raise DamagedFile(f"a pickle with the instruction {opcode}, which tensors do not need")

    def since_mark(self) -> list[Any]:
        """Takes everything above the last mark from the stack."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise DamagedFile("a pickle that is damaged")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def tuple_of(self, size: int) -> None:
        if len(self.stack) < size:
            raise DamagedFile("a pickle that is damaged")
        items = tuple(self.stack[len(self.stack) - size :])
        self.stack[len(self.stack) - size :] = [items]

    def set_items(self, items: list[Any]) -> None:
        container = self.stack[-1]
        keys = items[::2]
        if not isinstance(container, dict) or len(items) % 2:
            raise DamagedFile("a pickle that is damaged")
        if not all(isinstance(key, str | int) for key in keys):
            raise DamagedFile("a mapping with a key that is not text")
        container.update(zip(keys, items[1::2], strict=True))

    def append_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise DamagedFile("a pickle that is damaged")
        self.stack[-1].extend(items)

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_known(f"{module}.{name}"))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise DamagedFile("a pickle that calls something other than a name")
        self.stack.append(_called(function.name, arguments))

    def build(self) -> None:
        """Ignores the attributes of a mapping, with which PyTorch stores versions."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise DamagedFile("a pickle that sets the attributes of something other than a mapping")


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append_items(machine.since_mark()),
    "APPEND": lambda machine, _: machine.append_items([machine.stack.pop()]),
    "GLOBAL": lambda machine, name: machine.stack.append(_known(name.replace(" ", ".", 1))),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    "BINPERSID": lambda machine, _: machine.stack.append(_storage(machine.stack.pop())),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}


def _known(name: str) -> _Name:
    if name not in _KNOWN_NAMES:
        raise DamagedFile(f"a pickle that names {name[:100]!r}, which is not part of a tensor")
    return _Name(name)


def _storage(identity: Any) -> _Storage:
    """Makes a storage from ("storage", its type, its key, its device, its number of elements)."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise DamagedFile("a pickle that refers to something other than a storage")
    _, kind, key, _, num_elements, *views = identity
    name = kind.name.removeprefix("torch.") if isinstance(kind, _Name) else ""
    is_number = type(num_elements) is int and 0 <= num_elements < _MOST_NUMBER
    if name not in _STORAGES or not isinstance(key, str) or not is_number or any(views):
        raise DamagedFile("a storage of another kind than numbers")
    return _Storage(name, key, num_elements)


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    """Returns what the call of a known name would return."""
    if name == _ORDERED_DICT and not arguments:
        return {}
    if name == _PARAMETER and arguments and isinstance(arguments[0], _Tensor):
        return arguments[0]
    if name == _TENSOR and len(arguments) >= 4:
        return _checked(*arguments[:4])
    raise DamagedFile(f"a pickle that calls {name} with other arguments than PyTorch does")


def _checked(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    """Makes a tensor whose elements all lie inside its storage."""
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple):
        raise DamagedFile("a tensor without storage or shape")
    if not isinstance(strides, tuple) or len(strides) != len(shape):
        raise DamagedFile("a tensor with other strides than dimensions")
    numbers = [offset, *shape, *strides]
    if not all(type(number) is int and 0 <= number < _MOST_NUMBER for number in numbers):
        raise DamagedFile("a tensor of a size that is not a whole number")
    if len(shape) > _MOST_DIMENSIONS:
        raise DamagedFile(f"a tensor of {len(shape)} dimensions")
    size = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if size > storage.num_elements or (size and last >= storage.num_elements):
        raise DamagedFile(f"a tensor of shape {shape} in {storage.num_elements:,} numbers"[:200])
    return _Tensor(storage, offset, shape, strides)
