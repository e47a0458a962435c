"""An export in TensorFlow Serving itself, where it is installed."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.export.served import assert_n_best
from tests.random_models import TEXTS

SERVER = os.environ.get("TENSORFLOW_MODEL_SERVER") or shutil.which("tensorflow_model_server")

pytestmark = pytest.mark.skipif(
    SERVER is None,
    reason="there is no tensorflow_model_server: put it on PATH, or name it in"
    " TENSORFLOW_MODEL_SERVER",
)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def address(exported, tmp_path_factory):
    rest_port = free_port()
    log_path = tmp_path_factory.mktemp("serving") / "log"
    arguments = [
        f"--rest_api_port={rest_port}",
        f"--port={free_port()}",
        "--model_name=non-sense",
        f"--model_base_path={Path(exported).parent}",
    ]
    with log_path.open("w") as log, subprocess.Popen([SERVER, *arguments], stderr=log) as server:
        try:
            address = f"http://127.0.0.1:{rest_port}/v1/models/non-sense"
            for _ in range(600):
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    [version] = json.load(urllib.request.urlopen(address))["model_version_status"]
                    if version["state"] == "AVAILABLE":
                        break
                assert server.poll() is None, log_path.read_text()[-2000:]
                time.sleep(0.1)
            else:
                pytest.fail(f"not available in a minute: {log_path.read_text()[-2000:]}")
            yield address
        finally:
            server.terminate()


def predict(address, signature, **inputs):
    """Returns the answer by column: one list for each output."""
    body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    with urllib.request.urlopen(f"{address}:predict", body) as response:
        return json.load(response)["outputs"]


@pytest.mark.parametrize(("signature", "beam_size"), [("serving_default", 3), ("greedy", 1)])
def test_tensorflow_serving_translates_like_the_live_translator(
    address, served_translator, signature, beam_size
):
    answer = predict(address, signature, text=TEXTS)
    live = [best for [best] in served_translator.n_best(TEXTS, 1, beam_size=beam_size)]
    assert answer["translation"] == [text for text, _ in live]
    np.testing.assert_allclose(answer["score"], [score for _, score in live], rtol=1e-4)


def test_tensorflow_serving_gives_the_live_translators_n_best_lists(address, served_translator):
    answer = predict(address, "n_best", text=["a man", ""])
    assert_n_best(answer, served_translator.n_best(["a man", ""], 3))


def test_tensorflow_serving_uses_prefixes_like_the_live_translator(address, served_translator):
    texts, prefixes = ["a man", "snow", ""], ["the ", "", "a"]
    answer = predict(address, "n_best_from_prefix", text=texts, prefix=prefixes)
    live = served_translator.n_best(texts, 3, prefixes=prefixes)
    assert_n_best(answer, live)


def test_tensorflow_serving_gives_the_live_translators_scores_and_attention(
    address, served_translator
):
    pair = {"source": ["a man rides"], "target": ["two dogs"]}
    answer = predict(address, "score", **pair)
    [(log_probability, num_tokens)] = served_translator.score(*pair.values())
    assert answer["num_tokens"] == [num_tokens]
    assert answer["log_probability"] == [pytest.approx(log_probability, rel=1e-4)]
    answer = predict(address, "attention", **pair)
    live = served_translator.attention("a man rides", "two dogs")
    assert answer["source_tokens"] == [live.source_tokens]
    assert answer["target_tokens"] == [live.target_tokens]
    np.testing.assert_allclose(answer["weights"], [live.weights], atol=1e-5)


def test_tensorflow_serving_refuses_pairs_that_cannot_be_scored_with_a_message(address):
    with pytest.raises(urllib.error.HTTPError) as refusal:
        predict(address, "score", source=["snow " * 50], target=["a"])
    assert refusal.value.code == 400
    assert "must have at most 40 tokens" in json.load(refusal.value)["error"]
