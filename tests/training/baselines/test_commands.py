"""The commands work with each baseline, from text to export."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import training.translate
from keras_transformer.translator import Translator
from tests.training.conftest import as_arguments
from tests.training.runs.test_samples import events_of
from tests.training.small_run import once
from training.command_line.running import run_command
from training.evaluate import main as evaluate
from training.export import main as export
from training.runs import progress
from training.runs.checkpoints import load_arrays
from training.runs.folder import Position, RunFolder
from training.runs.translator import load_translator
from training.train import main as train

ROOT = Path(__file__).parents[3]
SIZES = {"gru": ["--recurrent-dim=10"], "gru_attention": ["--recurrent-dim=10"], "convolution": []}
ATTENTIVE = {"gru": False, "gru_attention": True, "convolution": True}


@pytest.fixture(scope="module")
def arguments(text_files):
    return as_arguments(
        {
            **text_files,
            "vocabulary_size": 290,
            "num_layers": 2,
            "model_dim": 12,
            "batch_tokens": 256,
            "epochs": 2,
            "warmup_steps": 20,
            "peak_learning_rate": 0.01,
            "average_checkpoints": 2,
            "average_epochs": "best",  # of two epochs both
            "beam_size": 2,
        }
    )


@pytest.fixture(
    scope="module",
    params=[
        "gru_attention",
        pytest.param("gru", marks=pytest.mark.slow),
        pytest.param("convolution", marks=pytest.mark.slow),
    ],
)
def finished(request, arguments, tmp_path_factory):
    """Returns a model's name and its finished run."""
    run = tmp_path_factory.mktemp("runs") / request.param
    options = [*arguments, f"--model={request.param}", *SIZES[request.param]]
    assert run_command(train, [*options, "--output", str(run)]) == 0
    return request.param, run


def test_a_run_records_its_model_and_can_be_loaded(finished):
    name, run = finished
    assert yaml.safe_load((run / "config.yaml").read_text())["model"] == name
    [first, second, final] = RunFolder(run).read_metrics()
    assert second["val_perplexity"] < first["val_perplexity"]
    translator = load_translator(str(run))
    assert type(translator.model).__module__.startswith("training.baselines.")
    assert translator.has_attention == ATTENTIVE[name]
    assert final["final"]


@pytest.mark.slow
def test_a_run_can_evaluate_translate_and_export(
    finished, text_files, tmp_path, monkeypatch, capfdbinary
):
    name, run = finished
    files = ["--source", text_files["validation_source"]]
    reference = ["--reference", text_files["validation_target"]]
    scores = tmp_path / "scores.json"
    assert run_command(evaluate, [str(run), *files, *reference, "--json", str(scores)]) == 0
    assert json.loads(scores.read_text())["num_sentences"] == 20

    for options in (["--n-best=2", "--scores"], ["--samples=2"], ["--precision=int8"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one two\n\nthree\n")))
        capfdbinary.readouterr()
        assert run_command(training.translate.main, [str(run), *options]) == 0
        lines = capfdbinary.readouterr().out.split(b"\n")
        assert len(lines) == 4
        assert lines[3] == b""
        columns = {"--n-best=2": 4, "--samples=2": 2, "--precision=int8": 1}[options[0]]
        for line in lines[:3:2]:
            assert line.count(b"\t") + 1 >= columns  # a translation may have tabs of its own

    folder = tmp_path / "saved_models" / name
    assert run_command(export, [str(run), str(folder)]) == 0  # this verifies it
    signatures = set(json.loads((folder / "1" / "model.json").read_text())["signatures"])
    expected = {"serving_default", "greedy", "n_best", "n_best_from_prefix", "score"}
    assert signatures == expected | ({"attention"} if ATTENTIVE[name] else set())


@pytest.mark.slow
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    finished, arguments, tmp_path, monkeypatch
):
    name, run = finished
    save = progress.save_checkpoint

    def save_and_stop(saved_run, model, position, seconds):
        save(saved_run, model, position, seconds)
        raise KeyboardInterrupt

    options = [*arguments, f"--model={name}", *SIZES[name], "--output", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(progress, "save_checkpoint", save_and_stop)
        assert run_command(train, options) == 130
    assert RunFolder(tmp_path / "run").position_saved == Position(1, 0)
    assert run_command(train, options) == 0
    for kind in ("weights", "state"):
        ours, theirs = (
            load_arrays(RunFolder(each).checkpoint_path(Position(2, 0), kind))
            for each in (tmp_path / "run", run)
        )
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds"}:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def test_samples_of_a_model_without_attention_have_no_picture(finished):
    name, run = finished
    events = events_of(run / "logs" / "samples")
    assert len(events["translations"]) == 2
    assert ("attention" in events) == ATTENTIVE[name]


def test_asking_for_missing_attention_is_refused(finished):
    name, run = finished
    if ATTENTIVE[name]:
        attention = Translator.load(run).attention("one two", "two one")
        assert attention.weights.shape[0] == 1
        np.testing.assert_allclose(attention.weights.sum(axis=-1), 1, rtol=1e-5)
    else:
        with pytest.raises(Exception, match="a model of class Recurrent. Use another model"):
            Translator.load(run).attention("one two", "two one")


@pytest.mark.slow
def test_a_run_can_start_from_another_runs_weights(finished, arguments, tmp_path):
    name, run = finished
    options = [argument for argument in arguments if "vocabulary" not in argument]
    options += [f"--model={name}", *SIZES[name], "--initial-run", str(run), "--epochs=1"]
    assert run_command(train, once([*options, "--output", str(tmp_path / "run")])) == 0
    trained_on, trained = (RunFolder(each).read_metrics() for each in (tmp_path / "run", run))
    assert trained_on[0]["val_perplexity"] < trained[0]["val_perplexity"]


@pytest.mark.slow
def test_loading_without_the_classes_names_the_package_to_import(finished):
    name, run = finished
    code = (
        "from keras_transformer import Translator, InputError\n"
        "try:\n    Translator.load(RUN)\n"
        "except InputError as error:\n    print(error)\n"
        "import training.baselines\nprint(Translator.load(RUN).model.name)\n"
    ).replace("RUN", repr(str(run)))
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    first, second = process.stdout.splitlines()
    assert "`import training.baselines`" in first
    assert second == name


def test_a_run_of_an_earlier_version_has_a_transformer(finished_run, tmp_path):
    """Its config.yaml has neither `model` nor the settings of other models."""
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    for name in ("model", "recurrent_dim", "kernel_size"):
        del config[name]
    for path in ("tokenizer.model", "model.keras"):
        shutil.copyfile(finished_run / path, tmp_path / path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    record = RunFolder(tmp_path).read_record()
    assert record.settings.model == "transformer"
    assert record.differences(RunFolder(finished_run).read_record()) == []
    assert type(load_translator(str(tmp_path)).model).__name__ == "Transformer"
