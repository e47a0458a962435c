"""A SavedModel with predictable answers, which are texts in capitals, and a client for it.

The client uses only the standard library, as users' clients may.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import tensorflow as tf

REFUSED = "refuse me"
SLOW_TURNS = 10_000  # about 20 ms


def export_shouting(folder, number, prefix=""):
    """Writes a version atomically; its signatures have the shapes of a translator's export."""

    def signature(*names):
        inputs = [tf.TensorSpec([None], tf.string, name=name) for name in names]
        return lambda function: tf.function(function, input_signature=inputs)

    def loud(text):
        fine = tf.reduce_all(text != REFUSED)
        with tf.control_dependencies([tf.debugging.Assert(fine, ["This text is refused."])]):
            return tf.strings.join([prefix, tf.strings.upper(text, encoding="utf-8")])

    def length(text):
        return tf.cast(tf.strings.length(text), tf.float32)

    @signature("text")
    def shout(text):
        return {"translation": loud(text), "score": -length(text) / 10}

    @signature("text")
    def only_text(text):
        return {"translation": loud(text)}

    @signature("text")
    def n_best(text):
        both = tf.stack([loud(text), text], axis=1)
        return {"translations": both, "scores": tf.stack([length(text), -length(text)], axis=1)}

    @signature("source", "target")
    def score(source, target):
        length_of_both = tf.strings.length(source) + tf.strings.length(target)
        return {"log_probability": -length(target), "num_tokens": length_of_both}

    @signature("text")
    def letters(text):
        return {"letters": tf.strings.bytes_split(text).to_tensor("")}

    @signature("text")
    def raw(text):
        return {"raw_bytes": text, "raw": text}

    @signature("text")
    def slow(text):  # takes as long for one text as for many
        turns = tf.while_loop(lambda i: i < SLOW_TURNS, lambda i: i + 1, [0])
        return {"translation": loud(text), "turns": tf.fill(tf.shape(text), turns[0])}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="numbers")])
    def divided(numbers):
        return {"quotient": numbers[:, 0] / numbers[:, 1]}

    module = tf.Module()
    functions = {
        "serving_default": shout,
        "only_text": only_text,
        "n_best": n_best,
        "score": score,
        "letters": letters,
        "raw": raw,
        "slow": slow,
        "divided": divided,
    }
    module.functions = list(functions.values())
    unfinished = Path(folder) / f".unfinished-{number}"
    tf.saved_model.save(module, str(unfinished), functions)
    unfinished.replace(Path(folder) / str(number))


def start_server(folder, *options):
    """Starts a server; returns its process and its address once it is ready."""
    command = [sys.executable, "-m", "training.serve", str(folder), "--port=0", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    server.told = []
    for line in server.stdout:
        server.told.append(line)
        if line.startswith("serving "):
            return server, line.split()[1]
    raise RuntimeError(f"{server.stderr.read()} after {server.told}")


def ask(address, document=None, *, body=None, method=None, headers=None):
    """The status and JSON of an answer; a POST if there is a body."""
    if document is not None:
        body = json.dumps(document).encode()
    request = urllib.request.Request(address, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
