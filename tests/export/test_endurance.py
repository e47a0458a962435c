"""Requests to all signatures leak no memory."""

import json
import subprocess
import sys

import pytest

from keras_transformer.export.saved_model import export_saved_model
from keras_transformer.translator import Translator

FIRST, ALL = 1_000, 20_000

ASKS = """
import json, random, sys
import tensorflow as tf
import tensorflow_text

path, first, num_requests = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
signatures = tf.saved_model.load(path).signatures
chance = random.Random(7)
words = ["snow", "a man", "</s>", "<s><unk>", "\\u2581", "\\0", "\\u05e9\\u05dc\\u05d5\\u05dd",
         "\\U0001f469\\u200d\\U0001f680", " ", "\\n", "two dogs", "\\ufeff"]
counts = {"answered": 0, "refused": 0}

def text():
    if chance.random() < 0.2:
        return chance.randbytes(chance.randint(0, 20))
    return "".join(chance.choices(words, k=chance.randint(0, 8))).encode()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

for number in range(num_requests):
    name = chance.choice(list(signatures))
    size = chance.randint(0, 3)
    takes = list(signatures[name].structured_input_signature[1])
    inputs = {key: [text() for _ in range(size)] for key in takes}
    if number % 500 == 7:
        inputs = {key: [b"x" * 100_000] for key in takes}
    try:
        signatures[name](**{k: tf.constant(v, tf.string, [len(v)]) for k, v in inputs.items()})
        counts["answered"] += 1
    except tf.errors.InvalidArgumentError:
        counts["refused"] += 1
    if number + 1 == first:
        before = resident()
    LEAK
print(json.dumps({**counts, "growth": resident() / before}))
"""


@pytest.fixture(scope="module")
def endured(random_model, tokenizer, tmp_path_factory):
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is read from /proc, which Linux alone has")
    # Short answers: a leak does not depend on the steps of a search.
    translator = Translator(
        random_model, tokenizer, beam_size=2, max_source_tokens=12, max_target_tokens=4
    )
    return export_saved_model(translator, tmp_path_factory.mktemp("endured"))


def asked(path, num_requests, leak="pass"):
    arguments = [str(path), str(FIRST), str(num_requests)]
    finished = subprocess.run(
        [sys.executable, "-c", ASKS.replace("LEAK", leak), *arguments],
        capture_output=True,
        check=True,
        text=True,
        timeout=1500,
    )
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.slow
def test_20_000_requests_take_no_more_memory_than_the_first_1_000(endured):
    found = asked(endured, ALL)
    assert found["answered"] + found["refused"] == ALL
    assert min(found["answered"], found["refused"]) > ALL / 20
    assert found["growth"] < 1.05


@pytest.mark.slow
def test_a_leak_of_four_kilobytes_per_request_would_be_detected(endured):
    # Leaks twenty times as much, in a twentieth of the requests.
    found = asked(endured, 2 * FIRST, "globals().setdefault('kept', []).append(b'1' * 80_000)")
    assert found["growth"] > 1.05
