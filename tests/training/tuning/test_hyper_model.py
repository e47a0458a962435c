"""The hyper model with Keras Tuner's own tuners."""

import keras_tuner
import numpy as np
import pytest

from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from training.command_line.errors import InputError
from training.settings import make_settings
from training.tuning.hyper_model import TransformerHyperModel

WORDS = "one two three four five six seven".split()
SOURCE = [" ".join(WORDS[:end]) for end in range(1, 8)] * 5
TARGET = [" ".join(reversed(line.split())) for line in SOURCE]
SETTINGS = make_settings(
    {
        "num_layers": 1,
        "model_dim": 12,
        "feed_forward_dim": 17,
        "num_heads": 3,
        "batch_tokens": 64,
        "max_length": 40,
        "warmup_steps": 20,
        "peak_learning_rate": 0.01,
    }
)
OBJECTIVE = keras_tuner.Objective("val_perplexity", "min")


@pytest.fixture(scope="module")
def tokenizer():
    return SubwordTokenizer.train_from_lines(SOURCE + TARGET, 280, "bpe")


@pytest.mark.slow
def test_keras_tuners_own_tuner_searches_over_arrays_and_skips_contradictions(tokenizer, tmp_path):
    hyper_model = TransformerHyperModel({"num_heads": [3, 5]}, SETTINGS, tokenizer)
    options = {"objective": OBJECTIVE, "max_trials": 2, "directory": tmp_path}
    tuner = keras_tuner.RandomSearch(hyper_model, **options)
    ids = np.random.default_rng(3).integers(4, 280, (6, 5), "int32")
    inputs = {"source_ids": ids, "target_ids": ids}
    tuner.search(inputs, ids, validation_data=(inputs, ids), epochs=1, verbose=0)
    trials = tuner.oracle.trials.values()
    outcomes = {trial.hyperparameters.values["num_heads"]: trial for trial in trials}
    assert outcomes[3].status == "COMPLETED"
    assert outcomes[3].score > 0
    assert outcomes[5].status == "FAILED"
    assert "model_dim must be a multiple of num_heads" in outcomes[5].message


@pytest.mark.slow
def test_keras_tuners_own_tuner_searches_over_text_with_each_trials_batches(
    tokenizer, tmp_path, monkeypatch
):
    from training.tuning import hyper_model as module

    made = []

    def pair_batches(source, *rest, **options):
        made.append((len(source), options["max_tokens"], options.get("shuffle", True)))
        return PairBatches(source, *rest, **options)

    PairBatches = module.PairBatches
    monkeypatch.setattr(module, "PairBatches", pair_batches)
    space = {"batch_tokens": [64, 128], "accumulation_steps": [1, 2], "ema_decay": [None, 0.5]}
    hyper_model = TransformerHyperModel(space, SETTINGS, tokenizer)
    tuner = keras_tuner.RandomSearch(
        hyper_model, OBJECTIVE, max_trials=2, directory=tmp_path, seed=1
    )
    validation = (SOURCE[:7], TARGET[:7])
    tuner.search(SOURCE, TARGET, validation_data=validation, epochs=2, verbose=0)
    for trial in tuner.oracle.trials.values():
        assert trial.status == "COMPLETED", trial.message
        values = trial.hyperparameters.values
        tokens, parts = values["batch_tokens"], values["accumulation_steps"]
        assert made.pop(0) == (35, tokens, True)
        assert made.pop(0) == (7, max(tokens // parts, 40), False)
    assert made == []
    best = tuner.get_best_hyperparameters()[0]
    model = tuner.get_best_models()[0]
    assert model.count_params() == hyper_model.build(best).count_params()


def test_a_trial_starts_with_the_same_weights_each_time(tokenizer):
    hyper_model = TransformerHyperModel({"dropout": [0.1, 0.2]}, SETTINGS, tokenizer)
    hp = keras_tuner.HyperParameters()
    models = [hyper_model.build(hp) for _ in range(2)]
    for first, second in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(first, second)
    assert hp.values == {"dropout": 0.1}  # the start's
    assert hyper_model.settings(hp) == SETTINGS


def test_the_tokenizer_is_not_tuned(tokenizer):
    with pytest.raises(InputError, match="vocabulary_size must not be tuned, because the token"):
        TransformerHyperModel({"vocabulary_size": [280, 290]}, SETTINGS, tokenizer)
