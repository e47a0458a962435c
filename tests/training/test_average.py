"""Models from the epochs that a run has kept: averages, or single epochs."""

import json
import os
import re
import shutil

import filelock
import numpy as np
import pytest

import training.evaluate
import training.export
import training.translate
from keras_transformer.translator import read_model
from tests.training.small_run import once
from training import average
from training.command_line.errors import InputError
from training.command_line.running import run_command
from training.export import training_facts
from training.runs.checkpoints import load_weights
from training.runs.folder import Position, RunFolder
from training.runs.translator import load_translator
from training.train import main as train_main


@pytest.fixture(scope="module")
def longer_run(train_arguments, tmp_path_factory):
    """A finished run of five epochs that keeps the last three; never changed."""
    run = tmp_path_factory.mktemp("runs") / "longer"
    more = ["--epochs=5", "--keep-checkpoints=3", "--checkpoint-steps=null", f"--output={run}"]
    assert run_command(train_main, once([*train_arguments, *more])) == 0
    return run


@pytest.fixture
def run(longer_run, tmp_path):
    shutil.copytree(longer_run, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def averaged(run, *arguments):
    return run_command(average.main, [str(run.path), *arguments])


def weights_of(run, name="model.keras"):
    return read_model(run.path / name).get_weights()


def mean_of(run, epochs):
    model = read_model(run.model_path)
    checkpoints = [load_weights(run, model, Position(epoch, 0)) for epoch in epochs]
    return [
        np.mean([a.astype("float64") for a in arrays], axis=0)
        for arrays in zip(*checkpoints, strict=True)
    ]


def assert_same(weights, others):
    for weight, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-6, atol=1e-9)


def one_line(capfd):
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_the_given_epochs_are_averaged_into_the_model(run, capfd):
    trained, *_ = weights_of(run), run.read_metrics()
    num_pairs = run.read_metrics()[-1]["num_pairs"]
    assert averaged(run, "--epochs", "5", "3", "4") == 0
    assert_same(weights_of(run), mean_of(run, [3, 4, 5]))
    assert_same(weights_of(run, "model.trained.keras"), trained)
    final = run.read_metrics()[-1]
    assert (final["epochs"], final["num_pairs"]) == ([3, 4, 5], num_pairs)
    before, now = capfd.readouterr().out.splitlines()[-2:]
    assert re.fullmatch(
        r"before: weights of epochs? [\d, ]+: validation perplexity \d+\.\d{3}", before
    )
    assert now == (
        f"now: weights of epochs 3, 4, 5: validation perplexity {final['val_perplexity']:.3f}"
    )

    # Again: the result of training is still there.
    assert averaged(run, "--best", "1") == 0
    assert_same(weights_of(run, "model.trained.keras"), trained)
    lines = [line for line in run.read_metrics() if line.get("epoch", 0) >= 3]
    best = min(lines, key=lambda line: line["val_perplexity"])
    final = run.read_metrics()[-1]
    assert final["epochs"] == [best["epoch"]]
    assert final["val_perplexity"] == pytest.approx(best["val_perplexity"], rel=1e-5)
    assert_same(weights_of(run), mean_of(run, [best["epoch"]]))


def test_without_its_text_a_run_is_averaged_without_validation(run, capfd):
    text = run.config_path.read_text()
    run.remove_checksums()
    run.config_path.write_text(re.sub("validation_source: .*", "validation_source: gone", text))
    assert averaged(run, "--best=2", "--overwrite") == 0
    out = capfd.readouterr().out
    assert "is gone or has changed, so nothing is measured" in out
    assert "perplexity" not in out
    assert "val_perplexity" not in run.read_metrics()[-1]
    assert not (run.path / "model.trained.keras").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--epochs", "1", "4", "9"], 1, "weights are kept (3, 4, 5). Received: 1, 9. Choose"),
        (["--best", "4"], 1, "--best must be 1 to 3, the number of epochs that are kept (3, 4, 5)"),
        (["--best", "0"], 1, "--best must be 1 to 3"),
        ([], 2, "--epochs or --best must be given. Received: neither"),
        (["--epochs", "4", "--best", "1"], 2, "--epochs or --best must be given. Received: both"),
        (["--epochs", "x"], 2, "--epochs must be a whole number"),
    ],
)  # fmt: skip
def test_epochs_that_cannot_be_averaged_are_reported_in_one_line(
    longer_run, capfd, arguments, code, message
):
    before = os.stat(longer_run / "model.keras")
    assert averaged(RunFolder(longer_run), *arguments) == code
    assert message in one_line(capfd)
    assert os.stat(longer_run / "model.keras") == before


