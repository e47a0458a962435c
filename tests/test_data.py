import gzip
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transformer.data import (
    PairBatches,
    TokenLines,
    length_grid,
    pair_batches,
    plan_batches,
    read_lines,
    read_pairs,
)
from keras_transformer.errors import InputError


class OneIdACharacter:
    """A tokenizer for paper and pencil: "a" is 4, "b" is 5, and so on."""

    start_id, end_id = 2, 3

    def encode(self, lines):
        return [[ord(character) - ord("a") + 4 for character in line] for line in lines]


@st.composite
def length_pairs(draw):
    """Lengths of source and target lines that belong together, at most 71 tokens."""
    rng = np.random.default_rng(draw(st.integers(0, 1_000_000)))
    num_pairs = draw(st.integers(1, 700))
    source_longest, target_longest = draw(st.integers(1, 71)), draw(st.integers(1, 71))
    return (
        rng.integers(1, source_longest, num_pairs, endpoint=True),
        rng.integers(1, target_longest, num_pairs, endpoint=True),
    )


def random_lengths(num_pairs=5003):
    rng = np.random.default_rng(11)
    source = np.clip(rng.lognormal(2.6, 0.5, num_pairs).astype(int), 1, 83)
    return source, np.clip(source + rng.integers(-3, 6, num_pairs), 1, 89)


def random_lines(num_lines, longest=37, seed=5):
    rng = np.random.default_rng(seed)
    first, last = ord("a"), ord("t")
    lengths = rng.integers(1, longest, num_lines)
    return [rng.integers(first, last, n, "uint8").tobytes().decode() for n in lengths]


def ids_of(batches):
    return [
        (inputs["source_ids"].tolist(), inputs["target_ids"].tolist(), labels.tolist())
        for inputs, labels in batches
    ]


def of_dataset(dataset):
    return ids_of(dataset.as_numpy_iterator())


@pytest.fixture
def text_pair(tmp_path):
    """Files of 613 pairs, about 60 batches of 211 tokens."""
    paths = tmp_path / "train.en", tmp_path / "train.de"
    for seed, path in enumerate(paths):
        path.write_text("\n".join(random_lines(613, seed=seed)) + "\n")
    return paths


# Reading lines


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
    def permission_denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", permission_denied)
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


# Ids in flat arrays


def test_lines_are_kept_one_after_the_other():
    lines = TokenLines.encode(["ab", "", "cde"], OneIdACharacter())
    assert lines.ids.tolist() == [4, 5, 6, 7, 8]
    assert lines.offsets.tolist() == [0, 2, 2, 5]
    assert lines.lengths.tolist() == [2, 0, 3]
    assert lines.ids.dtype == np.int32


def test_padded_puts_padding_behind_each_line():
    lines = TokenLines.encode(["ab", "", "cde"], OneIdACharacter())
    padded = lines.padded(np.array([2, 0, 1, 2]), 4)
    assert padded.tolist() == [[6, 7, 8, 0], [4, 5, 0, 0], [0, 0, 0, 0], [6, 7, 8, 0]]
    assert padded.dtype == np.int32


def test_many_calls_of_the_tokenizer_give_the_same_as_one(monkeypatch):
    lines = random_lines(101)
    at_once = TokenLines.encode(lines, OneIdACharacter())
    monkeypatch.setattr("keras_transformer.data._LINES_PER_CALL", 7)
    in_parts = TokenLines.encode(lines, OneIdACharacter())
    assert in_parts.ids.tolist() == at_once.ids.tolist()
    assert in_parts.offsets.tolist() == at_once.offsets.tolist()


# Planning


def test_the_grid_goes_by_two_and_then_by_an_eighth():
    assert length_grid(29).tolist() == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 27, 29]


@pytest.mark.parametrize(("longest", "grid"), [(1, [1]), (2, [2]), (3, [2, 3]), (5, [2, 4, 5])])
def test_the_grid_ends_at_the_longest_line(longest, grid):
    assert length_grid(longest).tolist() == grid


