"""The readers of archives and of .npz files refuse what zipfile and NumPy do not write."""

import io
import struct
import zipfile

import numpy as np
import pytest

from keras_transformer.reading.archive import members_of, read_member
from keras_transformer.reading.files import DamagedFile
from keras_transformer.reading.npz import read_headers, read_npz

ARRAYS = {
    "weights.00000": np.arange(6, dtype="f4").reshape(2, 3),
    "weights.00001": np.arange(6, dtype="i8").reshape(2, 3).T,
    "seconds": np.float64(2.5),
    "backend": np.array("tensorflow"),
}


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def zipped(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    path = npz(tmp_path / "a.npz", **ARRAYS)
    read, headers = read_npz(path), read_headers(path)
    assert list(read) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == np.asarray(array).dtype
        assert headers[name] == (np.shape(array), np.asarray(array).dtype)


def test_shapes_are_checked_before_an_array_is_read(tmp_path, monkeypatch):
    path = npz(tmp_path / "a.npz", **ARRAYS)
    monkeypatch.setattr("keras_transformer.reading.npz.read_member", None)

    def refuse(headers):
        raise DamagedFile(f"{len(headers)} arrays")

    with pytest.raises(DamagedFile, match="4 arrays"):
        read_npz(path, refuse)


def npy(shape="(2,)", dtype="<f4", data=b"", version=1):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + data


NOT_OF_NUMPY = {
    "which is not an array": ("a.txt", b""),
    "not one of numbers or text": ("a.npy", npy(dtype="|O", data=bytes(16))),
    "with a header that NumPy": ("a.npy", npy(dtype="<f3", data=bytes(6))),
    r"of shape \(4611686018427387904,\)": ("a.npy", npy(f"({2**62},)", data=bytes(8))),
    "or empty": ("a.npy", npy("(0, 99999999)")),
    "header that is not": ("a.npy", npy("(" * 500 + ")" * 500, data=bytes(8))),
}


@pytest.mark.parametrize("words", NOT_OF_NUMPY)
def test_members_that_are_not_arrays_of_numbers_are_refused(words, tmp_path):
    with pytest.raises(DamagedFile, match=words):
        read_npz(zipped(tmp_path / "a.npz", [NOT_OF_NUMPY[words]]))


def test_a_pickle_is_refused(tmp_path):
    path = npz(tmp_path / "a.npz", array=np.array([print], dtype=object))
    with pytest.raises(DamagedFile, match="not one of numbers or text"):
        read_npz(path)


@pytest.mark.parametrize("name", ["../a.npy", "/a.npy", "a/b.npy", "a\\b.npy", "a b.npy", "x"])
def test_a_member_with_a_foreign_name_is_refused(name, tmp_path):
    with pytest.raises(DamagedFile, match="a member named"):
        read_npz(zipped(tmp_path / "a.npz", [(name, npy())]))


def test_members_of_one_name_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zipped(tmp_path / "a.npz", [("a.npy", npy(data=bytes(8)))] * 2)
    with pytest.raises(DamagedFile, match="two members of the name 'a.npy'"):
        read_npz(path)


def test_compressed_members_are_refused(tmp_path):
    path = zipped(tmp_path / "a.npz", [("a.npy", bytes(10**6))], zipfile.ZIP_DEFLATED)
    with pytest.raises(DamagedFile, match="which is compressed or encrypted"):
        read_npz(path)


def test_bytes_beside_the_members_are_refused(tmp_path):
    path = npz(tmp_path / "a.npz", **ARRAYS)
    content = path.read_bytes()
    for other in (b"#!/bin/sh\n" + content, content + b"more"):
        path.write_bytes(other)
        with pytest.raises(DamagedFile):
            read_npz(path)


def test_an_altered_byte_of_an_array_is_found(tmp_path):
    path = npz(tmp_path / "a.npz", **ARRAYS)
    value = np.float32(5).tobytes()
    path.write_bytes(path.read_bytes().replace(value, np.float32(6).tobytes()))
    with pytest.raises(DamagedFile, match="does not match its checksum"):
        read_npz(path)


def test_archives_beyond_2_gib_are_read():
    """With a member's place and size in the extra field, as in large checkpoints."""
    limit, zipfile.ZIP64_LIMIT = zipfile.ZIP64_LIMIT, 10
    try:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name in ("first.npy", "second.npy"):
                with archive.open(name, "w", force_zip64=True) as member:
                    member.write(name.encode() * 9)
    finally:
        zipfile.ZIP64_LIMIT = limit
    members = members_of(file)
    assert [*members] == ["first.npy", "second.npy"]
    assert read_member(file, members["second.npy"]) == b"second.npy" * 9


def test_links_out_of_the_folder_and_pipes_are_refused(tmp_path):
    import os

    (tmp_path / "run").mkdir()
    npz(tmp_path / "a.npz", **ARRAYS)
    link = tmp_path / "run" / "a.npz"
    link.symlink_to(tmp_path / "a.npz")
    with pytest.raises(DamagedFile, match="a link that leaves its folder"):
        read_npz(link)
    os.mkfifo(tmp_path / "run" / "pipe")
    with pytest.raises(DamagedFile, match="a pipe"):
        read_npz(tmp_path / "run" / "pipe")
