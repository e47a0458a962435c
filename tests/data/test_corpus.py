import bz2
import gzip
import lzma
import os

import pytest

from keras_transformer.data.corpus import Corpus, as_corpora, read_corpora, sample_pairs
from keras_transformer.errors import InputError


@pytest.fixture
def shards(tmp_path):
    """Writes three shards with two lines per side, one of them compressed."""
    for number, (name, side) in enumerate(
        (name, side) for name in ("a", "b", "c") for side in ("en", "de")
    ):
        letter, first = ("s", number) if side == "en" else ("t", number - 1)
        data = f"{letter}{first}\n{letter}{first + 1}\n".encode()
        path = tmp_path / f"part-{name}.{side}"
        if name == "b":
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
        else:
            path.write_bytes(data)
    return tmp_path


ALL = [(f"s{number}", f"t{number}") for number in range(6)]


def test_a_pattern_matches_files_in_the_order_of_their_names(shards):
    corpus = Corpus(f"{shards}/part-*.en*", f"{shards}/part-*.de*")
    assert [source.name for source, _ in corpus.files()] == [
        "part-a.en",
        "part-b.en.gz",
        "part-c.en",
    ]
    assert list(corpus.pairs()) == ALL


def test_lists_may_mix_files_and_patterns_and_keep_their_order(shards):
    corpus = Corpus(
        [shards / "part-c.en", f"{shards}/part-[ab].en*"],
        [shards / "part-c.de", f"{shards}/part-[ab].de*"],
    )
    assert list(corpus.pairs()) == ALL[4:] + ALL[:4]


def test_files_with_two_columns_need_no_target(tmp_path):
    (tmp_path / "1.tsv").write_text("a\tb\n")
    (tmp_path / "2.tsv.gz").write_bytes(gzip.compress(b"c\td\n"))
    assert list(Corpus(f"{tmp_path}/*.tsv*").pairs()) == [("a", "b"), ("c", "d")]


def test_each_shard_has_its_own_compression_and_byte_order_mark(tmp_path):
    (tmp_path / "1.tsv").write_bytes(b"\xef\xbb\xbfa\tb\n")
    (tmp_path / "2.tsv.xz").write_bytes(lzma.compress(b"\xef\xbb\xbfc\td\n"))
    (tmp_path / "3.tsv.BZ2").write_bytes(bz2.compress(b"\xef\xbb\xbfe\tf\n"))
    (tmp_path / "4.tsv.GZ").write_bytes(gzip.compress(b"\xef\xbb\xbfg\th\n"))
    pairs = [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]
    assert list(Corpus(f"{tmp_path}/*.tsv*").pairs()) == pairs


def test_chosen_columns_may_be_among_other_columns(tmp_path):
    (tmp_path / "1.tsv").write_text("0.5\ta\tb\n")
    assert list(Corpus(tmp_path / "1.tsv", columns=(3, 2)).pairs()) == [("b", "a")]


def test_an_existing_file_may_have_a_name_like_a_pattern(tmp_path):
    (tmp_path / "a[1].tsv").write_text("a\tb\n")
    assert list(Corpus(tmp_path / "a[1].tsv").pairs()) == [("a", "b")]


def test_a_pattern_without_files_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"x-\*\.en: must match at least one file\. .* Check"):
        Corpus(f"{tmp_path}/x-*.en", f"{tmp_path}/x-*.de").files()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"x\.en: must be a file .* No such file .* Check"):
        Corpus(tmp_path / "x.en", tmp_path / "x.de").files()


def test_a_pipe_among_the_files_is_refused_without_waiting(tmp_path):
    (tmp_path / "1.tsv").write_text("a\tb\n")
    os.mkfifo(tmp_path / "2.tsv")
    for corpus in (Corpus(f"{tmp_path}/*.tsv"), Corpus(tmp_path / "2.tsv")):
        with pytest.raises(InputError, match=r"2\.tsv: must be a regular file, .* a pipe\. Write"):
            corpus.files()


def test_an_empty_list_of_files_is_refused():
    with pytest.raises(InputError, match=r"at least one file\. Received: an empty list\. Name"):
        Corpus([]).files()


