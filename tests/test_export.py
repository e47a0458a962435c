import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_transformer.errors import InputError
from keras_transformer.export import export_saved_model, source_ids_in_graph
from keras_transformer.translator import Translator
from tests.random_models import TEXTS, random_transformer, small_config

BLANKS = ["", " ", "\t \n"]
HARD_TEXTS = ["two  spaces ", "tab\tand café", "눈 속의 개", "🚲", "</s> <s>", "snow " * 30]
BATCHES = [[], [""], ["snow"], [*TEXTS, *BLANKS, *HARD_TEXTS]]
BEAM_SIZES = {"serving_default": 3, "greedy": 1}


@pytest.fixture(scope="module")
def translator(random_model, tokenizer):
    return Translator(
        random_model, tokenizer, beam_size=3, length_penalty=0.7, max_source_tokens=40
    )


@pytest.fixture(scope="module")
def exported(translator, tmp_path_factory):
    translator.tokenizer.tokenize([TEXTS[0]])
    keras.utils.set_random_seed(5)  # destroys the tokenizer that was used just now
    return export_saved_model(translator, tmp_path_factory.mktemp("saved_models") / "en-de")


def live_results(translator, batch, beam_size):
    pairs = translator.n_best(batch, 1, beam_size=beam_size)
    return [text for ((text, _),) in pairs], [score for ((_, score),) in pairs]


# What serves it knows TensorFlow and the three SentencePiece ops, and nothing of this project.
IN_A_FRESH_PROCESS = """
import json, sys
import tensorflow as tf
import tensorflow_text

path, batches = sys.argv[1], json.loads(sys.argv[2])
results = []

def keep(loader, signature, translation, score):
    text = [line.decode() for line in translation.tolist()]
    results.append([loader, signature, text, score.tolist()])

loaded = tf.saved_model.load(path)
for name, signature in loaded.signatures.items():
    for batch in batches:
        found = signature(text=tf.constant(batch, tf.string, [len(batch)]))
        keep("tf.saved_model", name, found["translation"].numpy(), found["score"].numpy())

with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    signatures = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def
    for name in ("serving_default", "greedy"):
        outputs = {key: value.name for key, value in signatures[name].outputs.items()}
        for batch in batches:
            found = session.run(outputs, {signatures[name].inputs["text"].name: batch})
            keep("session", name, found["translation"], found["score"])

assert not any(name.startswith("keras_transformer") for name in sys.modules)
json.dump(results, open("results.json", "w"))
"""


@pytest.fixture(scope="module")
def results_of_a_fresh_process(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    arguments = [sys.executable, "-c", IN_A_FRESH_PROCESS, exported, json.dumps(BATCHES)]
    subprocess.run(arguments, cwd=folder, check=True, timeout=250)
    results = json.loads((folder / "results.json").read_text())
    batches = {}
    for loader, signature, texts, scores in results:
        batches.setdefault((loader, signature), []).append((texts, scores))
    return batches


@pytest.mark.parametrize("loader", ["tf.saved_model", "session"])
@pytest.mark.parametrize("signature", BEAM_SIZES)
def test_exported_translations_and_scores_are_those_of_the_live_translator(
    translator, results_of_a_fresh_process, loader, signature
):
    exported = results_of_a_fresh_process[loader, signature]
    for batch, (texts, scores) in zip(BATCHES, exported, strict=True):
        expected_texts, expected_scores = live_results(translator, batch, BEAM_SIZES[signature])
        assert texts == expected_texts
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-4)


@pytest.mark.slow
def test_an_export_in_8_bits_is_the_live_translator_in_8_bits(tokenizer, tmp_path):
    import tensorflow as tf

    # Wide enough for maps of 8 bits: smaller ones stay as they are.
    config = small_config(
        vocabulary_size=tokenizer.vocabulary_size, num_layers=1, model_dim=64, feed_forward_dim=1024
    )
    model = random_transformer(config)
    translator = Translator(model, tokenizer, beam_size=2, precision="int8")
    loaded = tf.saved_model.load(export_saved_model(translator, tmp_path))
    found = loaded.signatures["serving_default"](text=tf.constant(TEXTS))
    expected_texts, expected_scores = live_results(translator, TEXTS, 2)
    assert [text.decode() for text in found["translation"].numpy()] == expected_texts
    np.testing.assert_allclose(found["score"], expected_scores, rtol=1e-4)
    kernels = [k for k in (w.shape for w in model.weights) if np.prod(k) >= 2**16]
    served = [tuple(weight.shape) for weight in loaded.weights]
    assert kernels
    assert not set(kernels) & set(served)  # what is there in 8 bits is not there in 32 as well


def test_source_ids_in_the_graph_are_those_of_the_live_translator(translator):
    texts = [text for text in [*TEXTS, *HARD_TEXTS] if text]
    in_graph = source_ids_in_graph(translator, texts).numpy()
    for row, ids in zip(in_graph, translator._encode(texts), strict=True):
        np.testing.assert_array_equal(row[: len(ids)], ids)
        assert np.all(row[len(ids) :] == 0)


