import bz2
import gzip
import io
import lzma
import os
import re
import socket
import sys

import pytest

from keras_transformer.errors import InputError
from keras_transformer.text.lines import (
    iterate_columns,
    iterate_lines,
    iterate_pairs,
    iterate_stream,
    read_lines,
    read_pairs,
)
from tests.data.made_text import random_lines

PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def packed(data, suffix):
    """Returns text as the bytes of a file with this suffix, in lower or upper case."""
    return PACKERS.get(suffix.split(".")[-1].lower(), bytes)(data)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\n\n\r\ntwo\n\n", ["one", "", "", "two", ""]),
        (b"a\rb\r\r\nc\r", ["a\rb\r", "c\r"]),
        (
            "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\n".encode(),
            ["a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"],
        ),
        ("  é \t\n한국어\n".encode(), ["  é \t", "한국어"]),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".bz2", ".txt.xz", ".GZ", ".Xz"])
def test_only_newlines_end_lines(tmp_path, data, lines, mark, suffix):
    path = tmp_path / f"text{suffix}"
    path.write_bytes(packed(mark + data, suffix))
    assert read_lines(path) == lines
    assert read_lines(str(path)) == lines


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"good\nb\xe4d\n",
            r":2: a line must be valid UTF-8\. Received: byte 0xe4 at byte 2 of .* Con",
        ),
        (b"cut \xe2\x82", r":1: a line must be valid UTF-8\. Received: byte 0xe2 at byte 5 of the"),
        (
            b"\xed\xa0\x80\n",
            r":1: a line must be valid UTF-8\. Received: byte 0xed at byte 1 of the",
        ),
        (b"1\n2\n\0\n", r":3: a line must be text in UTF-8\. Received: a NUL byte\. Convert"),
        (
            "a\nb\n".encode("utf-16-le"),
            r":1: a line must be text in UTF-8\. Received: a NUL byte\. Con",
        ),
        (b"", r": must hold at least one line of text\. Received: an empty file\. Check the path"),
        (
            b"\xef\xbb\xbf",
            r": must hold .* line of text\. Received: an empty file\. Check the path",
        ),
        (
            b"\n \n\t\r\n",
            r": must hold at least one line of text\. Received: 3 blank lines\. Check",
        ),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("suffix", [".de", ".de.gz", ".de.xz"])
def test_unusable_text_is_refused_with_file_and_line(tmp_path, data, message, suffix):
    path = tmp_path / f"train{suffix}"
    path.write_bytes(packed(data, suffix))
    with pytest.raises(InputError, match=rf"{re.escape(path.name)}{message}") as error:
        read_lines(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_skipped_only_at_the_start_of_a_file(tmp_path):
    (tmp_path / "a.en").write_text("\ufeff\ufeffone\n\ufefftwo \ufeff\n", encoding="utf-8")
    assert read_lines(tmp_path / "a.en") == ["\ufeffone", "\ufefftwo \ufeff"]


def test_each_side_of_a_pair_may_have_its_byte_order_mark(tmp_path):
    (tmp_path / "a.en").write_bytes(b"\xef\xbb\xbf1\n2\n")
    (tmp_path / "a.de").write_bytes(b"\xef\xbb\xbfx\ny\n")
    assert read_pairs(tmp_path / "a.en", tmp_path / "a.de") == (["1", "2"], ["x", "y"])


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"\xef\xbb\xbfa\r\nb", [b"a", b"b"]),
        (b"\xef\xbb\xbf\n", [b""]),
        (b"\xef\xbb\xbf", []),
        (b"", []),
        (b"\n\xef\xbb\xbf", [b"", b"\xef\xbb\xbf"]),
        (b"\xef\xbb", [b"\xef\xbb"]),
    ],
)
def test_a_stream_may_begin_with_a_byte_order_mark(data, lines):
    assert list(iterate_stream(io.BytesIO(data))) == lines


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"absent: must be .* Received: No such file .*\. Check the"
    ):
        read_lines(tmp_path / "absent")
    with pytest.raises(InputError, match=r"must be a file .* Received: Is a directory\. Check the"):
        read_lines(tmp_path)


