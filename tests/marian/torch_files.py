"""Writes files as `torch.save` does, without PyTorch, and pickles that attack their reader."""

import pickle
import struct
import zipfile

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    if not 0 <= value < 2**31:
        data = pickle.encode_long(value)
        return b"\x8a" + bytes([len(data)]) + data
    return b"J" + struct.pack("<i", value)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def storage(key, kind, num_elements, *more):
    identity = text("storage") + name("torch", kind) + text(key) + text("cpu")
    return b"(" + identity + number(num_elements) + b"".join(more) + b"tQ"


def tensor(stored, offset, shape, strides):
    """Returns the instructions that rebuild a tensor."""
    hooks = name("collections", "OrderedDict") + b")R"
    arguments = stored + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + hooks
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def state_dict(items):
    """Returns the pickle of a mapping of names to what the instructions make."""
    body = b"".join(text(key) + value for key, value in items.items())
    return b"\x80\x02" + name("collections", "OrderedDict") + b")R(" + body + b"u."


def strides_of(shape):
    return [int(np.prod(shape[place + 1 :])) for place in range(len(shape))]


def of_arrays(arrays, *more):
    """Returns the pickle of arrays, each with a storage of its own."""
    return state_dict(
        {
            key: tensor(
                storage(str(place), STORAGES[array.dtype.name], array.size, *more),
                0,
                array.shape,
                strides_of(array.shape),
            )
            for place, (key, array) in enumerate(arrays.items())
        }
    )


def archive(path, data_pickle, storages, root="archive", **members):
    """Writes the format since PyTorch 1.6."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{root}/data.pkl", data_pickle)
        for key, content in {"byteorder": b"little", "version": b"3\n", **members}.items():
            file.writestr(f"{root}/{key}", content)
        for place, content in enumerate(storages):
            file.writestr(f"{root}/data/{place}", content)


def legacy(path, data_pickle, arrays):
    """Writes the format before PyTorch 1.6."""
    about = {"protocol_version": VERSION, "little_endian": True, "type_sizes": {"int": 4}}
    keys = [str(place) for place in range(len(arrays))]
    with open(path, "wb") as file:
        for value in (MAGIC, VERSION, about):
            file.write(pickle.dumps(value, protocol=2))
        file.write(data_pickle)
        file.write(pickle.dumps(keys, protocol=2))
        for array in arrays:
            file.write(struct.pack("<q", array.size) + array.tobytes())


def write_torch_file(path, tensors, is_archive=True):
    arrays = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
    if is_archive:
        archive(path, of_arrays(arrays), [array.tobytes() for array in arrays.values()])
    else:
        legacy(path, of_arrays(arrays, b"N"), list(arrays.values()))
