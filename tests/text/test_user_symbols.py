"""Symbols of the user's own: never split, never invented, and kept by the round trip."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_transformer.errors import InputError
from keras_transformer.text.prefixes import new_word_ids
from keras_transformer.text.subword_tokenizer import SubwordTokenizer

SYMBOLS = [">>de<<", ">>en<<", "<b>", "</b>", "<b>!", "a,b", '"', "日本"]
LINES = [
    ">>de<< The cat sat on <b>the mat</b>, and the cats sat there.",
    ">>en<< Die Katze saß auf der <b>Matte</b>!",
    "a,b are two letters, and so are a b",
    "the  mat and\tthe cat",
]
# Pieces of symbols, and what looks like one.
LOOKALIKES = [
    *(">>d", "e<<", ">", "<", "b", "</", "b>", "< b>", "<B>", ">>DE<<", "a, b", "a,", ",b"),
    *(
        "\uff1cb\uff1e",
        "\uff1e\uff1ede\uff1c\uff1c",
        "<\u200bb>",
        ">>d\u00ade<<",
        "<b\u0301>",
        "日 本",
        "日",
        "本",
        "“",
    ),
    *("</s>", "<unk>", "<0x41>", "\u2585", " ", "  ", "\t"),
]
texts = st.lists(
    st.sampled_from([*SYMBOLS, *LOOKALIKES, "the ", " cat"])
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\u2581"), max_size=5)
).map("".join)
MANY = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# Where symbols begin at the same place, the longest counts; the search goes on after it.
LONGEST_FIRST = re.compile("|".join(map(re.escape, sorted(SYMBOLS, key=len, reverse=True))))


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request):
    return SubwordTokenizer.train_from_lines(
        LINES * 5, 330, model_type=request.param, user_symbols=SYMBOLS
    )


def symbols_in(ids, tokenizer):
    return [piece for piece in tokenizer.pieces(ids) if piece in SYMBOLS]


def test_the_symbols_are_known_after_saving(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.model")
    loaded = SubwordTokenizer.load(tmp_path / "tokenizer.model")
    assert loaded.user_symbols == tokenizer.user_symbols == tuple(SYMBOLS)
    assert loaded.pieces(range(4, 4 + len(SYMBOLS))) == SYMBOLS
    assert SubwordTokenizer.train_from_lines(LINES * 5, 330).user_symbols == ()


@given(text=texts)
@MANY
def test_symbols_survive_whole_and_nothing_else_becomes_one(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert symbols_in(ids, tokenizer) == LONGEST_FIRST.findall(text)


@given(text=texts, seed=st.integers(0, 1000), rate=st.sampled_from([0.1, 0.5, 1.0]))
@MANY
def test_sampling_does_not_split_them(tokenizer, text, seed, rate):
    [ids] = tokenizer.sample([text], rate, seed=seed)
    assert tokenizer.decode(ids) == text
    assert symbols_in(ids, tokenizer) == LONGEST_FIRST.findall(text)


def test_the_graph_splits_and_joins_them_as_python_does(tokenizer, tmp_path):
    import tensorflow as tf

    lines = [*LINES, *SYMBOLS, *LOOKALIKES, "".join(SYMBOLS), "x".join(SYMBOLS), ""]
    generator = np.random.default_rng(3)
    parts = [*SYMBOLS, *LOOKALIKES]
    lines += ["".join(generator.choice(parts, 7)) for _ in range(300)]
    module = tf.Module()
    module.tokenizer = tokenizer.trackables
    text, ids = tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.int32)
    tokenize = tf.function(lambda text: tokenizer.tokenize(text).to_tensor(), [text])
    detokenize = tf.function(tokenizer.detokenize, [ids])
    signatures = {
        "tokenize": tokenize.get_concrete_function(),
        "detokenize": detokenize.get_concrete_function(),
    }
    tf.saved_model.save(module, str(tmp_path), signatures=signatures)
    loaded = tf.saved_model.load(str(tmp_path)).signatures
    [rows] = loaded["tokenize"](tf.constant(lines)).values()
    found = [[token_id for token_id in row if token_id] for row in rows.numpy().tolist()]
    assert found == tokenizer.encode(lines)
    [joined] = loaded["detokenize"](rows).values()
    assert [line.decode() for line in joined.numpy()] == lines


def test_a_symbol_does_not_begin_a_word_by_itself(tokenizer):
    begins = set(tokenizer.pieces(new_word_ids(tokenizer)))
    assert not begins & {">>de<<", "<b>", "a,b"}
    assert "日本" in begins  # a script without spaces


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ([""], "empty or not text"),
        ([7], "empty or not text"),
        (["a b"], "white space"),
        (["a\n"], "white space"),
        (["\x00"], "white space, a control character"),
        (["\u2581"], "a character of SentencePiece's own"),
        (["\u2585"], "a character of SentencePiece's own"),
        (["\ud800"], "half of a surrogate pair"),
        (["</s>"], "is reserved"),
        (["<0x0A>"], "is reserved"),
        (["x" * 101], "more than 100 characters"),
        (["<b>", "<b>"], "'<b>', which is there twice"),
    ],
)
def test_what_cannot_be_told_from_text_is_refused(symbols, message):
    with pytest.raises(InputError, match=message):
        SubwordTokenizer.train_from_lines(LINES, 400, user_symbols=symbols)


def test_a_single_text_is_one_symbol():
    tokenizer = SubwordTokenizer.train_from_lines(LINES * 5, 330, user_symbols="<b>")
    assert tokenizer.user_symbols == ("<b>",)


def test_normalization_would_turn_other_text_into_symbols():
    with pytest.raises(InputError, match=r"need normalization=none.*Received: normalization=nfkc"):
        SubwordTokenizer.train_from_lines(LINES, 400, "bpe", "nfkc", user_symbols=["<b>"])


def test_more_symbols_than_the_vocabulary_holds_are_refused():
    symbols = [f"<{number}>" for number in range(100)]
    with pytest.raises(InputError, match=r"256 bytes, 100 symbols and the characters.*needs \d+"):
        SubwordTokenizer.train_from_lines(LINES, 300, user_symbols=symbols)
