"""The reader of safetensors: right values, and a refusal of everything that does not fit."""

import json
import struct

import numpy as np
import pytest

from keras_transformer.reading.files import DamagedFile
from keras_transformer.reading.safetensors import opened_safetensors
from tests.marian.folders import safetensors
from tests.mutated_bytes import KINDS, mutants

TENSORS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(2.5), "c": np.zeros((0, 4))}


def read(path):
    with opened_safetensors(path) as tensors:
        return {name: tensors.read(name) for name in tensors.headers}, dict(tensors.headers)


def written(path, header, content=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def one(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


def test_tensors_are_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(TENSORS))
    values, headers = read(path)
    assert list(values) == list(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(values[name], tensor)
        assert headers[name] == (tensor.shape, np.dtype("float32"))


@pytest.mark.parametrize(
    ("dtype", "numbers"),
    [("F64", "<f8"), ("I64", "<i8"), ("I32", "<i4"), ("I16", "<i2"), ("I8", "i1"), ("U8", "u1")],
)
def test_numbers_of_each_kind_are_read(tmp_path, dtype, numbers):
    array = np.array([0, 1, 100], numbers)
    header = one(dtype, (3,), (0, array.nbytes))
    values, _ = read(written(tmp_path / "x", header, array.tobytes()))
    assert values["a"].dtype == np.dtype(numbers)
    assert values["a"].tolist() == [0, 1, 100]


def test_half_precision_becomes_float32(tmp_path):
    header = one("F16", (2,), (0, 4))
    values, _ = read(written(tmp_path / "x", header, np.array([0.5, -2], "<f2").tobytes()))
    assert values["a"].dtype == np.float32
    assert values["a"].tolist() == [0.5, -2.0]
    # The first 16 bits of float32's 0.5 and -2.
    bits = np.array([0x3F00, 0xC000], "<u2").tobytes()
    values, _ = read(written(tmp_path / "x", one("BF16", (2,), (0, 4)), bits))
    assert values["a"].dtype == np.float32
    assert values["a"].tolist() == [0.5, -2.0]


@pytest.mark.parametrize(
    ("header", "content", "message"),
    [
        (one(), b"1234567", "15.*|bytes where the header describes"),
        (one(), b"123456789", "bytes where the header describes"),
        (one(shape=(3,)), b"12345678", "shape"),
        (one(shape=(2**62, 2**62), offsets=(0, 8)), b"12345678", "shape"),
        (one(shape=(-1, -2)), b"12345678", "not a whole number"),
        (one(shape=(2.0,)), b"12345678", "not a whole number"),
        (one(shape=(True, 2)), b"12345678", "not a whole number"),
        (one(offsets=(-8, 0)), b"12345678", "not a whole number"),
        (one(offsets=(2**62, 2**62 + 8)), b"12345678", "belong to no tensor"),
        (one(offsets=(4, 12)), b"123456789012", "belong to no tensor"),
        (one(shape=(1,) * 9, offsets=(0, 4)), b"1234", "9 dimensions"),
        (one(dtype="F8_E4M3"), b"12345678", "F8_E4M3, which is not supported"),
        (one(dtype=["F32"]), b"12345678", "not supported"),
        ({"a": {"dtype": "F32"}}, b"", "without dtype, shape and place"),
        ({"a": 1}, b"", "without dtype, shape and place"),
        ({**one(), "b": one()["a"]}, b"12345678", "or to two"),
        (b'{"a": 1, "a": 2}', b"", "a name twice"),
        (b"[" * 100_000, b"", "not JSON"),
        (b"[]", b"", "does not list tensors"),
        (b"\xff", b"", "not JSON"),
    ],
)
def test_a_header_that_does_not_fit_the_file_is_refused(tmp_path, header, content, message):
    with pytest.raises(DamagedFile, match=message):
        read(written(tmp_path / "x", header, content))


@pytest.mark.parametrize("data", [b"", b"1234567", struct.pack("<Q", 2**62), b"\xff" * 20])
def test_a_header_larger_than_the_file_is_refused(tmp_path, data):
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(DamagedFile, match="a header of"):
        read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_or_read_but_never_crashes(tmp_path, kind):
    content, path = safetensors(TENSORS), tmp_path / "x"
    for mutant in mutants(content, kind):
        path.write_bytes(mutant)
        try:
            values, _ = read(path)
        except DamagedFile as error:
            assert "\n" not in str(error)
        else:
            assert sum(value.nbytes for value in values.values()) <= 2 * len(mutant)
