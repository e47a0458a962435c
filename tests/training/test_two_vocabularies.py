"""Training from scratch with the settings of Marian's models."""

from pathlib import Path

import numpy as np
import pytest

from keras_transformer.finished_run import read_model
from keras_transformer.text.tokenizer_pair import TokenizerPair, load_tokenizer
from keras_transformer.translator import Translator
from tests.training.conftest import as_arguments
from tests.training.small_run import SMALL
from training.command_line.running import run_command
from training.runs.folder import RunFolder
from training.runs.text import training_epochs
from training.train import main

CHANGES = {
    "source_vocabulary_size": 280,
    "num_decoder_layers": 2,
    "output_bias": "true",
    "layer_norm_epsilon": 1e-5,
    "position_encoding": "sinusoidal_marian",
}


def train(text_files, output, **changes):
    arguments = as_arguments({**text_files, **SMALL, **CHANGES, **changes})
    assert run_command(main, [*arguments, f"--output={output}"]) == 0
    return read_model(output / "model.keras").get_weights()


@pytest.fixture(scope="module")
def run(text_files, tmp_path_factory):
    output = tmp_path_factory.mktemp("two") / "run"
    train(text_files, output)
    return output


def test_each_side_has_a_tokenizer_of_its_own_text(run):
    tokenizer = load_tokenizer(run / "tokenizer.model")
    assert isinstance(tokenizer, TokenizerPair)
    settings = RunFolder(run).read_record().settings
    assert settings.source_vocabulary_size == tokenizer.source_vocabulary_size <= 280
    assert settings.vocabulary_size == tokenizer.vocabulary_size <= 290


def test_the_model_is_as_the_settings_say(run):
    model = Translator.load(run).model
    assert (len(model.encoder_blocks), len(model.decoder_blocks)) == (1, 2)
    assert model.source_embedding.vocabulary_size <= 280
    assert model.embedding.position_encoding == "sinusoidal_marian"
    assert np.abs(model.embedding.bias.numpy()).max() > 0  # it has learned
    assert model.embedding.vocabulary_size != model.source_embedding.vocabulary_size


def test_batches_hold_the_ids_of_each_side(run, text_files):
    record, tokenizer = RunFolder(run).read_record(), load_tokenizer(run / "tokenizer.model")
    batches = training_epochs(record.settings, tokenizer)
    inputs, labels = next(batches.dataset(0).as_numpy_iterator())
    sides = [
        Path(text_files[f"train_{side}"]).read_text(encoding="utf-8").splitlines()
        for side in ("source", "target")
    ]
    pairs = set(zip(*sides, strict=True))
    for source, target in zip(inputs["source_ids"], labels, strict=True):
        pair = tokenizer.source.decode(source.tolist()), tokenizer.target.decode(target.tolist())
        assert pair in pairs


def test_training_in_two_parts_equals_one(run, text_files, tmp_path):
    at_once = read_model(run / "model.keras").get_weights()
    train(text_files, tmp_path / "run", epochs=2)
    in_parts = train(text_files, tmp_path / "run", epochs=3)
    for one, other in zip(at_once, in_parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_sampling_splits_each_side_by_its_own_tokenizer(text_files, tmp_path):
    train(text_files, tmp_path / "run", sampling=0.1, steps_per_epoch=4, epochs=1)
    assert Translator.load(tmp_path / "run").translate(["one two"], beam_size=1)


def test_the_export_in_8_bits_answers_as_the_live_translator(run, tmp_path):
    from keras_transformer.export.saved_model import export_saved_model

    translator = Translator.load(run, precision="int8")
    export_saved_model(translator, tmp_path / "x", verify_texts=["one two three", "four", ""])
