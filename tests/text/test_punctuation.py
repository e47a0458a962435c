"""Moses' normalization of punctuation, in Python and in the graph."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transformer.text.punctuation import normalized, normalized_in_graph


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“quoted” and „quoted“", '"quoted" and "quoted"'),
        ("it\u2019s \u2018so\u2019", "it's 'so'"),
        ("a\u2013b\u2014c", "a-b - c"),
        ("wait\u2026", "wait..."),
        ("two  spaces", "two spaces"),
        ("( a )b", " (a) b"),
        ("(a) .", " (a)."),
        ("why : because ; so", "why: because; so"),
        ("5 % and 5\u00a0%", "5% and 5%"),
        ("«\u00a0oui\u00a0»", '"oui"'),
        ("dit\u00a0«\u00a0oui\u00a0»\u00a0bien", 'dit "oui" bien'),
        ("the boys\u2019 house", "the boys' house"),
        ("nº\u00a0: 5\u00a0: 6", "nº : 5: 6"),
        ("quoi\u00a0? non\u00a0!", "quoi? non!"),
        ("20\u00a0ºC, 3\u00a0cm, nº\u00a05", "20 ºC, 3 cm, nº 5"),
        ("`so\u00b4", "'so'"),
        ("''so''", ' " so " '),
        ("end\r", "end"),
    ],
)
def test_typographic_characters_become_ascii(text, expected):
    assert normalized(text, "cs") == expected


def test_commas_go_into_english_quotes_and_out_of_german_ones():
    assert normalized('"so", he said', "en") == '"so," he said'
    assert normalized('"so," he said', "de") == '"so", he said'
    assert normalized('"so." He', "de") == '"so". He'
    assert normalized('"so."', "de") == '"so".'
    assert normalized('"so."<', "de") == '"so."<'  # markup stays
    assert normalized('"so", he "said."', "cs") == '"so", he "said."'


def test_a_space_between_digits_becomes_the_decimal_sign():
    assert normalized("3\u00a0141", "de") == "3,141"
    assert normalized("3\u00a0141", "en") == "3.141"


CHARACTERS = (
    "ab 0.,!?;:%()\"'`\u00b4\u2018\u2019\u201a\u201c\u201d\u201e«»"
    "\u2013\u2014\u2026\u00a0ºnc<>\r\t\n"
)


@given(st.lists(st.text(CHARACTERS, max_size=12), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_the_graph_normalizes_as_python_does(texts):
    import tensorflow as tf

    for language in ("en", "de", "cs"):
        found = normalized_in_graph(tf.constant(texts), language).numpy()
        assert [text.decode() for text in found] == [normalized(text, language) for text in texts]
