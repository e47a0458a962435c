import gzip
import os

import pytest

from keras_transformer.data.lines import (
    iterate_columns,
    iterate_lines,
    iterate_pairs,
    read_lines,
    read_pairs,
)
from keras_transformer.errors import InputError
from tests.data.made_text import random_lines


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
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_lines_end_at_newlines_and_nowhere_else(tmp_path, data, lines, suffix):
    path = tmp_path / f"text{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
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
            b"\n \n\t\r\n",
            r": must hold at least one line of text\. Received: 3 blank lines\. Check",
        ),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("suffix", [".de", ".de.gz"])
def test_text_that_cannot_be_used_is_refused_with_file_and_line(tmp_path, data, message, suffix):
    path = tmp_path / f"train{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    with pytest.raises(InputError, match=rf"train\.de(\.gz)?{message}") as error:
        read_lines(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"absent: must be .* Received: No such file .*\. Check the"
    ):
        read_lines(tmp_path / "absent")
    with pytest.raises(InputError, match=r"must be a file .* Received: Is a directory\. Check the"):
        read_lines(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(tmp_path):
    path = tmp_path / "secret.en"
    path.write_text("text")
    path.chmod(0)
    with pytest.raises(InputError, match=r"secret\.en: .* Received: Permission denied\. Check the"):
        read_lines(path)


def test_an_error_of_the_disk_is_refused_with_its_reason(tmp_path, monkeypatch):
    def permission_denied(path, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("keras_transformer.data.lines.open", permission_denied, raising=False)
    with pytest.raises(InputError, match=r"secret\.en: .* Received: Permission denied\. Check the"):
        read_lines(tmp_path / "secret.en")


def test_a_gzip_file_cut_short_or_damaged_is_refused(tmp_path):
    path = tmp_path / "train.en.gz"
    whole = gzip.compress("\n".join(random_lines(97)).encode())
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    for data in (whole[:7], whole[:middle], whole[:-1], damaged, b"plain text", whole + b"rest"):
        path.write_bytes(data)
        with pytest.raises(
            InputError, match=r"train\.en\.gz: must be a whole gzip .* Received: .* Cop"
        ):
            read_lines(path)


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
def test_a_file_that_ends_first_is_noticed_at_its_end(tmp_path, num_source, num_target):
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
        ("a", None, r"must have 2 columns, separated by tabs\. Received: 1\. Name a second file"),
        ("a\tb\tc", None, r"must have 2 columns, .* Received: 3\. .* choose columns"),
        ("", None, r"must have 2 columns, .* Received: 1\."),
        ("a\tb", (1, 3), r"must have at least 3 columns, .* Received: 2\."),
    ],
)
def test_a_line_with_other_columns_is_refused_by_its_number(tmp_path, line, columns, message):
    (tmp_path / "a.tsv").write_text(f"x\ty\tz\n{line}\n" if columns else f"x\ty\n{line}\n")
    with pytest.raises(InputError, match=rf"a\.tsv:2: a line {message}"):
        list(iterate_columns(tmp_path / "a.tsv", columns))