def test_a_broken_link_is_refused_and_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "link").symlink_to("there")
    with pytest.raises(InputError, match=r"link: must be .* Received: No such file .*\. Check the"):
        read_lines(tmp_path / "link")
    (tmp_path / "there").write_text("text\n")
    assert read_lines(tmp_path / "link") == ["text"]


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    reading, writing = os.pipe()
    os.write(writing, b"text\n")
    try:
        for path in (tmp_path / "fifo", f"/dev/fd/{reading}"):
            with pytest.raises(
                InputError, match=rf"^{path}: must be a regular .* Received: a pipe\. Write"
            ):
                read_lines(path)
        assert os.read(reading, 9) == b"text\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_devices_and_sockets_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"^/dev/null: must be a regular .* Received: a device\."):
        read_lines("/dev/null")
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(InputError, match=r"^s: must be a regular .* Received: a socket\."):
            read_lines("s")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(tmp_path):
    path = tmp_path / "secret.en"
    path.write_text("text")
    path.chmod(0)
    with pytest.raises(InputError, match=r"secret\.en: .* Received: Permission denied\. Check the"):
        read_lines(path)


def test_a_disk_error_is_reported_with_its_reason(tmp_path, monkeypatch):
    def permission_denied(path, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("keras_transformer.text.lines.open", permission_denied, raising=False)
    with pytest.raises(InputError, match=r"secret\.en: .* Received: Permission denied\. Check the"):
        read_lines(tmp_path / "secret.en")


# Compressed files


@pytest.mark.parametrize(
    ("suffix", "name"), [("gz", "gzip"), ("GZ", "gzip"), ("bz2", "bzip2"), ("xz", "xz")]
)
def test_a_compressed_file_cut_short_or_damaged_is_refused(tmp_path, suffix, name):
    path = tmp_path / f"train.en.{suffix}"
    whole = packed("\n".join(random_lines(97)).encode(), suffix)
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    second_damaged = whole + damaged
    contents = (whole[:7], whole[:middle], whole[:-1], damaged, second_damaged, whole + b"rest")
    for data in contents:
        path.write_bytes(data)
        with pytest.raises(
            InputError,
            match=rf"^{re.escape(str(path))}: must be a whole {name} .* Received: .* Copy",
        ):
            read_lines(path)


@pytest.mark.parametrize("suffix", PACKERS)
def test_concatenated_compressed_streams_are_one_file(tmp_path, suffix):
    path = tmp_path / f"train.{suffix}"
    path.write_bytes(packed(b"one\ntw", suffix) + packed(b"o\nthree\n", suffix))
    assert read_lines(path) == ["one", "two", "three"]


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_compressed_empty_file_is_empty(tmp_path, suffix):
    for data in (b"", packed(b"", suffix)):
        (tmp_path / f"a.{suffix}").write_bytes(data)
        with pytest.raises(InputError, match="Received: an empty file"):
            read_lines(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", PACKERS)
def test_millions_of_bytes_are_unpacked_completely(tmp_path, suffix):
    lines = random_lines(20_011)
    (tmp_path / f"a.{suffix}").write_bytes(packed("\n".join(lines).encode(), suffix))
    assert read_lines(tmp_path / f"a.{suffix}") == lines


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"plain text\n", "a file that does not begin like one"),
        (bz2.compress(b"text\n"), "a file in bzip2 format"),
        (b"PK\x03\x04 and so on", "a file in zip format"),
    ],
)
def test_a_file_with_a_different_formats_suffix_is_refused(tmp_path, data, found):
    for suffix, name in (("gz", "gzip"), ("xz", "xz")):
        (tmp_path / f"a.{suffix}").write_bytes(data)
        with pytest.raises(InputError, match=f"a whole {name} file, .* Received: {found}. Copy"):
            read_lines(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            gzip.compress(b"text\n", mtime=0),
            r"gzip format\. Rename it to end in \.gz, or unpack it",
        ),
        (
            bz2.compress(b"text\n"),
            r"bzip2 format\. Rename it to end in \.bz2, or unpack it",
        ),
        (lzma.compress(b"text\n"), r"xz format\. Rename it to end in \.xz, or unpack it"),
        (b"\x28\xb5\x2f\xfd\x04\0", r"Zstandard format\. Unpack it"),
        (b"PK\x03\x04\x14\0", r"zip format\. Unpack it"),
    ],
)
def test_a_compressed_file_without_its_suffix_is_recognized(tmp_path, data, message):
    for name in ("train.en", "train.zst", "train.tsv"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}: must be text, .* a file in {message}"):
            read_lines(tmp_path / name)