def test_pairs_of_one_length_fill_batches_to_the_budget():
    # 5 lines of 4 tokens make 20; 12 lines are two such batches and a rest of 2.
    batches = plan_batches(np.full(12, 4), np.full(12, 3), max_tokens=21)
    assert [batch.rows.tolist() for batch in batches] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [10, 11],
    ]
    assert {batch[1:] for batch in batches} == {(4, 3)}


def test_what_is_left_over_joins_the_next_larger_cell():
    # Budget 12: 3 lines of 4, 2 lines of 6. Line 3 is left over by the first cell; with line 4 it
    # makes a batch of the second, and line 5 is left over at last.
    lengths = np.array([4, 4, 4, 4, 6, 6])
    batches = plan_batches(lengths, lengths, max_tokens=12)
    assert [(batch.rows.tolist(), *batch[1:]) for batch in batches] == [
        ([0, 1, 2], 4, 4),
        ([3, 4], 6, 6),
        ([5], 6, 6),
    ]


def test_what_is_left_over_waits_for_a_cell_that_it_fits_in():
    # (2, 6) and (6, 2) do not fit in each other: both are left over, and meet in (6, 6).
    batches = plan_batches(np.array([2, 6]), np.array([6, 2]), max_tokens=12)
    assert [(sorted(batch.rows.tolist()), *batch[1:]) for batch in batches] == [([0, 1], 6, 6)]


def test_a_cell_with_a_small_share_of_the_text_makes_no_batches():
    # 1,000 pairs of 10 tokens are 100 batches; 50 pairs of 4 tokens fill 2, less than 3%.
    lengths = np.array([10] * 1000 + [4] * 50)
    batches = plan_batches(lengths, lengths, max_tokens=100)
    assert {batch[1:] for batch in batches} == {(10, 10)}
    assert len(batches) == 105


@given(lengths=length_pairs(), max_tokens=st.integers(71, 997), seed=st.integers(0, 5) | st.none())
@settings(max_examples=80, deadline=None)
def test_every_pair_is_in_one_batch_that_holds_it_within_the_budget(lengths, max_tokens, seed):
    source_lengths, target_lengths = lengths
    rng = None if seed is None else np.random.default_rng(seed)
    batches = plan_batches(source_lengths, target_lengths, max_tokens, rng)
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows.tolist()) == list(range(len(source_lengths)))
    for rows, source_length, target_length in batches:
        assert source_lengths[rows].max() <= source_length <= source_lengths.max()
        assert target_lengths[rows].max() <= target_length <= target_lengths.max()
        assert len(rows) * max(source_length, target_length) <= max_tokens


@given(lengths=length_pairs(), max_tokens=st.integers(71, 997))
@settings(max_examples=80, deadline=None)
def test_only_the_last_batch_has_fewer_rows_than_the_budget_allows(lengths, max_tokens):
    *batches, last = plan_batches(*lengths, max_tokens, np.random.default_rng(0))
    for rows, source_length, target_length in batches:
        assert len(rows) == max_tokens // max(source_length, target_length)
    assert len(last.rows) <= max_tokens // max(last[1:])


