"""The folders of the reference models, and their files with one thing changed."""

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np

MODELS = Path(__file__).parent / "models"
MARIAN, HUGGING_FACE = MODELS / "post", MODELS / "hf"


def tensors_in(path):
    """Reads a safetensors file of float32 as its README describes it."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, about in header.items():
        begin, end = (8 + size + offset for offset in about["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], "<f4").reshape(about["shape"])
    return tensors


def safetensors(tensors, **changes_of_header):
    """Returns the bytes of a safetensors file of float32; `changes_of_header` are by name."""
    header, position, content = {}, 0, b""
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor, "<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(np.shape(tensor)),
            "data_offsets": [position, position + len(data)],
        }
        position += len(data)
        content += data
    for name, changes in changes_of_header.items():
        header[name] |= changes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def arrays_in(path):
    with np.load(path) as arrays:
        return dict(arrays)


def write_npz(path, arrays):
    np.savez(path, **arrays)


def settings_in(arrays):
    """Returns the settings that are stored in a Marian model."""
    return arrays["special:model.yml"].tobytes().rstrip(b"\0").decode()


def with_settings(arrays, text):
    data = np.frombuffer(text.encode() + b"\0\0\0", np.int8)
    return {**arrays, "special:model.yml": data}


def npz_with(name, data):
    """Returns an archive with one member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, data)
    return file.getvalue()
