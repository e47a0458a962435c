"""Repeats work that must not leak memory, in a separate process.

    python -m tests.memory_scenarios SCENARIO ROUNDS FOLDER

prints the memory of the process after each round, in MiB, one per line. The scenario may write to
FOLDER.
"""

import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def mebibytes_after_each_round(scenario, rounds, folder):
    """Runs a scenario in a separate process."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.memory_scenarios", scenario, str(rounds), str(folder)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return [float(line) for line in process.stdout.splitlines()]


def resident_mebibytes(process_id="self"):
    status = Path(f"/proc/{process_id}/status").read_text()
    [kibibytes] = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return int(kibibytes) / 1024


def small_model(num_layers=1):
    from tests.random_models import random_transformer, small_config

    return random_transformer(small_config(vocabulary_size=300, num_layers=num_layers))


def small_translator(model=None, **options):
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer
    from keras_transformer.translator import Translator
    from tests.random_models import TEXTS

    tokenizer = SubwordTokenizer.train_from_lines(TEXTS, vocabulary_size=300)
    model = small_model() if model is None else model
    return Translator(model, tokenizer, beam_size=2, max_target_tokens=9, **options)


def translators(folder):
    from keras_transformer.translator import Translator
    from tests.random_models import settings_of

    run = Path(folder)
    translator = small_translator()
    translator.model.save(run / "model.keras")
    translator.tokenizer.save(run / "tokenizer.model")
    settings = settings_of(translator.model, beam_size=2, length_penalty=0.6, max_source_tokens=9)
    (run / "config.yaml").write_text(settings)
    while True:
        Translator.load(run)(["snow"])
        yield


def temperatures(_folder):
    translator = small_translator()
    for number in range(1, 1000):
        translator.sample(["snow"], temperature=number / 100, top_p=number / 1000)
        translator.translate(["snow"], length_penalty=number / 1000)
        yield


def loads(folder):
    import tensorflow as tf

    from keras_transformer.export.saved_model import export_saved_model

    version = export_saved_model(small_translator(precision="float32"), folder)
    while True:
        loaded = tf.saved_model.load(version)
        loaded.signatures["greedy"](text=tf.constant(["snow"]))
        del loaded
        yield


def exports(folder):
    from keras_transformer.export.saved_model import export_saved_model

    model = small_model()
    while True:
        export_saved_model(small_translator(model), folder)
        yield


def trainings(_folder):
    import keras

    import keras_transformer as kt
    from tests.random_models import random_ids

    inputs = {"source_ids": random_ids(8, 5), "target_ids": random_ids(8, 7)}
    while True:
        keras.utils.clear_session()
        model = small_model()
        model.compile(
            optimizer=kt.paper_adam(12),
            loss=kt.LabelSmoothedCrossentropy(),
            weighted_metrics=[kt.Perplexity(), kt.TokenAccuracy()],
        )
        validation = inputs, inputs["target_ids"]
        model.fit(*validation, batch_size=4, epochs=2, validation_data=validation, verbose=0)
        yield


def main(scenario, rounds, folder):
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
    for _, _ in zip(range(int(rounds)), globals()[scenario](folder), strict=False):
        gc.collect()
        malloc_trim(0)  # free memory that is not yet returned to the system is not a leak
        print(resident_mebibytes(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
