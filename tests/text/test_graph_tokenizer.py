"""SentencePiece models in the TensorFlow graph."""

import keras
import pytest

from keras_transformer.text import graph_tokenizer
from keras_transformer.text.graph_tokenizer import GraphTokenizer
from keras_transformer.text.marian_tokenizer import SPECIAL_PIECES, MarianTokenizer
from keras_transformer.text.subword_tokenizer import SubwordTokenizer

LINES = ["a b", "b c d", "", "d a"]
ONE = SubwordTokenizer.train_from_lines(["a b a b a b"], 300)
OTHER = SubwordTokenizer.train_from_lines(["b c d b c d b c d"], 300)


def pieces_of(tokenizer):
    """Returns the pieces of LINES as the Python library splits them."""
    return [tokenizer.pieces(ids) for ids in tokenizer.encode(LINES)]


def exported(folder, tokenizers):
    """Exports a signature for each tokenizer, and loads them again."""
    import tensorflow as tf

    module = tf.Module()
    module.tokenizers = [tokenizer.trackable for tokenizer in tokenizers.values()]
    signatures = {
        name: tf.function(
            lambda text, tokenizer=tokenizer: tokenizer.tokenize(text).to_tensor(),
            input_signature=[tf.TensorSpec([None], tf.string)],
        ).get_concrete_function()
        for name, tokenizer in tokenizers.items()
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return tf.saved_model.load(str(folder)).signatures


def answer(signature):
    import tensorflow as tf

    [rows] = signature(tf.constant(LINES)).values()
    return [[piece for piece in row if piece] for row in rows.numpy().tolist()]


def test_sub_words_are_ids_or_strings():
    ids = GraphTokenizer(ONE.serialized_model)
    strings = GraphTokenizer(ONE.serialized_model, as_text=True)
    assert ids.tokenize(LINES).to_list() == ONE.encode(LINES)
    found = [[piece.decode() for piece in row] for row in strings.tokenize(LINES).to_list()]
    assert found == pieces_of(ONE)
    for tokenizer in (ids, strings):
        texts = tokenizer.detokenize(tokenizer.tokenize(LINES))
        assert [text.decode() for text in texts.numpy()] == LINES


def test_two_models_in_one_export_keep_their_own_pieces(tmp_path):
    """TensorFlow Text gives kernels of one name the same model."""
    assert ONE.encode(LINES) != OTHER.encode(LINES)
    signatures = exported(
        tmp_path,
        {
            "one": GraphTokenizer(ONE.serialized_model),
            "other": GraphTokenizer(OTHER.serialized_model),
        },
    )
    assert answer(signatures["one"]) == ONE.encode(LINES)
    assert answer(signatures["other"]) == OTHER.encode(LINES)


def test_one_model_gives_ids_and_strings_in_one_export(tmp_path):
    signatures = exported(
        tmp_path,
        {
            "ids": GraphTokenizer(ONE.serialized_model),
            "strings": GraphTokenizer(ONE.serialized_model, as_text=True),
        },
    )
    assert answer(signatures["ids"]) == ONE.encode(LINES)
    found = [[piece.decode() for piece in row] for row in answer(signatures["strings"])]
    assert found == pieces_of(ONE)


def test_the_tokenizer_is_made_once_and_outlives_the_function_that_made_it():
    import tensorflow as tf

    tokenizer = GraphTokenizer(ONE.serialized_model)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def traced(text):
        return tokenizer.tokenize(text)

    assert traced(tf.constant(LINES)).to_list() == ONE.encode(LINES)
    assert tokenizer.trackable is tokenizer.trackable
    assert tokenizer.tokenize(LINES).to_list() == ONE.encode(LINES)


def test_a_dropped_kernel_is_made_anew():
    vocabulary = (*SPECIAL_PIECES, *ONE.pieces(range(260, ONE.vocabulary_size)))
    marian = MarianTokenizer(ONE.serialized_model, vocabulary)
    tokenizer = GraphTokenizer(ONE.serialized_model)
    ids = tokenizer.tokenize(LINES)
    marian_ids = marian.tokenize(LINES)
    keras.utils.set_random_seed(3)
    texts = tokenizer.detokenize(ids)
    assert [text.decode() for text in texts.numpy()] == LINES
    keras.utils.set_random_seed(3)
    assert tokenizer.tokenize(LINES).to_list() == ids.to_list()
    assert marian.tokenize(LINES).to_list() == marian_ids.to_list() == marian.encode(LINES)


def test_a_forked_process_is_told_not_to_use_tensorflow(monkeypatch):
    def refuse():
        raise RuntimeError("forked")

    monkeypatch.setattr(graph_tokenizer, "check_not_forked", refuse)
    tokenizer = GraphTokenizer(ONE.serialized_model)
    with pytest.raises(RuntimeError, match="forked"):
        tokenizer.tokenize(LINES)
