"""The reader of HDF5 files reads what h5py writes as Keras does, and refuses all else by name."""

import io
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from keras_transformer.reading.files import DamagedFile
from keras_transformer.reading.hdf5 import read_hdf5

EARLIER = Path(__file__).parents[1] / "earlier_files"
NUMBERS = np.arange(6).reshape(2, 3)


def hdf5(fill, **options):
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as root:
        fill(root)
    return file.getvalue()


@pytest.mark.parametrize("dtype", "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8".split())
def test_numbers_are_read_as_h5py_wrote_them(dtype):
    def fill(root):
        root["layers/dense/vars/0"] = NUMBERS.astype(dtype)
        root["layers/dense/vars/1"] = NUMBERS.astype(dtype)[1, 1]
        root["layers/dense/vars"].attrs["name"] = "a name"

    arrays = read_hdf5(hdf5(fill))
    np.testing.assert_array_equal(arrays["layers/dense/vars/0"], NUMBERS)
    assert arrays["layers/dense/vars/1"] == 4
    assert {array.dtype for array in arrays.values()} == {np.dtype(dtype)}


def test_groups_of_many_members_are_read():
    def fill(root):
        for index in range(2000):
            root[f"vars/{index}"] = np.float32(index)

    arrays = read_hdf5(hdf5(fill))
    assert {path: float(array) for path, array in arrays.items()} == {
        f"vars/{index}": index for index in range(2000)
    }


@pytest.mark.parametrize("kind", ["finished_run", "baseline_run"])
def test_files_of_keras_are_read_as_h5py_reads_them(kind):
    content = zipfile.ZipFile(EARLIER / kind / "model.keras").read("model.weights.h5")
    expected = {}

    def keep(path, item):
        if isinstance(item, h5py.Dataset):
            expected[path] = item[()]

    with h5py.File(io.BytesIO(content)) as root:
        root.visititems(keep)
    arrays = read_hdf5(content)
    assert arrays.keys() == expected.keys()
    for path, array in arrays.items():
        assert array.dtype == expected[path].dtype
        np.testing.assert_array_equal(array, expected[path])


def virtual(root):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    root.create_virtual_dataset("vars", layout)


def twice(root):
    root["one"] = NUMBERS
    root["two"] = root["one"]


def cycle(root):
    root["a/b"] = NUMBERS
    root["a/again"] = root["a"]


def linked(link):
    def fill(root):
        root["vars"] = link

    return fill


def dataset(**options):
    return lambda root: root.create_dataset("vars", **options)


NOT_OF_KERAS = {
    "a dataset whose data is in another file": dataset(
        shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)]
    ),
    "a dataset whose layout is virtual": virtual,
    "a link to another name": linked(h5py.SoftLink("/elsewhere")),
    "which Keras does not write": linked(h5py.ExternalLink("other.h5", "/x")),
    "structures in one place|structures that are larger than the file": twice,
    "a filter, such as compression": dataset(data=NUMBERS, compression="gzip"),
    "a dataset whose layout is chunked": dataset(data=NUMBERS, chunks=(1, 1)),
    "ends outside the file": dataset(shape=(4,), dtype="f4"),  # never written
    "neither floats nor integers": dataset(data=["text"]),
    "not letters, digits and underscores": lambda root: root.update({"a b": NUMBERS}),
    "more than 32 levels of groups": lambda root: root.update({"a/" * 40 + "b": NUMBERS}),
}


@pytest.mark.parametrize("words", NOT_OF_KERAS)
def test_what_keras_does_not_write_is_refused_by_name(words):
    with pytest.raises(DamagedFile, match=words):
        read_hdf5(hdf5(NOT_OF_KERAS[words]))


def test_a_group_within_itself_is_refused():
    with pytest.raises(DamagedFile, match="levels of groups|larger than the file"):
        read_hdf5(hdf5(cycle))


def test_newer_formats_are_refused():
    with pytest.raises(DamagedFile, match="does not begin as"):
        read_hdf5(hdf5(dataset(data=NUMBERS), libver="latest"))


def test_a_shape_larger_than_the_file_takes_no_memory():
    content = hdf5(dataset(data=NUMBERS.astype("f4")))
    declared = struct.pack("<2Q", 2, 3)
    assert content.count(declared) == 2  # the dimensions, and the largest that are allowed
    for shape in ((2**62, 1), (2, 2**62), (2**30, 2**30)):
        with pytest.raises(DamagedFile, match="shape"):
            read_hdf5(content.replace(declared, struct.pack("<2Q", *shape)))
    with pytest.raises(DamagedFile, match="outside the file"):
        huge = struct.pack("<2Q", 2**30, 3)
        layout, size = content.index(b"\x03\x01", content.index(declared)), 12 * 2**30
        shaped = content.replace(declared, huge)
        read_hdf5(shaped[: layout + 10] + struct.pack("<Q", size) + shaped[layout + 18 :])


def test_any_cut_and_any_altered_byte_is_refused_or_read():
    content = hdf5(lambda root: root.update({"layers/a/0": NUMBERS.astype("f4")}))
    for length in range(len(content)):
        with pytest.raises(DamagedFile):
            read_hdf5(content[:length])
    for position in range(len(content)):
        altered = bytearray(content)
        altered[position] ^= 0xFF
        try:
            arrays = read_hdf5(bytes(altered))
        except DamagedFile:
            continue
        assert sum(array.nbytes for array in arrays.values()) <= len(content)