def test_sides_with_different_numbers_of_files_are_refused(shards):
    corpus = Corpus(f"{shards}/part-*.en*", shards / "part-a.de")
    with pytest.raises(InputError, match=r"number of files\. Received: 3 for .* and 1 for .* Give"):
        corpus.files()


def test_a_file_paired_with_its_neighbors_partner_is_refused(shards):
    # As many files and lines on both sides, but part-a.en would be translated by part-c.de.
    (shards / "part-a.de").unlink()
    (shards / "part-c.en").unlink()
    corpus = Corpus(f"{shards}/part-*.en*", f"{shards}/part-*.de*")
    with pytest.raises(
        InputError, match=r"belong together\. Received: .*a\.en beside .*b\.de.* Add"
    ):
        corpus.files()


def test_partners_in_other_folders_are_recognized(tmp_path):
    for side in ("en", "de"):
        (tmp_path / side).mkdir()
        for name in ("1", "2"):
            (tmp_path / side / f"{name}.txt").write_text(f"{side}{name}\n")
    corpus = Corpus(f"{tmp_path}/./en/*.txt", f"{tmp_path}/de//*.txt")
    assert list(corpus.pairs()) == [("en1", "de1"), ("en2", "de2")]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(InputError, match=r"weight must be greater than 0\. Received: weight="):
        Corpus("a.tsv", weight=weight)


@pytest.mark.parametrize(
    "settings", [{"columns": (0, 1)}, {"columns": (2, 2)}, {"columns": (1, 2), "target": "b"}]
)
def test_columns_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match=r"columns must be two different numbers .* Write"):
        Corpus("a.tsv", **settings)


def test_files_and_corpora_are_distinguished():
    one, other = Corpus("a", "b"), Corpus("c")
    assert as_corpora("a", "b") == [one]
    assert as_corpora(one, None) == [one]
    assert as_corpora((one, other), None) == [one, other]
    assert as_corpora(["a", "c"], ["b", "d"]) == [Corpus(["a", "c"], ["b", "d"])]
    for source, target in (([one, "c"], None), (one, "b")):
        with pytest.raises(InputError, match=r"source must be files, or corpora"):
            as_corpora(source, target)


def test_corpora_are_read_one_after_the_other(shards):
    corpora = [Corpus(shards / f"part-{name}.en", shards / f"part-{name}.de") for name in "ca"]
    assert read_corpora(corpora) == (["s4", "s5", "s0", "s1"], ["t4", "t5", "t0", "t1"])


def test_weights_need_a_stream(shards):
    corpora = [Corpus(shards / "part-a.en", shards / "part-a.de", weight=w) for w in (1, 2)]
    with pytest.raises(InputError, match=r"weights must be equal .* weights 1, 2\. Set steps_per"):
        read_corpora(corpora)


# Samples


def test_a_sample_is_drawn_from_the_whole_text_and_keeps_pairs_together(tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"s{n}\tt{n}\n" for n in range(1000)))
    source, target = sample_pairs(tmp_path / "a.tsv", num_pairs=200, seed=3)
    numbers = [int(line[1:]) for line in source]
    assert [int(line[1:]) for line in target] == numbers
    assert len(set(numbers)) == 200
    # The mean of 200 of 0 to 999 without repetition has a standard deviation of 18.
    assert abs(sum(numbers) / 200 - 499.5) < 4 * 18
    assert sample_pairs(tmp_path / "a.tsv", num_pairs=200, seed=3) == (source, target)
    assert sample_pairs(tmp_path / "a.tsv", num_pairs=200, seed=4) != (source, target)


def test_a_sample_of_a_small_text_is_the_whole_text(tmp_path):
    (tmp_path / "a.tsv").write_text("a\tb\nc\td\n")
    assert sample_pairs(tmp_path / "a.tsv", num_pairs=3) == (["a", "c"], ["b", "d"])


def test_an_empty_sample_is_refused():
    with pytest.raises(InputError, match=r"num_pairs must be at least 1\. Received: num_pairs=0\."):
        sample_pairs("a.tsv", num_pairs=0)