def test_a_damaged_checkpoint_leaves_the_run_unchanged(run, capfd):
    run.checkpoint_path(Position(4, 0), "weights").write_bytes(b"")
    before = {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()}
    assert averaged(run, "--epochs", "3", "4") == 1
    assert "epoch_0004_batch_00000.weights.npz cannot be read" in one_line(capfd)
    after = {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()}
    assert {**after, ".lock": 0} == {**before, ".lock": 0}


def test_a_run_in_training_or_unfinished_is_not_averaged(run, capfd):
    with filelock.FileLock(run.lock_path):
        assert averaged(run, "--best=1") == 1
    assert "only one process may train in a folder" in one_line(capfd)
    run.model_path.unlink()
    assert averaged(run, "--best=1") == 1
    assert "a finished run must hold model.keras" in one_line(capfd)


def test_a_run_that_is_trained_further_is_not_averaged(run, capfd):
    """A metrics line about a new model would mark the run as finished, without its epochs."""
    epochs = run.read_metrics()[:-1]
    run.write_metrics(epochs)
    assert averaged(run, "--best=1") == 1
    assert "training must have ended before epochs are averaged" in one_line(capfd)
    assert run.read_metrics() == epochs


def test_the_model_of_an_epoch_uses_that_epochs_weights(run):
    last = load_translator(str(run.path), epoch=4, beam_size=2)
    assert_same(last.model.get_weights(), mean_of(run, [4]))
    assert (last.beam_size, last.max_source_tokens) == (2, 256)
    assert averaged(run, "--epochs", "4") == 0
    texts = ["one two three", "seven", ""]
    assert last(texts) == load_translator(str(run.path), beam_size=2)(texts)


def test_an_unfinished_run_can_translate_with_a_given_epoch(run):
    for path in (run.model_path, run.metrics_path):
        path.unlink()
    shutil.rmtree(run.logs_path)
    assert len(load_translator(str(run.path), epoch=3)(["one two"])) == 1
    with pytest.raises(InputError, match="a finished run must hold model.keras"):
        load_translator(str(run.path))


def test_all_commands_that_accept_a_run_accept_an_epoch(
    run, text_files, tmp_path, capfd, monkeypatch
):
    asked = []

    def load(path, epoch=None, **search):
        asked.append(epoch)
        raise InputError("enough")

    text = [f"--source={text_files['validation_source']}"]
    text += [f"--reference={text_files['validation_target']}"]
    for module, more in (
        (training.translate, []),
        (training.evaluate, text),
        (training.export, [str(tmp_path / "saved")]),
    ):
        arguments = [str(run.path), *more]
        assert run_command(module.main, [*arguments, "--epoch=1"]) == 1
        assert "--epoch must name epochs whose weights are kept (3, 4, 5). Received: 1" in one_line(
            capfd
        )
        with monkeypatch.context() as patch:
            patch.setattr(module, "load_translator", load)
            assert run_command(module.main, [*arguments, "--epoch=3"]) == 1
        assert "enough" in one_line(capfd)
    assert asked == [3, 3, 3]


def test_an_export_records_its_epoch(longer_run):
    run = RunFolder(longer_run)
    *epochs, final = run.read_metrics()
    of_one, of_all = training_facts(run, 4), training_facts(run)
    assert of_one["averaged_epochs"] == [4]
    assert of_one["val_perplexity"] == epochs[3]["val_perplexity"]
    assert of_one["num_pairs"] == of_all["num_pairs"] == final["num_pairs"]
    assert of_all["averaged_epochs"] == final["epochs"]
    assert json.dumps(of_one)


def test_with_moving_averages_an_epochs_model_uses_them(run):
    """With ema_decay, the validated weights are in a separate file."""
    text = run.config_path.read_text()
    run.remove_checksums()
    run.config_path.write_text(text.replace("ema_decay: null", "ema_decay: 0.9"))
    with pytest.raises(InputError, match=r"whose weights are kept \(none is\)\. Received: 4"):
        load_translator(str(run.path), epoch=4)
    shutil.copyfile(
        run.checkpoint_path(Position(5, 0), "weights"),
        run.checkpoint_path(Position(4, 0), "average"),
    )
    assert_same(load_translator(str(run.path), epoch=4).model.get_weights(), mean_of(run, [5]))
