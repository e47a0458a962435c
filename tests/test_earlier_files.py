"""Files of earlier versions open, and give the same answers as when they were written."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_transformer.translator import Translator
from training.command_line.running import run_command
from training.train import main as train_main

EARLIER = Path(__file__).parent / "earlier_files"
ANSWERS = json.loads((EARLIER / "answers.json").read_text(encoding="utf-8"))
TEXT = {
    f"--{split}-{side}": str(EARLIER / "text" / f"{split}.{ending}")
    for split in ("train", "validation")
    for side, ending in (("source", "en"), ("target", "de"))
}
# Other processors sum in a different order, and 8 bits round the result.
TOLERANCE = {"float32_export": 1e-3, "int8_export": 0.1}


@pytest.mark.parametrize("kind", ["finished_run", "baseline_run"])
def test_an_earlier_run_translates_and_scores_as_before(kind):
    if kind == "baseline_run":
        import training.baselines  # noqa: F401  registers its classes
    translator, expected = Translator.load(EARLIER / kind), ANSWERS[kind]
    found = translator.n_best(ANSWERS["texts"], 2)
    assert [[text for text, _ in best] for best in found] == [
        [text for text, _ in best] for best in expected["n_best"]
    ]
    for best, expected_best in zip(found, expected["n_best"], strict=True):
        scores, expected_scores = ([score for _, score in pairs] for pairs in (best, expected_best))
        np.testing.assert_allclose(scores, expected_scores, atol=1e-3)
    scored = translator.score(ANSWERS["texts"][: len(ANSWERS["targets"])], ANSWERS["targets"])
    np.testing.assert_allclose(scored, expected["score"], atol=1e-3)


def test_keras_opens_the_model_of_an_earlier_run():
    model = keras.models.load_model(EARLIER / "finished_run" / "model.keras")
    logits = model({"source_ids": np.array([[5, 3]]), "target_ids": np.array([[2, 7, 8]])})
    assert logits.shape == (1, 3, 300)
    assert np.isfinite(keras.ops.convert_to_numpy(logits)).all()


def test_an_interrupted_run_resumes_to_the_same_end(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(EARLIER / "interrupted_run", run)
    settings = {
        "--epochs": "3",
        "--warmup-steps": "10",
        "--checkpoint-steps": "3",
        "--validation-bleu": "true",
        "--ema-decay": "0.9",
        "--average-checkpoints": "1",
    }
    arguments = [f"{name}={value}" for name, value in {**TEXT, **settings, "--output": run}.items()]
    config = EARLIER / "interrupted_run" / "config.yaml"
    assert run_command(train_main, ["--config", str(config), *arguments]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == len(ANSWERS["resumed"])
    for line, expected in zip(lines, ANSWERS["resumed"], strict=True):
        for name, value in expected.items():
            assert line[name] == pytest.approx(value, rel=1e-3), name


@pytest.mark.parametrize("kind", ["float32_export", "int8_export"])
def test_an_earlier_export_answers_as_before(kind):
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the SentencePiece operations

    expected, close = ANSWERS[kind], {"atol": TOLERANCE[kind]}
    served = tf.saved_model.load(EARLIER / kind).signatures
    texts, targets = tf.constant(ANSWERS["texts"]), tf.constant(ANSWERS["targets"])
    n_best = served["n_best"](text=texts)
    scored = served["score"](source=texts[: len(ANSWERS["targets"])], target=targets)
    for name in ("serving_default", "greedy"):
        assert _strings(served[name](text=texts)["translation"]) == expected[name]
    assert _strings(n_best["translations"]) == expected["translations"]
    np.testing.assert_allclose(n_best["scores"], expected["scores"], **close)
    np.testing.assert_allclose(scored["log_probability"], expected["log_probability"], **close)
    assert scored["num_tokens"].numpy().tolist() == expected["num_tokens"]


def _strings(tensor):
    return np.char.decode(tensor.numpy().astype(bytes), "utf-8").tolist()