@given(lengths=length_pairs(), max_tokens=st.integers(71, 997), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_shapes_are_the_same_in_every_order(lengths, max_tokens, seed):
    def shapes(rng):
        return Counter((len(b.rows), *b[1:]) for b in plan_batches(*lengths, max_tokens, rng))

    assert shapes(np.random.default_rng(seed)) == shapes(None)


def test_shapes_stay_few_however_large_the_text_is():
    for num_pairs in (5_003, 200_003):
        lengths = random_lengths(num_pairs)
        shapes = {(len(b.rows), *b[1:]) for b in plan_batches(*lengths, 4096)}
        assert len(shapes) <= 36  # 33 cells of at least 3%, the last cell and the last batch


def test_padding_stays_small():
    source_lengths, target_lengths = random_lengths(50_021)
    batches = plan_batches(source_lengths, target_lengths, 4096)
    padded = sum(len(b.rows) * (b.source_length + b.target_length) for b in batches)
    assert 1 - (source_lengths.sum() + target_lengths.sum()) / padded < 0.12


def test_without_a_generator_batches_go_from_short_to_long():
    shapes = [batch[1:] for batch in plan_batches(*random_lengths(), 4096)]
    assert len(set(shapes)) > 5
    assert shapes == sorted(shapes)


def test_a_generator_mixes_pairs_and_batches():
    lengths = random_lengths()
    fixed, mixed = (
        plan_batches(*lengths, 4096),
        plan_batches(*lengths, 4096, np.random.default_rng(1)),
    )
    assert [b[1:] for b in mixed] != [b[1:] for b in fixed]
    assert {frozenset(b.rows.tolist()) for b in mixed}.isdisjoint(
        frozenset(b.rows.tolist()) for b in fixed[:-1]
    )


def test_no_pairs_make_no_batches():
    assert plan_batches(np.zeros(0, int), np.zeros(0, int), 100) == []


def test_a_pair_longer_than_the_budget_is_refused():
    with pytest.raises(ValueError, match=r"longest line .* max_tokens=16, longest=17\. Raise"):
        plan_batches(np.array([5, 3]), np.array([4, 17]), 16)


# Batches


def test_source_ends_and_target_begins_and_labels_are_moved_by_one():
    batches = PairBatches(["abc", "d"], ["ef", "ghab"], OneIdACharacter(), shuffle=False)
    ((inputs, labels),) = batches.epoch(0)
    assert sorted(inputs["source_ids"].tolist()) == [[4, 5, 6, 3], [7, 3, 0, 0]]
    rows = dict(zip(map(tuple, inputs["target_ids"].tolist()), labels.tolist(), strict=True))
    assert rows == {(2, 8, 9, 0, 0): [8, 9, 3, 0, 0], (2, 10, 11, 4, 5): [10, 11, 4, 5, 3]}
    assert {inputs["source_ids"].dtype, inputs["target_ids"].dtype, labels.dtype} == {
        np.dtype("int32")
    }


def test_a_line_as_long_as_its_cell_is_padded_nowhere():
    batches = PairBatches(["abc"], ["efg"], OneIdACharacter())
    ((inputs, labels),) = batches.epoch(0)
    assert inputs["source_ids"].tolist() == [[4, 5, 6, 3]]
    assert inputs["target_ids"].tolist() == [[2, 8, 9, 10]]
    assert labels.tolist() == [[8, 9, 10, 3]]


@given(seed=st.integers(0, 50), epoch=st.integers(0, 7), max_tokens=st.integers(40, 300))
@settings(max_examples=25, deadline=None)
def test_every_pair_is_seen_once_an_epoch_within_the_budget(seed, epoch, max_tokens):
    source, target = random_lines(83, seed=1), random_lines(83, seed=2)
    batches = PairBatches(source, target, OneIdACharacter(), max_tokens, seed=seed)
    seen = []
    for inputs, labels in batches.epoch(epoch):
        assert max(inputs["source_ids"].size, inputs["target_ids"].size) <= max_tokens
        assert labels.shape == inputs["target_ids"].shape
        seen += zip(inputs["source_ids"].tolist(), labels.tolist(), strict=True)
    texts = [
        tuple("".join(chr(i - 4 + ord("a")) for i in ids if i > 3) for ids in pair) for pair in seen
    ]
    assert sorted(texts) == sorted(zip(source, target, strict=True))


def test_the_number_of_batches_is_the_same_in_each_epoch():
    batches = PairBatches(random_lines(613), random_lines(613, seed=6), OneIdACharacter(), 211)
    assert {len(list(batches.epoch(number))) for number in range(5)} == {len(batches)}


def test_the_order_differs_by_epoch_and_by_seed_and_repeats():
    def order(seed, epoch):
        lines = random_lines(613), random_lines(613, seed=6)
        return ids_of(PairBatches(*lines, OneIdACharacter(), 211, seed=seed).epoch(epoch))

    assert order(3, 2) == order(3, 2)
    assert order(3, 2) != order(3, 1)
    assert order(3, 2) != order(2, 2)
    assert order(3, 2) != order(2, 3)


def test_without_shuffling_every_epoch_has_the_same_order():
    lines = random_lines(613), random_lines(613, seed=6)
    batches = PairBatches(*lines, OneIdACharacter(), 211, shuffle=False)
    other_seed = PairBatches(*lines, OneIdACharacter(), 211, shuffle=False, seed=9)
    assert ids_of(batches.epoch(0)) == ids_of(batches.epoch(4)) == ids_of(other_seed.epoch(1))


def test_the_stream_goes_through_the_epochs():
    lines = random_lines(131), random_lines(131, seed=6)
    batches = PairBatches(*lines, OneIdACharacter(), 211)
    stream = batches.stream(first_epoch=3)
    two_epochs = [next(stream) for _ in range(2 * len(batches))]
    assert ids_of(two_epochs) == ids_of(batches.epoch(3)) + ids_of(batches.epoch(4))


def test_blank_and_long_pairs_are_left_out_and_counted(caplog):
    # Kept lines have at most 5 characters, 6 tokens with the end id.
    source = ["abcde", "", "abcdef", "a", " ", "a"]
    target = ["a", "b", "c", "abcdef", "d", "abcde"]
    with caplog.at_level(logging.WARNING, logger="keras_transformer"):
        batches = PairBatches(source, target, OneIdACharacter(), max_length=6)
    assert batches.num_pairs == 2
    assert caplog.messages == [
        "2 pairs are left out: with a blank side.",
        "2 pairs are left out: longer than 6 tokens.",
    ]
    seen = [row for inputs, _ in batches.epoch(0) for row in inputs["source_ids"].tolist()]
    assert sorted(seen) == [[4, 3, 0, 0, 0, 0], [4, 5, 6, 7, 8, 3]]


def test_nothing_is_logged_where_nothing_is_left_out(caplog):
    PairBatches(["abcde"], ["a"], OneIdACharacter(), max_length=6)
    assert not caplog.messages


def test_pairs_longer_than_the_budget_are_left_out():
    batches = PairBatches(["abcde", "abcd"], ["a", "b"], OneIdACharacter(), max_tokens=5)
    assert batches.num_pairs == 1


@pytest.mark.parametrize(("source", "target"), [(["abcdef"], ["a"]), (["", "a"], ["a", ""])])
def test_a_text_of_which_no_pair_is_left_is_refused(source, target):
    with pytest.raises(InputError, match=r"at least one pair .* none of at most 6 tokens\. Raise"):
        PairBatches(source, target, OneIdACharacter(), max_length=6)


def test_sides_of_different_lengths_are_refused():
    with pytest.raises(InputError, match=r"same number of lines\. Received: 2 and 3 lines\. Pass"):
        PairBatches(["a", "b"], ["a", "b", "c"], OneIdACharacter())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_tokens": 1}, r"max_tokens must be at least 2\. Received: max_tokens=1\. Choose"),
        ({"max_length": 1}, r"max_length must be at least 2\. Received: max_length=1\. Choose"),
        ({"seed": -1}, r"seed must be at least 0\. Received: seed=-1\. Choose"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        PairBatches(["a"], ["b"], OneIdACharacter(), **setting)


# The tf.data.Dataset


def test_the_dataset_yields_the_batches_epoch_after_epoch(text_pair):
    batches = PairBatches(*read_pairs(*text_pair), OneIdACharacter(), 211, seed=7)
    dataset = pair_batches(*text_pair, OneIdACharacter(), 211, seed=7)
    assert of_dataset(dataset) == ids_of(batches.epoch(0))
    assert of_dataset(dataset) == ids_of(batches.epoch(1))


def test_the_dataset_knows_its_length_and_types(text_pair):
    import tensorflow as tf

    dataset = pair_batches(*text_pair, OneIdACharacter(), 211)
    ids = tf.TensorSpec((None, None), tf.int32)
    assert dataset.element_spec == ({"source_ids": ids, "target_ids": ids}, ids)
    assert int(dataset.cardinality()) == len(of_dataset(dataset))


def test_the_dataset_begins_at_the_first_epoch_asked_for(text_pair):
    batches = PairBatches(*read_pairs(*text_pair), OneIdACharacter(), 211)
    dataset = pair_batches(*text_pair, OneIdACharacter(), 211, first_epoch=5)
    assert of_dataset(dataset) == ids_of(batches.epoch(5))
    assert of_dataset(dataset.skip(3)) == ids_of(batches.epoch(6))[3:]


@pytest.mark.parametrize("max_tokens", [211, 2003])  # with and without reading ahead
def test_an_iteration_that_is_broken_off_is_not_counted_as_an_epoch(text_pair, max_tokens):
    batches = PairBatches(*read_pairs(*text_pair), OneIdACharacter(), max_tokens)
    dataset = pair_batches(*text_pair, OneIdACharacter(), max_tokens)
    next(iter(dataset))
    assert of_dataset(dataset) == ids_of(batches.epoch(0))
    next(iter(dataset))
    assert of_dataset(dataset) == ids_of(batches.epoch(1))


@pytest.mark.parametrize("max_tokens", [211, 2003])
def test_fit_sees_each_epoch_in_its_order(text_pair, max_tokens):
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("keras takes a tf.data.Dataset apart in another way on other back ends")
    seen = []

    class Recorder(keras.Model):
        def call(self, inputs):
            return inputs["target_ids"]

        def train_step(self, data):
            inputs, labels = data
            seen.append(({name: ids.numpy() for name, ids in inputs.items()}, labels.numpy()))
            return {"loss": 0.0}

    model = Recorder()
    model.compile(loss="mse", run_eagerly=True)
    dataset = pair_batches(*text_pair, OneIdACharacter(), max_tokens, seed=7)
    model.fit(dataset, epochs=3, verbose=0)
    batches = PairBatches(*read_pairs(*text_pair), OneIdACharacter(), max_tokens, seed=7)
    assert ids_of(seen) == [batch for number in range(3) for batch in ids_of(batches.epoch(number))]


def test_a_first_epoch_below_0_is_refused(text_pair):
    with pytest.raises(
        InputError, match=r"first_epoch must be at least 0\. Received: first_epoch=-1"
    ):
        pair_batches(*text_pair, OneIdACharacter(), first_epoch=-1)


# Real text


def test_real_text_is_padded_little_and_in_few_shapes():
    folder = os.environ.get("MULTI30K_DIR")
    if folder is None:
        pytest.skip("MULTI30K_DIR does not name a folder with Multi30k")
    from keras_transformer.tokenizer import SubwordTokenizer

    files = [Path(folder, "tok", f"train.lc.norm.tok.{language}.gz") for language in ("en", "de")]
    tokenizer = SubwordTokenizer.train(files, 10_000)
    batches = PairBatches(*read_pairs(*files), tokenizer, max_tokens=4096)
    assert batches.num_pairs == 29_000
    padded, real, shapes = 0, 0, set()
    for inputs, labels in batches.epoch(0):
        shapes.add((inputs["source_ids"].shape, labels.shape))
        padded += inputs["source_ids"].size + labels.size
        real += np.count_nonzero(inputs["source_ids"]) + np.count_nonzero(labels)
    assert 1 - real / padded < 0.12
    assert len(shapes) <= 36
