"""Unneeded objects release their graphs, and with them the memory.

The slow tests measure separate processes, whose memory may grow by at most 30 MiB after the first
five rounds. Each leaked graph would be several MiB.
"""

import gc
import os
import shutil
import subprocess
import sys
import time
import weakref

import pytest

from keras_transformer.export.saved_model import export_saved_model
from keras_transformer.losses import LabelSmoothedCrossentropy
from keras_transformer.optimizers import paper_adam
from keras_transformer.translator import Translator
from tests.memory_scenarios import mebibytes_after_each_round, resident_mebibytes, small_translator
from tests.random_models import TENSORFLOW_ONLY, random_ids, random_transformer, small_config

pytestmark = TENSORFLOW_ONLY

MOST_MEBIBYTES = 30
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc shows the memory of a process")


ALONE = "TEST_GRAPHS_ALONE"
alone = pytest.mark.skipif(
    ALONE not in os.environ, reason="run in a process of its own, by the test of that name"
)


@pytest.mark.slow
def test_graphs_are_released_in_a_process_of_their_own():
    """In one process with all other tests, what these leave behind keeps new graphs alive."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    process = subprocess.run(
        [*command, "-k", "releases_its", __file__],
        env={**os.environ, ALONE: "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert "3 passed" in process.stdout, process.stdout


def num_graphs():
    gc.collect()
    return sum(type(thing).__name__ == "FuncGraph" for thing in gc.get_objects())


@alone
def test_a_translator_releases_its_graphs_and_its_copy(random_model, tokenizer):
    before = num_graphs()
    translator = Translator(random_model, tokenizer, beam_size=2, precision="int8")
    translator.n_best(["snow"], 2)
    translator.sample(["snow"], top_k=3)
    translator.score(["snow"], ["dog"])
    copy = weakref.ref(translator.fast_model)
    assert num_graphs() > before
    del translator
    assert num_graphs() == before
    assert copy() is None


@alone
def test_a_trained_model_releases_its_graphs():
    before = num_graphs()
    model = random_transformer(small_config())
    model.compile(paper_adam(12), LabelSmoothedCrossentropy())
    inputs = {"source_ids": random_ids(4, 5), "target_ids": random_ids(4, 7)}
    model.fit(inputs, inputs["target_ids"], verbose=0)
    assert num_graphs() > before
    del model
    assert num_graphs() == before


@alone
def test_a_loaded_export_releases_its_graphs(exported):
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the SentencePiece ops

    before = num_graphs()
    loaded = tf.saved_model.load(exported)
    loaded.signatures["greedy"](text=tf.constant(["snow"]))
    assert num_graphs() > before
    del loaded
    assert num_graphs() == before


def test_no_graph_of_an_export_holds_a_gradient(exported):
    """Each load would register it again; here the export holds the model itself, not a copy."""
    from tensorflow.core.protobuf import saved_model_pb2

    with open(f"{exported}/saved_model.pb", "rb") as file:
        saved = saved_model_pb2.SavedModel.FromString(file.read())
    [meta_graph] = saved.meta_graphs
    library = meta_graph.graph_def.library
    nodes = [node for function in library.function for node in function.node_def]
    assert nodes
    assert not any("_gradient_op_type" in node.attr for node in nodes)
    assert not library.registered_gradients


@on_linux
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "scenario, rounds",
    [("translators", 50), ("temperatures", 60), ("loads", 100), ("exports", 12), ("trainings", 20)],
)
def test_repeated_work_needs_no_more_memory(scenario, rounds, tmp_path):
    held = mebibytes_after_each_round(scenario, rounds, tmp_path)
    assert len(held) == rounds
    assert max(held[5:]) - held[4] < MOST_MEBIBYTES, held


@on_linux
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_releases_versions_that_have_ended(tmp_path):
    pytest.importorskip("starlette", reason="the extra `serve` is not installed")
    from tests.training.serving.shouting import ask, start_server

    folder = tmp_path / "served"
    folder.mkdir()
    version = export_saved_model(small_translator(precision="float32"), tmp_path / "exports")
    shutil.copytree(version, folder / "1")
    server, address = start_server(folder, "--poll-seconds=0.2")

    def has_ended(number):
        _, answer = ask(address)
        states = {int(v["version"]): v["state"] for v in answer["model_version_status"]}
        return states[number] == "END"

    held = []
    try:
        for number in range(2, 22):
            shutil.copytree(version, folder / ".copy")
            (folder / ".copy").rename(folder / str(number))
            deadline = time.monotonic() + 300
            while not has_ended(number - 1):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            held.append(resident_mebibytes(server.pid))
    finally:
        server.kill()
        server.wait(60)
    assert max(held[5:]) - held[4] < MOST_MEBIBYTES, held
