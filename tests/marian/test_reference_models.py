"""Imports answer as the programs that trained the models; see models/README.md."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from keras_transformer.errors import InputError
from keras_transformer.marian.import_marian import import_marian
from tests.marian.folders import HUGGING_FACE, MODELS, tensors_in
from tests.marian.torch_files import write_torch_file

OPUS_TOKENIZER = "opus_en_mg_tokenizer"


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def joined(pieces):
    return pieces.replace(" ", "").replace("\u2581", " ").strip()


def ids_of(pieces, tokenizer):
    """Returns the ids of pieces that are separated by spaces, and the end id."""
    ids = {piece: token_id for token_id, piece in enumerate(tokenizer.vocabulary)}
    return [*(ids.get(piece, 1) for piece in pieces.split()), 3]


def word_scores(translator, source, target):
    source_ids = ids_of(source, translator.tokenizer.source)
    target_ids = ids_of(target, translator.tokenizer.target)
    inputs = {
        "source_ids": np.array([source_ids]),
        "target_ids": np.array([[2, *target_ids[:-1]]]),
    }
    of_tokens = ops.convert_to_numpy(ops.log_softmax(translator.model(inputs)))[0]
    return of_tokens[range(len(target_ids)), target_ids]


@pytest.mark.parametrize("name", ["post", "pre", "separate"])
def test_word_scores_are_those_of_marian(name):
    folder = MODELS / name
    translator = import_marian(folder)
    references = lines_of(folder / "scores.txt")
    pairs = zip(lines_of(folder / "scored.fr"), lines_of(folder / "scored.en"), strict=True)
    for pair, reference in zip(pairs, references, strict=True):
        expected = [float(number) for number in reference.split("WordScores=")[1].split()]
        np.testing.assert_allclose(word_scores(translator, *pair), expected, atol=2e-5)


def test_translations_from_pieces_are_those_of_marian():
    folder = MODELS / "post"
    translator = import_marian(folder, beam_size=4, length_penalty=1.0)
    texts = lines_of(folder / "text.fr")
    assert translator.translate(texts, beam_size=1) == list(
        map(joined, lines_of(folder / "greedy.pieces"))
    )
    best = {}
    for line in lines_of(folder / "nbest"):
        number, pieces, *_, score = line.split(" ||| ")
        best.setdefault(int(number), (joined(pieces), float(score)))
    found = translator.n_best(texts, 1)
    assert [results[0][0] for results in found] == [text for text, _ in best.values()]
    scores = [results[0][1] for results in found]
    np.testing.assert_allclose(scores, [score for _, score in best.values()], atol=1e-5)


def test_translations_of_raw_text_are_those_of_marian():
    """The model's own decoder.yml asks for `normalize: 1` and 8 beams."""
    folder = MODELS / "spm"
    translator = import_marian(folder)
    assert (translator.beam_size, translator.length_penalty) == (8, 1.0)
    assert translator.length_normalization == "length"
    texts = lines_of(folder / "text.fr")
    assert translator.translate(texts, beam_size=1) == lines_of(folder / "greedy")
    assert translator(texts) == lines_of(folder / "beam")


def test_a_model_of_an_unsupported_kind_is_refused_by_name():
    with pytest.raises(InputError, match=r"Received: transformer-decoder-autoreg: rnn\."):
        import_marian(MODELS / "ssru")


@pytest.fixture(scope="module")
def reference():
    with np.load(HUGGING_FACE / "reference.npz") as arrays:
        return dict(arrays)


def as_pytorch_saves_it(folder, is_archive):
    tensors = tensors_in(folder / "model.safetensors")
    write_torch_file(folder / "pytorch_model.bin", tensors, is_archive=is_archive)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("kind", ["safetensors", "archive", "legacy"])
def test_logits_are_those_of_hugging_face(kind, reference, hugging_face_folder):
    if kind != "safetensors":
        as_pytorch_saves_it(hugging_face_folder, is_archive=kind == "archive")
    translator = import_marian(hugging_face_folder)
    pieces = sorted(
        json.loads((HUGGING_FACE / "vocab.json").read_text()).items(), key=lambda x: x[1]
    )
    ours = {
        piece: token_id for token_id, piece in enumerate(translator.tokenizer.target.vocabulary)
    }
    order = np.array([ours[piece] for piece, _ in pieces])
    source_ids, labels = order[reference["source_ids"]], order[reference["target_ids"]]
    target_ids = np.insert(labels, 0, 2, axis=1)[:, :-1]
    logits = ops.convert_to_numpy(
        translator.model({"source_ids": source_ids, "target_ids": target_ids})
    )
    is_token = labels != 0
    without_padding = order[:-1]
    np.testing.assert_allclose(
        logits[:, :, without_padding][is_token], reference["logits"][:, :, :-1][is_token], atol=2e-5
    )


def test_translations_are_those_of_hugging_face(reference):
    """They were made with a limit of 40 ids, of which the first is the start."""
    translator = import_marian(HUGGING_FACE, max_target_tokens=39)
    texts = reference["src"].tolist()
    assert translator.beam_size == 4
    assert translator.translate(texts, beam_size=1) == reference["greedy"].tolist()
    assert translator(texts) == reference["beam"].tolist()


@pytest.mark.skipif(
    not os.environ.get("MARIAN_DIR"), reason="MARIAN_DIR names no folder of reference models"
)
def test_the_tokenizer_of_an_opus_mt_model_splits_text_as_hugging_face_does(tmp_path):
    """All but three of 1,609 lines, two of which differ on purpose."""
    import tensorflow as tf

    from keras_transformer.marian.foreign_model import Vocabulary
    from keras_transformer.text.marian_tokenizer import MarianTokenizer

    folder = Path(os.environ["MARIAN_DIR"]) / OPUS_TOKENIZER
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    vocabulary = Vocabulary.of(ids, start_row=ids["<pad>"])
    tokenizer = MarianTokenizer((folder / "source.spm").read_bytes(), vocabulary.pieces)
    theirs = json.loads((folder / "hugging_face_ids.json").read_text(encoding="utf-8"))
    lines = theirs["lines"]
    ours = {row: token_id for token_id, row in enumerate(vocabulary.rows)}
    expected = [[ours[row] for row in rows[:-1]] for rows in theirs["ids"]]  # without the end

    module = tf.Module()
    module.tokenizer = tokenizer.trackables
    function = tf.function(
        lambda text: tokenizer.tokenize(text).to_tensor(),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    signatures = {"tokenize": function.get_concrete_function()}
    tf.saved_model.save(module, str(tmp_path), signatures=signatures)
    [rows] = tf.saved_model.load(str(tmp_path)).signatures["tokenize"](tf.constant(lines)).values()
    in_graph = [[token_id for token_id in row if token_id] for row in rows.numpy().tolist()]
    for encoded, most in ((tokenizer.encode(lines), 2), (in_graph, 3)):
        different = [
            line for line, one, other in zip(lines, encoded, expected, strict=True) if one != other
        ]
        assert len(different) <= most
        on_purpose = [line for line in different if re.search(r">>fra<<|</s>", line)]
        assert len(on_purpose) == 2
