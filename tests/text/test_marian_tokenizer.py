"""The tokenizer of an imported model, in Python and in the graph."""

import copy
import json
import pickle

import pytest
import sentencepiece

from keras_transformer.errors import InputError
from keras_transformer.marian.foreign_model import Vocabulary
from keras_transformer.text.marian_tokenizer import SPECIAL_PIECES, MarianTokenizer
from tests.marian.folders import HUGGING_FACE, MODELS

LINES = [
    "L'ours cherche une pomme en août ?",
    "  deux  espaces et\tun onglet ",
    "",
    " ",
    "Ωmega, 日本 and 🚲",
    "</s> <unk> <pad> \u2581",
    "une\nligne\r\net une autre",
    "caf\u00e9 cafe\u0301 \ufb01n",
    "x" * 300,
]
TAGGED = [
    ">>eng<< La maison",
    ">>deu<<La maison",
    ">>xxx<< La maison",
    "La >>eng<< maison",
    ">>eng<<",
]


@pytest.fixture(scope="module")
def tagged():
    """The source side of a model of Hugging Face, with language tags."""
    ids = json.loads((HUGGING_FACE / "vocab.json").read_text(encoding="utf-8"))
    vocabulary = Vocabulary.of(ids, start_row=ids["<pad>"])
    return MarianTokenizer((HUGGING_FACE / "source.spm").read_bytes(), vocabulary.pieces)


@pytest.fixture(scope="module")
def spelling():
    """A side with byte fallback: every character can be spelled."""
    data = (MODELS / "spm" / "joint.spm").read_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    rows = {processor.id_to_piece(row): row for row in range(processor.get_piece_size())}
    return MarianTokenizer(data, Vocabulary.of(rows).pieces)


def test_pieces_are_those_of_sentencepiece(tagged):
    processor = sentencepiece.SentencePieceProcessor(model_proto=tagged.serialized_model)
    for line in LINES:
        expected = processor.encode(line, out_type=str)
        found = tagged.pieces(tagged.encode(line))
        assert len(found) == len(expected)
        for piece, known in zip(expected, found, strict=True):
            assert known == (piece if piece in tagged.vocabulary[4:] else "<unk>")


def test_a_language_tag_at_the_beginning_is_one_id(tagged):
    with_tag, directly, unknown, inside, alone = tagged.encode(TAGGED)
    house = tagged.encode("La maison")
    assert with_tag == [tagged.vocabulary.index(">>eng<<"), *house]
    assert directly == [tagged.vocabulary.index(">>deu<<"), *house]
    assert alone == [tagged.vocabulary.index(">>eng<<")]
    for ids in (unknown, inside):
        assert not any(piece.startswith(">>") for piece in tagged.pieces(ids))


def test_text_cannot_spell_the_special_sub_words(tagged, spelling):
    for tokenizer in (tagged, spelling):
        ids = tokenizer.encode("</s><s><pad>")
        assert not {0, 2, 3} & {*ids}


def test_byte_fallback_keeps_every_character(spelling):
    assert spelling.decode(spelling.encode("Ωmega, 日本 and 🚲")) == "Ωmega, 日本 and 🚲"


def test_decoding_joins_pieces_and_drops_special_ids(tagged):
    ids = tagged.encode("La maison")
    assert tagged.decode([2, *ids, 3, 0, 0]) == "La maison"
    assert tagged.decode([ids, [], [3]]) == ["La maison", "", ""]
    assert tagged.decode([]) == ""
    assert tagged.decode([1]) == "\u2047"


@pytest.mark.parametrize("name", ["tagged", "spelling"])
@pytest.mark.parametrize("punctuation", [None, "fr"])
def test_the_reloaded_graph_is_equal(name, punctuation, request, tmp_path):
    import tensorflow as tf

    tokenizer = request.getfixturevalue(name)
    tokenizer = MarianTokenizer(
        tokenizer.serialized_model, tokenizer.vocabulary, punctuation=punctuation
    )
    # Pythons' re and TensorFlow's regular expressions differ in what a NUL may be followed by.
    lines = [*LINES, *TAGGED, "« Oui », dit-il… à 10\u00a0% — “non” ?"]
    module = tf.Module()
    module.tokenizer = tokenizer.trackables
    tokenize = tf.function(
        lambda text: tokenizer.tokenize(text).to_tensor(), [tf.TensorSpec([None], tf.string)]
    )
    detokenize = tf.function(tokenizer.detokenize, [tf.TensorSpec([None, None], tf.int32)])
    signatures = {
        "tokenize": tokenize.get_concrete_function(),
        "detokenize": detokenize.get_concrete_function(),
    }
    tf.saved_model.save(module, str(tmp_path), signatures=signatures)
    loaded = tf.saved_model.load(str(tmp_path)).signatures
    [rows] = loaded["tokenize"](tf.constant(lines)).values()
    encoded = tokenizer.encode(lines)
    assert [[i for i in row if i] for row in rows.numpy().tolist()] == encoded
    [texts] = loaded["detokenize"](rows).values()
    assert [text.decode() for text in texts.numpy()] == tokenizer.decode(encoded)


def test_normalizing_shows_what_the_tokenizer_reads(tagged):
    fluent = MarianTokenizer(tagged.serialized_model, tagged.vocabulary, punctuation="fr")
    assert tagged.normalize("  La   maison ") == "La maison"
    assert tagged.normalize(["La  maison", ""]) == ["La maison", ""]
    assert tagged.normalize([]) == []
    assert fluent.normalize("l\u2019ours") == tagged.normalize("l'ours")
    assert fluent.normalize("¿") == fluent.decode([MarianTokenizer.unknown_id])


def test_copies_and_pickles_are_equal(tagged):
    for twin in (copy.deepcopy(tagged), pickle.loads(pickle.dumps(tagged))):
        assert twin.encode(LINES + TAGGED) == tagged.encode(LINES + TAGGED)


def test_sampling_is_refused(tagged):
    with pytest.raises(
        InputError, match=r"Received: sampling=0\.1, with the tokenizer of a Marian"
    ):
        tagged.sample(["a"], 0.1, seed=1)


@pytest.mark.parametrize("text", [7, ["a", 7], "\ud800", ["\ud800"]])
def test_what_is_not_text_is_refused(tagged, text):
    with pytest.raises(InputError, match="text must be a string"):
        tagged.encode(text)


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_ids_outside_the_vocabulary_are_refused(tagged, token_id):
    for use in (tagged.id_to_piece, lambda token_id: tagged.decode([token_id])):
        with pytest.raises(InputError, match="less than the vocabulary size"):
            use(token_id)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (("a", "b", "c", "d", "e"), "the first pieces"),
        (SPECIAL_PIECES, "4 pieces"),
        ((*SPECIAL_PIECES, ""), "an empty piece"),
        ((*SPECIAL_PIECES, "a", "b", "a"), "the piece 'a' twice"),
        ((*SPECIAL_PIECES, 7), "the piece 7"),
        ((*SPECIAL_PIECES, "\ud800"), "the piece"),
        ((*SPECIAL_PIECES, "x" * 1001), "the piece"),
    ],
)
def test_what_is_not_a_vocabulary_is_refused(tagged, pieces, message):
    with pytest.raises(InputError, match=message):
        MarianTokenizer(tagged.serialized_model, pieces)


def test_a_language_that_is_not_a_code_is_refused(tagged):
    with pytest.raises(InputError, match="Received: punctuation='English'"):
        MarianTokenizer(tagged.serialized_model, tagged.vocabulary, punctuation="English")
