"""Symbols of the user's own: never split, never invented, and kept by the round trip."""

import io
import re

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

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
        (["a\u3000b"], "white space"),
        (["<\u200b>"], "white space"),
        (["\ufeff"], "white space"),
        (["\u2029"], "white space"),
        (["\x00"], "white space, a control character"),
        (["<\x85>"], "white space, a control character"),
        (["\u2581"], "a character of SentencePiece's own"),
        (["\u2585"], "a character of SentencePiece's own"),
        (["\ud800"], "half of a surrogate pair"),
        *([[symbol], "is reserved"] for symbol in ("</s>", "<s>", "<unk>", "<pad>")),
        *([[symbol], "is reserved"] for symbol in ("<0x0A>", "<0x0a>", "<0xFF>")),
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


def test_of_symbols_that_begin_one_another_the_longest_counts():
    import tensorflow as tf

    symbols = ["a" * length for length in range(1, 65)]
    tokenizer = SubwordTokenizer.train_from_lines(LINES, 400, user_symbols=symbols)
    texts = ["a" * length for length in range(1, 200)]
    expected = [["a" * 64] * (len(text) // 64) + [text[64 * (len(text) // 64) :]] for text in texts]
    expected = [[piece for piece in pieces if piece] for pieces in expected]
    assert [tokenizer.pieces(ids) for ids in tokenizer.encode(texts)] == expected
    assert tokenizer.tokenize(tf.constant(texts)).to_list() == tokenizer.encode(texts)
    assert tokenizer.sample(texts, 0.5, seed=1) == tokenizer.encode(texts)


def test_more_symbols_that_begin_one_another_are_refused():
    message = (
        r"at most 64 of them may each begin the next\. Received: 66 symbols of 2,146 bytes, 65 of"
        r" which each begin the next\. Choose"
    )
    symbols = ["b", *("a" * length for length in range(1, 66))]  # 1 + 65 * 66 / 2 bytes
    with pytest.raises(InputError, match=message):
        SubwordTokenizer.train_from_lines(LINES, 400, user_symbols=symbols)


def test_symbols_of_any_size_that_is_learned_can_be_loaded(tmp_path):
    symbols = [f"{number:04}" + "\N{PILE OF POO}" * 95 for number in range(683)]  # 384 bytes each
    with pytest.raises(InputError, match=r"262,144 bytes in all.*683 symbols of 262,272 bytes"):
        SubwordTokenizer.train_from_lines(LINES, 1100, user_symbols=symbols)
    tokenizer = SubwordTokenizer.train_from_lines(LINES, 1100, user_symbols=symbols[:-1])
    tokenizer.save(tmp_path / "tokenizer.model")
    loaded = SubwordTokenizer.load(tmp_path / "tokenizer.model", most_ids=tokenizer.vocabulary_size)
    assert loaded.user_symbols == tuple(symbols[:-1])


@pytest.mark.parametrize("text", ["<0x41>", "</s>", "<pad>", "<unk>", ">>en<<", "e", "\u2581"])
def test_a_model_with_a_symbol_that_is_another_piece_is_refused(tokenizer, text):
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.serialized_model)
    assert text in [piece.piece for piece in model.pieces]
    [symbol] = [piece for piece in model.pieces if piece.piece == ">>de<<"]
    symbol.piece = text
    with pytest.raises(InputError, match="a piece is there twice"):
        SubwordTokenizer(model.SerializeToString())


def test_a_model_with_a_symbol_in_place_of_a_byte_is_refused(tokenizer):
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.serialized_model)
    [byte] = [piece for piece in model.pieces if piece.piece == "<0x41>"]
    byte.type = byte.USER_DEFINED
    with pytest.raises(InputError, match="the pieces for single bytes do not fit"):
        SubwordTokenizer(model.SerializeToString())


def test_normalization_would_turn_other_text_into_symbols():
    with pytest.raises(InputError, match=r"need normalization=none.*Received: normalization=nfkc"):
        SubwordTokenizer.train_from_lines(LINES, 400, "bpe", "nfkc", user_symbols=["<b>"])


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_in_sentencepiece_normalized_text_does_become_a_symbol(model_type):
    """The reason for refusing symbols together with NFKC; without it, they could be allowed."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 5),
        model_writer=model,
        vocab_size=330,
        hard_vocab_limit=False,
        model_type=model_type,
        byte_fallback=True,
        normalization_rule_name="nfkc",
        user_defined_symbols=["<b>"],
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for text in ("\uff1cb\uff1e", "<\uff42>"):
        assert "<b>" in processor.encode(text, out_type=str)


def test_more_symbols_than_the_vocabulary_holds_are_refused():
    symbols = [f"<{number}>" for number in range(100)]
    with pytest.raises(InputError, match=r"256 bytes, 100 symbols and the characters.*needs \d+"):
        SubwordTokenizer.train_from_lines(LINES, 300, user_symbols=symbols)
