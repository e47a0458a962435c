"""Translates with an exported version in a process that cannot import this project.

    python -I training/serving/fresh_process.py saved_models/demo/1 < texts.json > answers.json

Texts are a JSON list of strings, answers a list of [translation, score]. TensorFlow's Python loader
accepts exports that TensorFlow Serving cannot run, because it rebuilds missing parts from the
objects stored beside the graph. So this script loads as Serving does: only the graph, in a session.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence

TEXTS_AT_ONCE = 100

# Packages that an export must not need. Python's -I alone would not keep them out, since they are
# installed. Keras stays: TensorFlow itself imports it.
BLOCKED = ("keras_transformer", "training", "sentencepiece")


def ask_fresh_process(version: str, texts: Sequence[str]) -> list[tuple[str, float]]:
    """Returns each text's translation and score, from a process that cannot import this project.

    In a process that can import it, an export that wrongly depends on it would work, and fail only
    when served.

    Raises:
        RuntimeError: If the process fails; the message is what it wrote to stderr.
    """
    return [tuple(answer) for answer in run_isolated(__file__, version, job=list(texts))]


def run_isolated(script: str, *arguments: str, job, timeout_seconds: float | None = None):
    """Runs a script without PYTHONPATH, sends it a job and returns its answer, both as JSON.

    Raises:
        RuntimeError: If the script fails; the message is what it wrote to stderr.
    """
    finished = subprocess.run(
        [sys.executable, "-I", script, *arguments],
        input=json.dumps(job),
        capture_output=True,
        encoding="utf-8",
        timeout=timeout_seconds,
    )
    if finished.returncode != 0:
        raise RuntimeError(finished.stderr.strip() or "nothing")
    return json.loads(finished.stdout)


def block_imports() -> None:
    """Makes imports of the blocked packages fail, as if they were not installed."""
    for name in BLOCKED:
        sys.modules[name] = None


def answers(version: str, texts: list[str]) -> Iterator[tuple[str, float]]:
    """Yields each text's translation and score, from the signature `serving_default`.

    Args:
        version: The folder of one version of an export.
        texts: Any number of texts.
    """
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the SentencePiece ops

    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        export = tf.compat.v1.saved_model.load(session, ["serve"], version)
        signature = export.signature_def["serving_default"]
        text = signature.inputs["text"].name
        outputs = [signature.outputs[name].name for name in ("translation", "score")]
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            feed = {text: texts[start : start + TEXTS_AT_ONCE]}
            for translation, score in zip(*session.run(outputs, feed), strict=True):
                yield translation.decode("utf-8"), float(score)


if __name__ == "__main__":
    block_imports()
    json.dump(list(answers(sys.argv[1], json.load(sys.stdin))), sys.stdout)
