"""Translates a text once with an export, in a process that imports only what the export needs.

    python -I training/benchmarks/text_translation.py < request.json > answer.json

The request has `version` (the folder of a SavedModel, or of CTranslate2), `lines`, `batch`
and `threads`; TensorFlow reads the number of threads from the environment. The first lines are
translated before, to warm up. An error is one line on stderr.
"""

import json
import os
import sys
import time


def answer(request: dict) -> dict:
    """Returns the seconds that all lines took, and their translations."""
    is_saved_model = os.path.exists(os.path.join(request["version"], "saved_model.pb"))
    load = _saved_model if is_saved_model else _ctranslate2
    translate = load(request["version"], request["threads"])
    lines, batch = request["lines"], request["batch"]
    batches = [lines[start : start + batch] for start in range(0, len(lines), batch)]
    for few in batches[: max(1, 64 // batch)]:
        translate(few)
    start = time.perf_counter()
    translations = [text for few in batches for text in translate(few)]
    return {"seconds": time.perf_counter() - start, "translations": translations}


def _saved_model(version: str, _: int):
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the SentencePiece ops

    signature = tf.saved_model.load(version).signatures["serving_default"]

    def translate(texts):
        found = signature(text=tf.constant(texts))["translation"].numpy()
        return [text.decode() for text in found]

    return translate


def _ctranslate2(folder: str, threads: int):
    import ctranslate2
    import sentencepiece

    source, target = (
        sentencepiece.SentencePieceProcessor(os.path.join(folder, f"{side}.spm"))
        for side in ("source", "target")
    )
    with open(os.path.join(folder, "options.json"), encoding="utf-8") as file:
        options = json.load(file)
    translator = ctranslate2.Translator(folder, inter_threads=1, intra_threads=threads)

    def translate(texts):
        results = translator.translate_batch(source.encode(texts, out_type=str), **options)
        return [target.decode(result.hypotheses[0]) for result in results]

    return translate


if __name__ == "__main__":
    try:
        result = answer(json.load(sys.stdin))
    except Exception as error:  # the libraries raise many kinds of errors, with many lines
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    json.dump(result, sys.stdout)
