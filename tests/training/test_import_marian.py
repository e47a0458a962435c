"""The command import_marian: a finished run, on which all other commands work."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from keras_transformer.finished_run import read_model
from keras_transformer.marian.import_marian import import_marian
from keras_transformer.translator import Translator
from tests.marian.folders import MODELS
from tests.training.conftest import as_arguments, write_lines
from training.command_line.running import run_command
from training.evaluate import main as evaluate_main
from training.export import main as export_main
from training.import_marian import main
from training.train import main as train_main

TEXTS = (MODELS / "post" / "text.fr").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An imported run, which tests never change."""
    run = tmp_path_factory.mktemp("imported") / "run"
    assert run_command(main, [str(MODELS / "post"), str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def text_files(tmp_path_factory):
    """French text and its translations by the model itself."""
    folder = tmp_path_factory.mktemp("text")
    targets = import_marian(MODELS / "post", beam_size=1)(TEXTS)
    for name, part in (("train", slice(0, 120)), ("validation", slice(120, 150))):
        write_lines(folder / f"{name}.source", TEXTS[part])
        write_lines(folder / f"{name}.target", targets[part])
    return {
        f"{split}_{side}": str(folder / f"{split}.{side}")
        for split in ("train", "validation")
        for side in ("source", "target")
    }


@pytest.mark.parametrize("name", ["post", "separate", "hf"])
def test_the_run_translates_as_the_import_does(name, tmp_path, capsys):
    assert run_command(main, [str(MODELS / name), str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith(f"imported: {tmp_path / 'run'}, 2 + 2 layers")
    loaded, imported = Translator.load(tmp_path / "run"), import_marian(MODELS / name)
    for one, other in zip(loaded.model.get_weights(), imported.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for attribute in ("beam_size", "length_penalty", "length_normalization", "max_source_tokens"):
        assert getattr(loaded, attribute) == getattr(imported, attribute)
    assert loaded(TEXTS[:5]) == imported(TEXTS[:5])


def test_punctuation_is_kept_with_the_run(tmp_path):
    options = ["--source-punctuation", "fr", "--target-punctuation", "en"]
    assert run_command(main, [str(MODELS / "post"), str(tmp_path / "run"), *options]) == 0
    tokenizer = Translator.load(tmp_path / "run").tokenizer
    assert (tokenizer.source.punctuation, tokenizer.target.punctuation) == ("fr", "en")
    assert tokenizer.source.encode("l\u2019ours") == tokenizer.source.encode("l'ours")


def test_the_run_can_be_evaluated(run, text_files, capsys):
    sides = [text_files["validation_source"], text_files["validation_target"]]
    options = ["--source", sides[0], "--reference", sides[1], "--beam-size", "1"]
    assert run_command(evaluate_main, [str(run), *options]) == 0
    assert "BLEU 100.00" in capsys.readouterr().out


def test_the_run_is_not_overwritten_unless_asked_to(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    before = read_model(copy / "model.keras").get_weights()
    assert run_command(main, [str(MODELS / "separate"), str(copy)]) == 1
    assert "must not hold a finished run" in capsys.readouterr().err
    for one, other in zip(read_model(copy / "model.keras").get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert run_command(main, [str(MODELS / "separate"), str(copy), "--overwrite"]) == 0
    assert Translator.load(copy).model.source_embedding.vocabulary_size == 71
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("folder", ["ssru", "nothing"])
def test_a_failed_import_leaves_nothing(folder, tmp_path, capsys):
    assert run_command(main, [str(MODELS / folder), str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {MODELS / folder}")
    assert not (tmp_path / "run").exists()


FINE_TUNING = {
    "batch_tokens": 256,
    "peak_learning_rate": 1e-4,
    "warmup_steps": 4,
    "checkpoint_steps": 2,
    "average_checkpoints": 1,
    "beam_size": 2,
}


def fine_tuned(run, output, text_files, **settings):
    arguments = as_arguments({**text_files, **FINE_TUNING, **settings})
    options = ["--config", str(run / "config.yaml"), "--initial-run", str(run)]
    assert run_command(train_main, [*options, *arguments, "--output", str(output)]) == 0
    return read_model(Path(output) / "model.keras").get_weights()


def test_fine_tuning_in_two_parts_equals_one(run, text_files, tmp_path):
    at_once = fine_tuned(run, tmp_path / "at_once", text_files, epochs=2)
    fine_tuned(run, tmp_path / "in_parts", text_files, epochs=1)
    in_parts = fine_tuned(run, tmp_path / "in_parts", text_files, epochs=2)
    before = read_model(run / "model.keras").get_weights()
    for one, other in zip(at_once, in_parts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((one != other).any() for one, other in zip(at_once, before, strict=True))
    changes = [np.abs(a - b).max() for a, b in zip(at_once, before, strict=True)]
    assert max(changes) < 0.1  # it has begun with the imported weights


def test_the_fine_tuned_run_keeps_the_tokenizer_and_the_settings(run, text_files, tmp_path):
    fine_tuned(run, tmp_path / "run", text_files, epochs=1)
    one, other = ((path / "tokenizer.model").read_bytes() for path in (run, tmp_path / "run"))
    assert one == other
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["position_encoding"] == "sinusoidal_marian"
    assert settings["output_bias"] is True
    assert settings["layer_norm_epsilon"] == 1e-9


def test_the_run_can_leave_for_hugging_face(run, tmp_path, capsys):
    output = tmp_path / "exported"
    assert run_command(export_main, [str(run), str(output), "--format", "huggingface"]) == 0
    assert f"exported: {output}" in capsys.readouterr().out
    assert import_marian(output, beam_size=1)(TEXTS[:5]) == import_marian(
        MODELS / "post", beam_size=1
    )(TEXTS[:5])
    assert run_command(export_main, [str(run), str(output), "--format", "huggingface"]) == 1
    assert "the export needs a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quantization", "int8"], "--quantization must be given only with --format ctranslate2"),
        (
            ["--format", "huggingface", "--description", "x"],
            "--description must be given only with --format saved_model",
        ),
        (["--format", "ctranslate2", "--precision", "int8"], "--precision must be float32 with"),
        (["--format", "onnx"], "must be one of saved_model, ctranslate2, huggingface"),
    ],
)
def test_options_of_another_format_are_refused(run, options, message, tmp_path, capsys):
    assert run_command(export_main, [str(run), str(tmp_path / "x"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
