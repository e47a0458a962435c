"""Translators and tokenizers in other processes: pickled, or refused in a fork."""

import copy
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_transformer.data.batches import PairBatches
from keras_transformer.decoding.precision import PRECISIONS
from keras_transformer.translator import Translator
from tests.random_models import TENSORFLOW_ONLY, TEXTS, settings_of

ROOT = Path(__file__).parent.parent
WAYS = {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "deepcopy": copy.deepcopy}
HANGS = r"cannot work in a process forked from one that has used them\. Received: process \d+, .*"

way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@way
@pytest.mark.parametrize("precision", [None, *PRECISIONS])
def test_a_used_translator_translates_the_same_after_pickling(
    random_model, tokenizer, way, precision
):
    options = {"length_penalty": 0.9, "max_source_tokens": 9, "min_target_tokens": 3}
    translator = Translator(random_model, tokenizer, beam_size=2, precision=precision, **options)
    expected = translator.n_best(TEXTS[:3], 2)
    again = way(translator)
    assert again.n_best(TEXTS[:3], 2) == expected
    assert {name: getattr(again, name) for name in options} == options
    assert again.model is not random_model


def test_an_unpickled_translator_can_be_pickled_before_use(served_translator):
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(served_translator))))
    assert again(["snow"]) == served_translator(["snow"])


@way
def test_a_copy_has_its_own_model(served_translator, way):
    again = way(served_translator)
    weights = again.model.get_weights()
    again.model.set_weights([np.zeros_like(weight) for weight in weights])
    for ours, theirs in zip(served_translator.model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@way
@TENSORFLOW_ONLY
def test_a_tokenizer_used_in_a_graph_can_be_pickled(tokenizer, way):
    expected = tokenizer.tokenize(["a red house"]).to_list()
    assert tokenizer.sample(["a red house"], 0.5, seed=1)
    again = way(tokenizer)
    assert again.serialized_model == tokenizer.serialized_model
    assert again.tokenize(["a red house"]).to_list() == expected


@way
def test_batches_can_be_pickled(tokenizer, way):
    batches = PairBatches(TEXTS, TEXTS, tokenizer, 64)
    ids = batches.batch(0, 0)[1]
    np.testing.assert_array_equal(way(batches).batch(0, 0)[1], ids)


def in_a_fork(function, *arguments):
    """Returns or raises what a function does in a fork."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def test_a_fork_refuses_to_translate(served_translator):
    served_translator(["snow"])
    with pytest.raises(RuntimeError, match=f"{HANGS} Start processes with .*spawn"):
        in_a_fork(served_translator, ["snow"])


class Asked:
    """Calls the translator that existed before the fork, without pickling it."""

    translator = None

    def __call__(self, method, *arguments):
        return getattr(self.translator, method)(*arguments)


@pytest.mark.parametrize(
    "question",
    [
        ("translate", ["snow"]),
        ("sample", ["snow"]),
        ("score", ["snow"], ["dog"]),
        ("attention", "snow", "dog"),
        ("attention_by_layer", "snow", "dog"),
    ],
    ids=lambda question: question[0],
)
def test_a_fork_refuses_calls_that_need_the_model(served_translator, monkeypatch, question):
    monkeypatch.setattr(Asked, "translator", served_translator)
    with pytest.raises(RuntimeError, match=HANGS):
        in_a_fork(Asked(), *question)


def read_run(folder):
    return Translator.load(folder)


def test_a_fork_refuses_to_load_a_run(random_model, tokenizer, tmp_path):
    random_model.save(tmp_path / "model.keras")
    tokenizer.save(tmp_path / "tokenizer.model")
    settings = settings_of(random_model, beam_size=1, length_penalty=1, max_source_tokens=9)
    (tmp_path / "config.yaml").write_text(settings)
    with pytest.raises(RuntimeError, match=HANGS):
        in_a_fork(read_run, tmp_path)


def tokenize(tokenizer):
    return tokenizer.tokenize(["snow"]).to_list()


@TENSORFLOW_ONLY
def test_a_fork_refuses_to_tokenize_in_the_graph(tokenizer):
    tokenizer.tokenize(["snow"])
    with pytest.raises(RuntimeError, match=HANGS):
        in_a_fork(tokenize, tokenizer)


def dataset_of(batches):
    return len(list(batches.epochs().dataset()))


@TENSORFLOW_ONLY
def test_a_fork_refuses_to_make_a_dataset(tokenizer):
    with pytest.raises(RuntimeError, match=HANGS):
        in_a_fork(dataset_of, PairBatches(TEXTS, TEXTS, tokenizer, 64))


def round_trip(tokenizer, texts):
    return tokenizer.decode(tokenizer.encode(texts))


def test_a_fork_splits_and_joins_text(tokenizer):
    assert in_a_fork(round_trip, tokenizer, TEXTS) == TEXTS


IN_A_SPAWNED_PROCESS = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    translator = pickle.load(file)
with open(sys.argv[2], "wb") as file:
    pickle.dump(translator.n_best(sys.argv[3:], 2), file)
"""

IN_A_FORK_OF_A_PROCESS_THAT_ONLY_IMPORTED = """
import multiprocessing, pickle, sys
import tensorflow
from keras_transformer.translator import Translator

def translate():
    with open(sys.argv[1], "rb") as file:
        translator = pickle.load(file)
    return translator.n_best(sys.argv[3:], 2)

with multiprocessing.get_context("fork").Pool(1) as pool:
    found = pool.apply(translate)
with open(sys.argv[2], "wb") as file:
    pickle.dump(found, file)
"""


@pytest.mark.slow
@TENSORFLOW_ONLY
@pytest.mark.parametrize(
    "program",
    [IN_A_SPAWNED_PROCESS, IN_A_FORK_OF_A_PROCESS_THAT_ONLY_IMPORTED],
    ids=["spawned", "forked in time"],
)
def test_another_process_translates_the_same(served_translator, tmp_path, program):
    expected = served_translator.n_best(["snow", "a man"], 2)
    (tmp_path / "translator").write_bytes(pickle.dumps(served_translator))
    paths = [str(tmp_path / name) for name in ("translator", "found")]
    arguments = [sys.executable, "-c", program, *paths, "snow", "a man"]
    process = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert process.returncode == 0, process.stderr
    found = pickle.loads((tmp_path / "found").read_bytes())
    assert [[text for text, _ in best] for best in found] == [
        [text for text, _ in best] for best in expected
    ]
