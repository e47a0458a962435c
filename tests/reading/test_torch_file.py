"""The reader of PyTorch's files: right values; hostile pickles run nothing."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from keras_transformer.reading.files import DamagedFile
from keras_transformer.reading.torch_file import opened_torch_file
from tests.marian.torch_files import (
    archive,
    legacy,
    name,
    number,
    numbers,
    of_arrays,
    state_dict,
    storage,
    tensor,
    text,
    write_torch_file,
)
from tests.mutated_bytes import KINDS, mutants

ARRAYS = {
    "a": np.arange(6, dtype="float32").reshape(2, 3),
    "b": np.array([0.5, -2, 3], "float16"),
    "c": np.array([2**40, -1]),
}


def read(path):
    with opened_torch_file(path) as tensors:
        return {key: tensors.read(key) for key in tensors.headers}


@pytest.mark.parametrize("is_archive", [True, False])
def test_both_formats_are_read(tmp_path, is_archive):
    path = tmp_path / "pytorch_model.bin"
    write_torch_file(path, ARRAYS, is_archive=is_archive)
    with opened_torch_file(path) as tensors:
        headers = dict(tensors.headers)
    assert {key: header.shape for key, header in headers.items()} == {
        key: array.shape for key, array in ARRAYS.items()
    }
    assert [header.dtype.name for header in headers.values()] == ["float32", "float32", "int64"]
    for key, values in read(path).items():
        np.testing.assert_array_equal(values, ARRAYS[key])


def stored(num_elements=6, kind="FloatStorage", key="0"):
    return storage(key, kind, num_elements)


SIX_NUMBERS = np.arange(6, dtype="<f4").tobytes()


def written(tmp_path, data_pickle, storages=(SIX_NUMBERS,), **members):
    path = tmp_path / "pytorch_model.bin"
    archive(path, data_pickle, storages, **members)
    return path


def test_views_of_one_storage_are_read(tmp_path):
    """A transposed matrix, and a part that begins at the second number."""
    path = written(
        tmp_path,
        state_dict(
            {"t": tensor(stored(), 0, (3, 2), (1, 3)), "part": tensor(stored(), 1, (2,), (2,))}
        ),
    )
    found = read(path)
    assert found["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found["part"].tolist() == [1, 3]


def test_bfloat16_becomes_float32(tmp_path):
    bits = np.array([0x3F00, 0xC000], "<u2").tobytes()
    data_pickle = state_dict({"a": tensor(stored(2, "BFloat16Storage"), 0, (2,), (1,))})
    assert read(written(tmp_path, data_pickle, [bits]))["a"].tolist() == [0.5, -2.0]


def test_parameters_and_versions_are_read(tmp_path):
    """As `torch.save(model.state_dict())` writes them, with the attribute _metadata."""
    hooks = name("collections", "OrderedDict") + b")R"
    parameter = (
        name("torch._utils", "_rebuild_parameter")
        + b"("
        + tensor(stored(), 0, (6,), (1,))
        + b"\x89"
        + hooks
        + b"tR"
    )
    with_versions = state_dict({"a": parameter})[:-1] + b"}" + text("_metadata") + b"}sb."
    assert read(written(tmp_path, with_versions))["a"].tolist() == [0, 1, 2, 3, 4, 5]


def touching(marker):
    """Returns the instructions that would call os.system to create a file."""
    return text(f"touch {marker}")


ATTACKS = {
    "reduce": lambda c: name("os", "system") + c + b"\x85R",
    "nested reduce": lambda c: b"(" + name("posix", "system") + c + b"\x85Rt",
    "stack global": lambda c: text("os") + text("system") + b"\x93" + c + b"\x85R",
    "instance": lambda c: b"(" + c + b"ios\nsystem\n",
    "object": lambda c: b"(" + name("os", "system") + c + b"o",
    "new object": lambda c: name("os", "system") + c + b"\x85\x81",
    "extension": lambda c: b"\x82\x01" + c + b"\x85R",
    "eval": lambda c: name("builtins", "eval") + c + b"\x85R",
    "attribute": lambda c: name("builtins", "getattr") + c + b"\x85R",
    "torch's own loader": lambda c: name("torch", "load") + c + b"\x85R",
    "a storage that is a name": lambda c: name("torch", "FloatStorage") + c + b"\x85R",
    "state of a tensor": lambda c: tensor(stored(), 0, (6,), (1,)) + c + b"b",
    "state of a name": lambda c: name("torch", "FloatStorage") + c + b"b",
    "a reference of another kind": lambda c: b"(" + c + c + b"tQ",
    "a text as reference": lambda c: c + b"Q",
    "a named reference": lambda c: b"Pos.system\n",
    "buffers": lambda c: b"\x97",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_pickle_that_is_not_of_tensors_is_refused_and_runs_nothing(tmp_path, attack):
    marker = tmp_path / "marker"
    path = written(tmp_path, state_dict({"a": ATTACKS[attack](touching(marker))}))
    with pytest.raises(DamagedFile) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_the_name_that_a_pickle_would_call_is_in_the_message(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'marker'}",)

    for protocol in (2, 4):
        path = written(tmp_path, pickle.dumps({"a": Attack()}, protocol))
        with pytest.raises(DamagedFile, match=r"names '(posix|nt)\.system'"):
            read(path)
    assert not (tmp_path / "marker").exists()


BAD = {
    "more numbers than the storage": tensor(stored(), 0, (7,), (1,)),
    "a view outside the storage": tensor(stored(), 1, (6,), (1,)),
    "strides outside the storage": tensor(stored(), 0, (2,), (6,)),
    "many copies of one number": tensor(stored(), 0, (2**40,), (0,)),
    "a huge offset": tensor(stored(), 2**61, (1,), (1,)),
    "a huge shape": tensor(stored(), 0, (2**61, 2**61), (1, 1)),
    "a huge storage": tensor(stored(2**61), 0, (6,), (1,)),
    "a storage beyond any": tensor(stored(2**62), 0, (6,), (1,)),
    "a negative size": tensor(stored(), 0, (-1,), (1,)),
    "a negative offset": tensor(stored(), -1, (1,), (1,)),
    "strides of other dimensions": tensor(stored(), 0, (6,), (1, 1)),
    "too many dimensions": tensor(stored(), 0, (1,) * 9, (1,) * 9),
    "no such storage": tensor(stored(key="../0"), 0, (6,), (1,)),
    "an unknown storage": tensor(stored(kind="ComplexFloatStorage"), 0, (6,), (1,)),
    "no tensor": number(7),
    "a list in itself": b"]q\x07h\x07a",
    "a mapping": b"}",
    "a shape that is not a tuple": (
        name("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + stored()
        + number(0)
        + number(6)
        + numbers((1,))
        + b"tR"
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(tmp_path, what):
    with pytest.raises(DamagedFile):
        read(written(tmp_path, state_dict({"a": BAD[what]})))


@pytest.mark.parametrize(
    ("data_pickle", "message"),
    [
        (b"\x80\x02K\x01.", "not a mapping of names"),
        (b"\x80\x02}K\x01K\x02s.", "'1', which is not a named tensor"),
        (b"\x80\x02}", "damaged"),
        (b"", "damaged"),
        (b"\x80\x02u.", "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02}(]K\x01u.", "a key that is not text"),
        (b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".", "not a mapping"),
        (b"I" + b"9" * 100_000 + b"\n.", "damaged"),
    ],
)
def test_a_pickle_that_is_not_a_state_dict_is_refused(tmp_path, data_pickle, message):
    with pytest.raises(DamagedFile, match=message):
        read(written(tmp_path, data_pickle))


def test_other_archives_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    arrays = of_arrays({"a": ARRAYS["a"]})
    data = [ARRAYS["a"].tobytes()]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other", b"")
    with pytest.raises(DamagedFile, match=r"one data\.pkl"):
        read(path)
    archive(path, arrays, data, byteorder=b"big")
    with pytest.raises(DamagedFile, match="byte order"):
        read(path)
    archive(path, arrays, [data[0][:-1]])
    with pytest.raises(DamagedFile, match="a storage of 23 bytes for 6 numbers"):
        read(path)
    archive(path, arrays, [])
    with pytest.raises(DamagedFile, match="no storage '0'"):
        read(path)


def test_other_legacy_files_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(1, 2) * 5)
    with pytest.raises(DamagedFile, match="does not begin as one of PyTorch"):
        read(path)
    legacy(path, of_arrays({"a": ARRAYS["a"]}, b"N"), [])
    with pytest.raises(DamagedFile, match="does not fit the tensors"):
        read(path)
    legacy(path, of_arrays({"a": ARRAYS["a"]}, b"N"), [ARRAYS["a"][0]])
    with pytest.raises(DamagedFile, match="outside the file"):
        read(path)


@pytest.mark.parametrize("is_archive", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_or_read_but_never_crashes(tmp_path, is_archive, kind):
    path = tmp_path / "pytorch_model.bin"
    write_torch_file(path, ARRAYS, is_archive=is_archive)
    for mutant in mutants(path.read_bytes(), kind):
        path.write_bytes(mutant)
        try:
            values = read(path)
        except DamagedFile as error:
            assert "\n" not in str(error)
        else:
            assert sum(value.nbytes for value in values.values()) <= 2 * len(mutant)
