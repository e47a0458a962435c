"""Translates with an exported version in a process that has nothing of this project.

    python -I training/serving/fresh_process.py saved_models/demo/1 < texts.json > answers.json

Texts are a JSON list of strings, answers a list of [translation, score]. Python's own loader
forgives exports that TensorFlow Serving cannot run, since it can rebuild what is missing from the
objects beside the graph. So this loads as Serving does: the graph alone, into a session.
"""

import json
import sys
from collections.abc import Iterator

TEXTS_AT_ONCE = 100

# What an export must do without. Python's -I alone would not keep them out, since the package is
# installed. Keras stays: TensorFlow itself imports it.
BLOCKED = ("keras_transformer", "training", "sentencepiece")


def block_imports() -> None:
    """Makes importing them raise ImportError, as if they had never been installed."""
    for name in BLOCKED:
        sys.modules[name] = None


def answers(version: str, texts: list[str]) -> Iterator[tuple[str, float]]:
    """Yields the translation of each text and its score, by the signature `serving_default`.

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
