import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transformer.data import PairBatches, read_pairs
from keras_transformer.errors import InputError
from tests.data.made_text import OneIdACharacter, ids_of, random_lines


def test_sources_get_an_end_id_targets_a_start_id_and_labels_are_shifted_by_one():
    batches = PairBatches(["abc", "d"], ["ef", "ghab"], OneIdACharacter(), shuffle=False)
    ((inputs, labels),) = batches.epoch(0)
    assert sorted(inputs["source_ids"].tolist()) == [[4, 5, 6, 3], [7, 3, 0, 0]]
    rows = dict(zip(map(tuple, inputs["target_ids"].tolist()), labels.tolist(), strict=True))
    assert rows == {(2, 8, 9, 0, 0): [8, 9, 3, 0, 0], (2, 10, 11, 4, 5): [10, 11, 4, 5, 3]}
    assert {inputs["source_ids"].dtype, inputs["target_ids"].dtype, labels.dtype} == {
        np.dtype("int32")
    }


def test_a_line_as_long_as_its_cell_gets_no_padding():
    batches = PairBatches(["abc"], ["efg"], OneIdACharacter())
    ((inputs, labels),) = batches.epoch(0)
    assert inputs["source_ids"].tolist() == [[4, 5, 6, 3]]
    assert inputs["target_ids"].tolist() == [[2, 8, 9, 10]]
    assert labels.tolist() == [[8, 9, 10, 3]]


@given(seed=st.integers(0, 50), epoch=st.integers(0, 7), max_tokens=st.integers(40, 300))
@settings(max_examples=25, deadline=None)
def test_every_pair_occurs_once_per_epoch_within_the_budget(seed, epoch, max_tokens):
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


def test_the_order_depends_on_epoch_and_seed_and_is_repeatable():
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
    stream = batches.epochs().stream(first_epoch=3)
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


def test_nothing_is_logged_if_no_pair_is_left_out(caplog):
    PairBatches(["abcde"], ["a"], OneIdACharacter(), max_length=6)
    assert not caplog.messages


def test_pairs_longer_than_the_budget_are_left_out():
    batches = PairBatches(["abcde", "abcd"], ["a", "b"], OneIdACharacter(), max_tokens=5)
    assert batches.num_pairs == 1


@pytest.mark.parametrize(("source", "target"), [(["abcdef"], ["a"]), (["", "a"], ["a", ""])])
def test_a_text_with_no_usable_pair_is_refused(source, target):
    with pytest.raises(InputError, match=r"at least one pair .* all left out: .*\. Raise"):
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


@pytest.mark.parametrize("first_batch", [0, 1, 17])
def test_an_epoch_can_begin_after_its_first_batches(first_batch):
    batches = PairBatches(random_lines(613), random_lines(613, seed=6), OneIdACharacter(), 211)
    assert ids_of(batches.epoch(2, first_batch)) == ids_of(batches.epoch(2))[first_batch:]


def test_uneven_pairs_are_left_out_and_counted(caplog):
    # Tokens without the end: 2 and 6 are 3 to 1; 2 and 7, and 7 and 2, are more; 9 is too long.
    source, target = ["ab", "ab", "abcdefg", "abcdefghi"], ["abcdef", "abcdefg", "ab", "abcdefghi"]
    batches = PairBatches(
        source, target, OneIdACharacter(), max_length=9, max_length_ratio=3, shuffle=False
    )
    assert batches.num_pairs == 1
    assert caplog.messages == [
        "1 pair is left out: longer than 9 tokens.",
        "2 pairs are left out: one side more than 3 times the other.",
    ]


@pytest.mark.parametrize("ratio", [1, 0.5, float("nan")])
def test_a_length_ratio_that_no_pair_meets_is_refused(ratio):
    with pytest.raises(InputError, match=r"max_length_ratio must be greater than 1.* Choose"):
        PairBatches(["a"], ["b"], OneIdACharacter(), max_length_ratio=ratio)


# Real text


def test_real_text_needs_little_padding_and_few_shapes():
    folder = os.environ.get("MULTI30K_DIR")
    if folder is None:
        pytest.skip("MULTI30K_DIR does not name a folder with Multi30k")
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer

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
