import numpy as np

from keras_transformer.data.token_lines import TokenLines, TokenPairs
from tests.data.made_text import OneIdACharacter, random_lines


def test_lines_are_kept_one_after_the_other():
    lines = TokenLines.encode(["ab", "", "cde"], OneIdACharacter())
    assert lines.ids.tolist() == [4, 5, 6, 7, 8]
    assert lines.offsets.tolist() == [0, 2, 2, 5]
    assert lines.lengths.tolist() == [2, 0, 3]
    assert lines.ids.dtype == np.int32


def test_padding_follows_each_line():
    lines = TokenLines.encode(["ab", "", "cde"], OneIdACharacter())
    padded = lines.padded(np.array([2, 0, 1, 2]), 4)
    assert padded.tolist() == [[6, 7, 8, 0], [4, 5, 0, 0], [0, 0, 0, 0], [6, 7, 8, 0]]
    assert padded.dtype == np.int32


def test_many_calls_of_the_tokenizer_give_the_same_ids_as_one_call(monkeypatch):
    lines = random_lines(101)
    at_once = TokenLines.encode(lines, OneIdACharacter())
    monkeypatch.setattr("keras_transformer.data.token_lines._LINES_PER_CALL", 7)
    in_parts = TokenLines.encode(lines, OneIdACharacter())
    assert in_parts.ids.tolist() == at_once.ids.tolist()
    assert in_parts.offsets.tolist() == at_once.offsets.tolist()


def test_taken_lines_have_the_requested_order():
    lines = TokenLines.encode(["ab", "", "cde", "f"], OneIdACharacter())
    taken = lines.take(np.array([2, 1, 3, 2]))
    assert taken.ids.tolist() == [6, 7, 8, 9, 6, 7, 8]
    assert taken.offsets.tolist() == [0, 3, 3, 4, 7]
    assert taken.ids.dtype == np.int32
    assert lines.take(np.zeros(0, int)).offsets.tolist() == [0]


def test_parts_are_joined_in_order():
    parts = [TokenLines.encode(lines, OneIdACharacter()) for lines in (["ab", ""], [], ["c"])]
    joined = TokenLines.concatenate(parts)
    assert joined.ids.tolist() == [4, 5, 6]
    assert joined.offsets.tolist() == [0, 2, 2, 3]
    assert TokenLines.concatenate([]).offsets.tolist() == [0]


def test_both_sides_of_pairs_are_taken_together():
    source, target = (
        TokenLines.encode(lines, OneIdACharacter()) for lines in (["a", "bc"], ["def", "g"])
    )
    pairs = TokenPairs.concatenate([TokenPairs(source, target)] * 2).take(np.array([3, 0]))
    assert pairs.num_pairs == 2
    assert pairs.source.ids.tolist() == [5, 6, 4]
    assert pairs.target.ids.tolist() == [10, 7, 8, 9]
    assert [lengths.tolist() for lengths in pairs.lengths] == [[3, 2], [2, 4]]