def test_text_may_begin_like_a_compressed_file(tmp_path):
    (tmp_path / "a").write_text("BZh9 is a name, PK another\n")
    assert read_lines(tmp_path / "a") == ["BZh9 is a name, PK another"]


def test_a_python_without_lzma_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lzma", None)
    (tmp_path / "a.xz").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.xz: needs .* without the module lzma\. Unpack"):
        read_lines(tmp_path / "a.xz")


# Pairs


def test_pairs_with_different_numbers_of_lines_are_refused(tmp_path):
    (tmp_path / "a.en").write_text("1\n2\n3\n")
    (tmp_path / "a.de").write_text("1\n2\n")
    with pytest.raises(
        InputError, match=r"a\.en and .*a\.de must .* Received: 3 and 2 lines\. Line"
    ):
        read_pairs(tmp_path / "a.en", tmp_path / "a.de")


def test_pairs_keep_blank_lines_in_place(tmp_path):
    (tmp_path / "a.en").write_text("1\n\n3\n")
    (tmp_path / "a.de").write_text("x\ny\n\n")
    pairs = read_pairs(tmp_path / "a.en", tmp_path / "a.de")
    assert pairs == (["1", "", "3"], ["x", "y", ""])


def test_lines_and_pairs_are_read_one_by_one(tmp_path):
    (tmp_path / "a.en").write_bytes(b"1\n2\n\xff\n")
    (tmp_path / "a.de").write_bytes(b"x\ny\nz\n")
    lines = iterate_lines(tmp_path / "a.en")
    assert [next(lines), next(lines)] == ["1", "2"]
    with pytest.raises(InputError, match=r"a\.en:3: a line must be valid UTF-8"):
        next(lines)
    pairs = iterate_pairs(tmp_path / "a.en", tmp_path / "a.de")
    assert [next(pairs), next(pairs)] == [("1", "x"), ("2", "y")]


@pytest.mark.parametrize(("num_source", "num_target"), [(3, 7), (7, 3)])
def test_the_shorter_file_is_reported_at_its_end(tmp_path, num_source, num_target):
    (tmp_path / "a.en").write_text("x\n" * num_source)
    (tmp_path / "a.de").write_text("y\n" * num_target)
    pairs = iterate_pairs(tmp_path / "a.en", tmp_path / "a.de")
    assert [next(pairs) for _ in range(3)] == [("x", "y")] * 3
    with pytest.raises(InputError, match=rf"Received: {num_source} and {num_target} lines"):
        next(pairs)


# Columns


@pytest.mark.parametrize(
    ("columns", "pairs"),
    [((1, 2), [("0.7", "a b")]), ((2, 3), [("a b", "c")]), ((3, 2), [("c", "a b")])],
)
def test_columns_are_counted_from_one(tmp_path, columns, pairs):
    (tmp_path / "a.tsv").write_text("0.7\ta b\tc\tnote\n")
    assert list(iterate_columns(tmp_path / "a.tsv", columns)) == pairs


def test_a_line_has_two_columns_unless_some_are_chosen(tmp_path):
    (tmp_path / "a.tsv").write_text("a b\tc d\r\n\te\n")
    assert list(iterate_columns(tmp_path / "a.tsv", None)) == [("a b", "c d"), ("", "e")]


@pytest.mark.parametrize(
    ("line", "columns", "message"),
    [
        ("a", None, r"must have 2 columns, separated by tabs\. Received: 1\. Fix the line"),
        ("a\tb\tc", None, r"must have 2 columns, .* Received: 3\. .* select columns"),
        ("", None, r"must have 2 columns, .* Received: 1\."),
        ("a\tb", (1, 3), r"must have at least 3 columns, .* Received: 2\."),
    ],
)
def test_a_line_with_a_wrong_number_of_columns_is_named(tmp_path, line, columns, message):
    (tmp_path / "a.tsv").write_text(f"x\ty\tz\n{line}\n" if columns else f"x\ty\n{line}\n")
    with pytest.raises(InputError, match=rf"a\.tsv:2: a line {message}"):
        list(iterate_columns(tmp_path / "a.tsv", columns))
