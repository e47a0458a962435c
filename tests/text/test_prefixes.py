import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_transformer.text.prefixes import Prefix, PrefixesInGraph, _has_no_spaces

# The prefix, and whether a new word must follow it.
PREFIXES = {
    "": False,
    "the": False,
    "the ": True,
    "the\u00a0\t ": True,
    " the": False,
    " ": False,
    "\u3000\u2028": False,
    "the\r\nhouse\n": True,
    "我们": False,
    "我们 ": False,
    "GPS\u3000": True,
    "ไทย ": False,
    "눈 ": True,
    "ﾊﾟ ": False,
    "🚲 ": False,
    "the\u200b": False,
    "the \u200b ": True,
}


def in_graph(prefixes, tokenizer):
    return PrefixesInGraph.of(tf.constant(prefixes, tf.string, [len(prefixes)]), tokenizer)


def decoded(tensor):
    return [text.decode() for text in tensor.numpy().tolist()]


def assert_same(prefixes, tokenizer):
    batch, alone = in_graph(prefixes, tokenizer), [Prefix.of(text, tokenizer) for text in prefixes]
    assert decoded(batch.text) == [prefix.text for prefix in alone]
    assert decoded(batch.stem) == [prefix.stem for prefix in alone]
    assert batch.need_new_word.numpy().tolist() == [prefix.needs_new_word for prefix in alone]
    rests = ["", " and", "\u3000和", "re", "\tx"]
    translations = [[prefix.stem + rest for rest in rests] for prefix in alone]
    begun = batch.begin(tf.constant(translations, tf.string, [len(prefixes), len(rests)]))
    for prefix, row, texts in zip(alone, begun, translations, strict=True):
        assert decoded(row) == [prefix.begin(text) for text in texts]


def test_the_graph_has_the_same_prefixes(tokenizer):
    assert_same([*PREFIXES], tokenizer)
    assert_same([], tokenizer)
    assert in_graph([*PREFIXES], tokenizer).need_new_word.numpy().tolist() == [*PREFIXES.values()]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=9), max_size=3))
@example(["\x85", "a\x1c", "a\x00 ", "\ufeff ", "]-^\\ "])
def test_the_graph_reads_any_text_as_a_prefix(tokenizer, prefixes):
    assert_same(prefixes, tokenizer)


def test_the_graph_knows_every_character_of_scripts_without_spaces():
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    characters = [character for character in characters if not character.isspace()]
    stem = tf.constant(characters)
    found = PrefixesInGraph(tf.strings.join([stem, "\u3000"]), stem).need_new_word.numpy()
    wrong = [c for c, new in zip(characters, found, strict=True) if new == _has_no_spaces(c)]
    assert wrong == []


@pytest.mark.parametrize("code", [0x378, 0x50000])
def test_unassigned_characters_belong_to_no_script_without_spaces(code):
    assert not _has_no_spaces(chr(code))


def test_a_missing_result_gets_its_prefix_without_an_error():
    prefixes = PrefixesInGraph(tf.constant(["the ", "a"]), tf.constant(["the", "a"]))
    assert decoded(prefixes.begin(tf.constant([[""], [""]]))[:, 0]) == ["the ", "a"]


def test_prefixes_of_some_rows(tokenizer):
    prefixes = in_graph(["a ", "the", "two "], tokenizer).of_rows(tf.constant([2, 0]))
    assert decoded(prefixes.text) == ["two ", "a "]
    assert decoded(prefixes.stem) == ["two", "a"]