def saved_model(path):
    from tensorflow.core.protobuf import saved_model_pb2

    with open(f"{path}/saved_model.pb", "rb") as file:
        return saved_model_pb2.SavedModel.FromString(file.read())


def test_only_core_ops_and_the_three_of_sentencepiece_are_used(exported):
    import tensorflow as tf

    (meta_graph,) = saved_model(exported).meta_graphs
    library = meta_graph.graph_def.library.function
    bodies = [meta_graph.graph_def.node, *(function.node_def for function in library)]
    ops = {node.op for body in bodies for node in body}
    assert len(ops) > 50
    assert {op for op in ops if not hasattr(tf.raw_ops, op)} == {
        "SentencepieceOp",
        "SentencepieceTokenizeOp",
        "SentencepieceDetokenizeOp",
    }
    assert not any(op.startswith("Xla") for op in ops)


def test_signatures_have_the_documented_names_types_and_free_batch(exported):
    from tensorflow.core.framework import types_pb2

    (meta_graph,) = saved_model(exported).meta_graphs
    for name in BEAM_SIZES:
        signature = meta_graph.signature_def[name]
        described = {
            key: (info.dtype, [axis.size for axis in info.tensor_shape.dim])
            for key, info in [*signature.inputs.items(), *signature.outputs.items()]
        }
        assert described == {
            "text": (types_pb2.DT_STRING, [-1]),
            "translation": (types_pb2.DT_STRING, [-1]),
            "score": (types_pb2.DT_FLOAT, [-1]),
        }


# Folders. Saving takes seconds and is not what these are about: a file stands in for the model.


@pytest.fixture
def saves_at_once(monkeypatch):
    import tensorflow as tf

    def save(module, path, signatures):
        tf.io.gfile.makedirs(path)
        with open(f"{path}/saved_model.pb", "w") as file:
            file.write("whole")

    monkeypatch.setattr(tf.saved_model, "save", save)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.mark.usefixtures("saves_at_once")
def test_versions_are_counted_from_1(translator, tmp_path):
    folder = tmp_path / "not" / "there" / "yet"
    assert export_saved_model(translator, folder) == str(folder / "1")
    assert export_saved_model(translator, str(folder)) == str(folder / "2")
    assert names_in(folder) == ["1", "2"]


@pytest.mark.usefixtures("saves_at_once")
def test_the_number_of_a_deleted_version_is_not_given_again(translator, tmp_path):
    for _ in range(2):
        newest = export_saved_model(translator, tmp_path)
    (tmp_path / "2" / "saved_model.pb").unlink()
    (tmp_path / "2").rmdir()
    assert newest == str(tmp_path / "2")
    assert export_saved_model(translator, tmp_path) == str(tmp_path / "3")
    assert names_in(tmp_path) == ["1", "3"]


@pytest.mark.usefixtures("saves_at_once")
def test_a_version_follows_those_that_others_put_there(translator, tmp_path):
    for name in ("9", "10", "notes"):
        (tmp_path / name).mkdir()
    assert export_saved_model(translator, tmp_path) == str(tmp_path / "11")


@pytest.mark.usefixtures("saves_at_once")
def test_what_a_killed_export_left_is_cleared_away(translator, tmp_path):
    unfinished = tmp_path / ".unfinished"
    unfinished.mkdir()
    (unfinished / "half").write_text("half")
    version = export_saved_model(translator, tmp_path)
    assert names_in(tmp_path) == ["1"]
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["saved_model.pb"]
    assert version == str(tmp_path / "1")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_export_that_fails_leaves_no_version(translator, tmp_path, monkeypatch, error):
    import tensorflow as tf

    def save(module, path, signatures):
        tf.io.gfile.makedirs(path)
        assert names_in(tmp_path) == [".unfinished"]
        raise error("in the middle")

    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(error, match="in the middle"):
        export_saved_model(translator, tmp_path)
    assert names_in(tmp_path) == []


def test_a_second_writer_is_refused(translator, tmp_path, monkeypatch):
    import tensorflow as tf

    def save(module, path, signatures):
        with pytest.raises(InputError, match=r"only one export .* Received: another.* Wait for"):
            export_saved_model(translator, tmp_path)
        tf.io.gfile.makedirs(path)

    monkeypatch.setattr(tf.saved_model, "save", save)
    assert export_saved_model(translator, tmp_path) == str(tmp_path / "1")


def test_a_directory_that_is_a_file_is_refused(translator, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: must be a folder .*Received: .*\. Choose another"):
        export_saved_model(translator, tmp_path / "file")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"highest_version": "many"}'])
def test_a_record_that_is_none_is_refused(translator, tmp_path, content):
    (tmp_path / "versions.json").write_text(content)
    message = r"versions\.json: must hold the highest version\. Received: .* Write"
    with pytest.raises(InputError, match=message):
        export_saved_model(translator, tmp_path)
    assert names_in(tmp_path) == []
