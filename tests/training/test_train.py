import dataclasses
import gzip
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_transformer.model  # noqa: F401  registers the class
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from keras_transformer.translator import Translator
from tests.training.small_run import once
from training.command_line.running import run_command
from training.runs import progress
from training.runs.checkpoints import load_arrays, load_weights
from training.runs.final_weights import save_model
from training.runs.fitting import faults_named, write_beginning
from training.runs.folder import Position, RunFolder
from training.settings import TrainingSettings
from training.train import main

ROOT = Path(__file__).parents[2]


def train(arguments, output, *more):
    return run_command(main, once([*arguments, "--output", str(output), *more]))


def one_line(capfd):
    """Returns a failed command's message: one line on stderr that begins with `error:`."""
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def arrays_of(run, epoch):
    for kind in ("weights", "state"):
        arrays = load_arrays(RunFolder(run).checkpoint_path(Position(epoch, 0), kind))
        yield from ((kind, name, array) for name, array in arrays.items())


def assert_same_checkpoint(run, other, epoch):
    """Asserts that all variables are equal bit for bit: weights, random states, optimizer."""
    pairs = zip(arrays_of(run, epoch), arrays_of(other, epoch), strict=True)
    for (kind, name, array), (_, other_name, other_array) in pairs:
        assert name == other_name
        np.testing.assert_array_equal(array, other_array, err_msg=f"{kind} {name}")


def stop_at(monkeypatch, position, error):
    """Makes training stop with an error as soon as a given checkpoint is saved."""
    save = progress.save_checkpoint

    def save_and_stop(run, model, saved_position, seconds):
        save(run, model, saved_position, seconds)
        if saved_position == position:
            raise error

    monkeypatch.setattr(progress, "save_checkpoint", save_and_stop)


def test_a_finished_run_has_the_documented_files(finished_run):
    names = {"config.yaml", "tokenizer.model", "model.keras", "checkpoints", "logs"}
    assert set(os.listdir(finished_run)) == names | {"metrics.jsonl", "checksums.json", ".lock"}


@pytest.mark.parametrize("start", ["tokenizer", "initial-run"])
def test_a_missing_tokenizer_or_initial_run_is_reported_before_reading_text(
    train_arguments, tmp_path, capfd, monkeypatch, start
):
    monkeypatch.setattr("training.runs.text.read_pairs", pytest.fail)
    assert train(train_arguments, tmp_path / "run", f"--{start}={tmp_path / 'absent'}") == 1
    assert "absent" in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_metrics_have_a_line_per_epoch_and_one_for_the_result(finished_run):
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").open()]
    assert [line.get("epoch") for line in lines] == [1, 2, 3, None]
    assert lines[-1]["final"] is True
    assert lines[-1]["epochs"] in ([2, 3], [3])  # the average of two, or the best one
    for line in lines[:3]:
        assert {"loss", "perplexity", "token_accuracy", "tokens_per_second"} <= line.keys()
        assert {"val_loss", "val_perplexity", "learning_rate", "seconds"} <= line.keys()
    assert lines[2]["val_perplexity"] < lines[0]["val_perplexity"]


def test_the_model_is_the_average_that_the_last_line_names(finished_run):
    model = keras.saving.load_model(finished_run / "model.keras")
    run = RunFolder(finished_run)
    *epochs, final = run.read_metrics()
    kept = [load_weights(run, model, Position(epoch, 0)) for epoch in final["epochs"]]
    for weight, *arrays in zip(model.get_weights(), *kept, strict=True):
        mean = np.mean([array.astype("float64") for array in arrays], axis=0)
        np.testing.assert_allclose(weight, mean, rtol=1e-6, atol=1e-9)
    best = min(line["val_perplexity"] for line in epochs)
    assert final["val_perplexity"] <= best * 1.00001


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--average-checkpoints=3", "--ema-decay=0.5"])
def test_an_average_that_is_worse_than_the_best_epoch_is_not_kept(
    train_arguments, tmp_path, capfd, option
):
    """With few epochs, the average is mostly of weights that had learned little."""
    run = tmp_path / "run"
    assert train(train_arguments, run, "--epochs=6", option) == 0
    *epochs, final = RunFolder(run).read_metrics()
    best = min(epochs, key=lambda line: line["val_perplexity"])
    assert final["val_perplexity"] <= best["val_perplexity"] * 1.00001
    said = capfd.readouterr().out.splitlines()[-2]
    assert f"epoch {best['epoch']}" in said
    assert "average of epochs " in said or said.startswith("weights of epochs ")
    assert f"validation perplexity {final['val_perplexity']:.3f}" in said


def test_a_finished_run_is_refused_in_one_line(finished_run, train_arguments, capfd):
    assert train(train_arguments, finished_run) == 1
    assert "the output must not hold a finished run" in one_line(capfd)


@pytest.mark.parametrize(
    ("position", "words"),
    [
        pytest.param(Position(1, 0), "1 epoch is", marks=pytest.mark.slow),
        (Position(1, 2), "1 epoch and 2 batches of the next are"),
    ],
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    finished_run, train_arguments, tmp_path, monkeypatch, capfd, position, words
):
    with monkeypatch.context() as patch:
        stop_at(patch, position, KeyboardInterrupt())
        assert train(train_arguments, tmp_path / "run") == 130
    stopped = capfd.readouterr().err
    assert f"stopped: of 3 epochs, {words} saved in" in stopped
    assert "Run the same command again to resume" in stopped
    assert train(train_arguments, tmp_path / "run", "--seed", "6") == 1
    assert "seed: 5 there, 6 now" in one_line(capfd)

    # A line of an epoch whose checkpoint was not saved.
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "val_perplexity": 0.0}\n')
    assert train(train_arguments, tmp_path / "run") == 0
    assert f"resuming after {words.rpartition(' ')[0]}\n" in capfd.readouterr().out
    assert_same_checkpoint(tmp_path / "run", finished_run, 3)
    keys = ("epoch", "final", "loss", "val_loss", "val_perplexity", "learning_rate", "steps")
    ours, theirs = (
        [{key: line.get(key) for key in keys} for line in RunFolder(run).read_metrics()]
        for run in (tmp_path / "run", finished_run)
    )
    assert ours == theirs


@pytest.fixture(scope="module")
def short_run(train_arguments, tmp_path_factory):
    """A finished run of 2 epochs, trained in a thread as a notebook may do; never changed."""
    run = tmp_path_factory.mktemp("runs") / "short"
    arguments = [argument for argument in train_arguments if "--epochs" not in argument]
    arguments += ["--output", str(run), "--epochs=2"]
    thread = threading.Thread(target=main, args=(arguments,))
    thread.start()
    thread.join()
    return run


def test_a_training_runs_in_any_thread(short_run):
    assert RunFolder(short_run).is_finished


def timeless(run):
    """Returns the lines of metrics.jsonl without values that depend on the clock."""
    return [
        {key: value for key, value in line.items() if "second" not in key}
        for line in RunFolder(run).read_metrics()
    ]


def assert_same_run(run, other, epochs):
    """Asserts that a continued run equals a run with as many epochs from the start."""
    assert timeless(run) == timeless(other)
    assert_same_checkpoint(run, other, epochs)
    models = [keras.saving.load_model(folder / "model.keras") for folder in (run, other)]
    for ours, theirs in zip(*[model.get_weights() for model in models], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    ours, theirs = (RunFolder(folder) for folder in (run, other))
    assert ours.read_record().settings == theirs.read_record().settings
    for kind in ("state", "weights", "average"):
        assert ours.positions_with(kind) == theirs.positions_with(kind)


def test_adding_epochs_later_gives_the_same_run_as_training_them_at_once(
    short_run, finished_run, train_arguments, tmp_path, capfd
):
    run = shutil.copytree(short_run, tmp_path / "run")
    assert train(train_arguments, run, "--epochs=3", "--log-seconds=0.001") == 0
    assert_same_run(run, finished_run, 3)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "reading the text"
    assert "resuming after 2 epochs" in lines
    assert any(re.match(r"epoch 3 of 3, batch 2 of \d+: loss \d", line) for line in lines)


def test_a_finished_run_is_trained_further_only_with_raised_limits(
    short_run, train_arguments, tmp_path, capfd
):
    for more, message in (
        (["--epochs=2"], "must not hold a finished run"),
        (["--epochs=1"], "must not hold a finished run"),
        (["--epochs=2", "--dropout=0.2"], "must not hold a finished run"),
        (["--epochs=4", "--dropout=0.2"], r"dropout: 0\.1 there, 0\.2 now\. Give the original"),
        (["--epochs=4", "--max-minutes=5"], "max_minutes: None there, 5.0 now"),
    ):
        assert train(train_arguments, short_run, *more) == 1
        assert re.search(message, one_line(capfd))

    shutil.copytree(short_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # nothing to resume from
    assert train(train_arguments, tmp_path / "run", "--epochs=4") == 1
    assert re.search("must not hold a finished run.* put its checkpoints back", one_line(capfd))


@pytest.mark.slow
def test_a_run_that_is_trained_further_keeps_its_model_until_the_new_one_replaces_it(
    short_run, finished_run, train_arguments, tmp_path, monkeypatch
):
    run = shutil.copytree(short_run, tmp_path / "run")
    model = (run / "model.keras").read_bytes()
    with monkeypatch.context() as patch:
        stop_at(patch, Position(2, 2), KeyboardInterrupt())
        assert train(train_arguments, run, "--epochs=3") == 130
    assert (run / "model.keras").read_bytes() == model
    assert not RunFolder(run).is_finished
    RunFolder(run).check_finished()  # commands may still read it
    assert RunFolder(run).read_record().settings.epochs == 3

    with monkeypatch.context() as patch:
        patch.setattr("training.runs.fitting.save_model", stop)
        assert train(train_arguments, run, "--epochs=3") == 130
    assert (run / "model.keras").read_bytes() == model
    assert not RunFolder(run).is_finished
    assert train(train_arguments, run, "--epochs=3") == 0
    assert_same_run(run, finished_run, 3)


def stop(*_):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_training_that_ran_out_of_time_resumes_with_more_time(
    finished_run, train_arguments, tmp_path
):
    run = tmp_path / "run"
    assert train(train_arguments, run, "--max-minutes=0.00001") == 0
    assert train(train_arguments, run, "--max-minutes=0.00001") == 1
    assert train(train_arguments, run, "--max-minutes=0.00002") == 0  # still too little
    assert RunFolder(run).read_metrics()[-1]["epochs"] == [1]
    assert train(train_arguments, run) == 0
    assert_same_run(run, finished_run, 3)


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["last", "best"])
def test_more_epochs_and_more_patience_with_averages(train_arguments, tmp_path, choice):
    more = [
        "--ema-decay=0.8",
        f"--average-epochs={choice}",
        "--accumulation-steps=2",
        "--dropout=0.3",
        "--peak-learning-rate=1.0",  # so high that an epoch may be worse than the one before
        "--warmup-steps=3",
        "--keep-checkpoints=1",
    ]
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert train(train_arguments, run, *more, "--epochs=2", "--early-stopping-epochs=1") == 0
    assert train(train_arguments, run, *more, "--epochs=4", "--early-stopping-epochs=1") == 0
    assert train(train_arguments, run, *more, "--epochs=6", "--early-stopping-epochs=3") == 0
    assert train(train_arguments, whole, *more, "--epochs=6", "--early-stopping-epochs=3") == 0
    assert_same_run(run, whole, RunFolder(whole).position_saved.epoch)


AVERAGED = [
    "--ema-decay=0.8",
    "--average-checkpoints=1",
    "--accumulation-steps=2",
    "--dropout=0.3",
    "--epochs=2",
    "--checkpoint-steps=3",
]


@pytest.fixture(scope="module")
def averaged_run(train_arguments, tmp_path_factory):
    """A finished run that keeps a moving average of its weights; never changed."""
    run = tmp_path_factory.mktemp("runs") / "averaged"
    assert train(train_arguments, run, *AVERAGED) == 0
    return run


def test_the_moving_average_is_validated_and_kept(averaged_run):
    run = RunFolder(averaged_run)
    *epochs, final = run.read_metrics()
    [best] = final["epochs"]
    perplexities = [line["val_perplexity"] for line in epochs]
    assert best == 1 + perplexities.index(min(perplexities))
    assert final["val_perplexity"] == pytest.approx(min(perplexities), rel=1e-5)

    model = keras.saving.load_model(averaged_run / "model.keras")
    averages = load_weights(run, model, Position(best, 0), "average")
    for weight, average in zip(model.get_weights(), averages, strict=True):
        np.testing.assert_allclose(weight, average, rtol=1e-6)
    assert run.positions_with("average") == {Position(best, 0), Position(2, 0)}
    weights = load_weights(run, model, Position(2, 0))
    assert not np.allclose(weights[0], averages[0], rtol=1e-3)  # training had its own


@pytest.mark.slow
def test_a_moving_average_is_resumed_exactly(averaged_run, train_arguments, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, Position(1, 3), KeyboardInterrupt())  # between the parts of an update
        assert train(train_arguments, run, *AVERAGED) == 130
    assert train(train_arguments, run, *AVERAGED) == 0
    assert_same_checkpoint(run, averaged_run, 2)
    ours, theirs = (
        [
            {key: value for key, value in line.items() if "second" not in key}
            for line in RunFolder(folder).read_metrics()
        ]
        for folder in (run, averaged_run)
    )
    assert ours == theirs
    assert all(line["gradient_norm"] > 0 for line in ours[:2])


@pytest.mark.slow
def test_a_new_run_can_start_from_a_finished_run_with_different_settings(
    finished_run, train_arguments, tmp_path, capfd
):
    more = ["--initial-run", str(finished_run), "--epochs=1", "--seed=9"]
    slow = ["--peak-learning-rate=1e-9"]  # so slow that the weights do not change
    assert train(train_arguments, tmp_path / "run", *more, *slow) == 0
    *_, initial = RunFolder(finished_run).read_metrics()
    *_, final = RunFolder(tmp_path / "run").read_metrics()
    assert final["val_perplexity"] == pytest.approx(initial["val_perplexity"], rel=1e-4)
    tokenizers = [
        (run / "tokenizer.model").read_bytes() for run in (finished_run, tmp_path / "run")
    ]
    assert tokenizers[0] == tokenizers[1]

    capfd.readouterr()
    assert train(train_arguments, tmp_path / "other", *more, "--num-layers=2") == 1
    assert "the initial run must hold a model of the same size" in one_line(capfd)
    assert not (tmp_path / "other").exists()


def test_a_wrong_initial_run_is_reported_in_one_line(train_arguments, tmp_path, capfd):
    more = ["--initial-run", str(tmp_path / "absent")]
    assert train(train_arguments, tmp_path / "run", *more) == 1
    assert "a finished run must hold config.yaml. Received: no such file" in one_line(capfd)


@pytest.mark.slow
def test_epochs_can_be_judged_by_bleu(train_arguments, tmp_path):
    more = ["--validation-bleu", "true", "--monitor", "val_bleu", "--average-checkpoints", "1"]
    assert train(train_arguments, tmp_path / "run", *more) == 0
    *epochs, final = RunFolder(tmp_path / "run").read_metrics()
    scores = [line["val_bleu"] for line in epochs]
    assert all(0 <= score <= 100 for score in scores)
    best = max(epochs, key=lambda line: (line["val_bleu"], -line["val_perplexity"]))
    assert final["epochs"] == [best["epoch"]]


def test_a_training_that_runs_out_of_time_keeps_its_epochs(train_arguments, tmp_path, capfd):
    run = tmp_path / "run"
    assert train(train_arguments, run, "--max-minutes", "0.00001") == 0
    reason = "one more would take it beyond 1e-05 minutes (max_minutes)"
    assert f"ended after 1 of 3 epochs: {reason}\n" in capfd.readouterr().out
    metrics = RunFolder(run).read_metrics()
    assert [line["epoch"] for line in metrics if "epoch" in line] == [1]
    assert metrics[-1]["epochs"] == [1]
    assert RunFolder(run).is_finished


def test_no_room_for_the_model_is_reported_in_one_line_and_leaves_no_partial_model(
    small_model, tmp_path, capfd
):
    """The real thing: the kernel itself refuses to write beyond 4,096 bytes."""
    run = RunFolder(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        assert run_command(lambda _: save_model(run, small_model)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "model.keras must fit on the disk. Received: File too large" in one_line(capfd)
    assert os.listdir(tmp_path) == []


def test_no_room_for_tensorboard_is_reported_in_one_line(tmp_path, capfd):
    import tensorflow as tf

    def command(_):
        with faults_named(types.SimpleNamespace(fault=None), tmp_path / "logs"):
            raise tf.errors.ResourceExhaustedError(None, None, "x.v2; No space left on device")

    assert run_command(command) == 1
    assert "logs must fit on the disk" in one_line(capfd)


@pytest.mark.slow
def test_sigterm_stops_a_training_and_says_how_to_resume(train_arguments, tmp_path):
    options = once([*train_arguments, "--epochs", "1000"])
    command = [sys.executable, "-m", "training.train", *options]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    try:
        wait_for(tmp_path / "run" / "checkpoints" / "epoch_0001_batch_00000.state.npz", process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert "\nstopping after this update; once more stops at once\n" in errors
    assert "\nstopped: of 1,000 epochs, " in errors
    assert errors.endswith("Run the same command again to resume.\n")


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def write(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\nb\n", "must have the same number of lines. Received: "),
        (b"", "bad.source: must hold at least one line of text"),
        (b"\n  \n\n", "bad.source: must hold at least one line of text"),
        (b"a\nb\xff\n", "bad.source:2: a line must be valid UTF-8"),
        (b"a\n\0b\n", "bad.source:2: a line must be text in UTF-8. Received: a NUL byte"),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_faulty_text_is_reported_in_one_line_and_leaves_no_folder(
    train_arguments, tmp_path, capfd, split, data, message
):
    path = write(tmp_path, "bad.source", data)
    assert train(train_arguments, tmp_path / "run", f"--{split}-source", path) == 1
    assert message in one_line(capfd)
    assert not (tmp_path / "run").exists()


def test_a_missing_text_is_reported_in_one_line(train_arguments, tmp_path, capfd):
    assert train(train_arguments, tmp_path / "run", "--train-target", "absent.txt") == 1
    assert "absent.txt: must be a file that can be read. Received: No such file" in one_line(capfd)


@pytest.mark.parametrize(
    "option", ["train-source", "train-target", "validation-source", "tokenizer", "config"]
)
def test_a_pipe_is_reported_in_one_line_without_waiting(train_arguments, tmp_path, capfd, option):
    os.mkfifo(tmp_path / "fifo")
    for more in ([], ["--steps-per-epoch=3"]):
        assert train(train_arguments, tmp_path / "run", f"--{option}={tmp_path / 'fifo'}", *more)
        assert "fifo: must be a regular file, because files are read" in one_line(capfd)
    assert not (tmp_path / "run").exists()


def test_a_truncated_gz_file_is_reported_in_one_line(train_arguments, tmp_path, capfd):
    path = write(tmp_path, "cut.gz", gzip.compress(b"a b c\n" * 99)[:-9])
    assert train(train_arguments, tmp_path / "run", "--train-source", path) == 1
    assert "cut.gz: must be a whole gzip file" in one_line(capfd)


def test_a_text_with_too_few_sub_words_causes_one_message_and_resumes(
    train_arguments, tmp_path, monkeypatch, caplog
):
    arguments = [*train_arguments, "--vocabulary-size=5000", "--epochs=1"]
    with monkeypatch.context() as patch:
        stop_at(patch, Position(0, 2), KeyboardInterrupt())
        assert train(arguments, tmp_path / "run") == 130
    assert train(arguments, tmp_path / "run") == 0
    given = SubwordTokenizer.load(tmp_path / "run" / "tokenizer.model").vocabulary_size
    assert given < 5000
    assert [message for message in caplog.messages if "sub-words" in message] == [
        f"vocabulary_size=5000 is more than the text gives: the tokenizer has {given} sub-words"
    ]
    record = RunFolder(tmp_path / "run").read_record()
    assert record.settings.vocabulary_size == given
    assert record.asked_for == {"vocabulary_size": 5000}


def test_a_run_that_is_trained_further_keeps_the_requested_vocabulary_size(short_run, tmp_path):
    """Accepts the tokenizer's size, as in config.yaml, and the requested size."""
    run = RunFolder(shutil.copytree(short_run, tmp_path / "run"))
    record = run.read_record()
    run.write_record(dataclasses.replace(record, asked_for={"vocabulary_size": 5000}))
    settings = dataclasses.replace(record.settings, epochs=4)
    tokenizer = SubwordTokenizer.load(run.tokenizer_path)
    longer = dataclasses.replace(record, settings=settings).with_tokenizer(tokenizer)
    write_beginning(run, longer, tokenizer)
    again = dataclasses.replace(settings, vocabulary_size=5000)
    assert run.read_record().settings == settings
    assert dataclasses.replace(record, settings=again).differences(run.read_record()) == []


def test_a_vocabulary_too_small_for_the_text_is_reported_in_one_line(
    train_arguments, tmp_path, capfd
):
    assert train(train_arguments, tmp_path / "run", "--vocabulary-size", "200") == 1
    assert "vocabulary_size=200, and the text needs " in one_line(capfd)
    assert not (tmp_path / "run").exists()


def test_a_run_translates_composed_and_decomposed_accents_alike(train_arguments, tmp_path):
    assert train(train_arguments, tmp_path / "run", "--normalization=nfkc", "--epochs=1") == 0
    assert RunFolder(tmp_path / "run").read_record().settings.normalization == "nfkc"
    translator = Translator.load(tmp_path / "run")
    assert translator.tokenizer.normalization == "nfkc"
    texts = ("se\u0301ven \ufb01ve \uff54wo", "s\xe9ven five two")
    one, other = (translator.n_best([text], 2) for text in texts)
    assert one == other


def test_a_given_tokenizer_keeps_its_own_normalization(train_arguments, tmp_path, capfd):
    for normalization in ("none", "nfkc"):
        tokenizer = SubwordTokenizer.train_from_lines(["ab"], 300, normalization=normalization)
        tokenizer.save(tmp_path / normalization)
    capfd.readouterr()
    given = [*train_arguments, "--epochs=1", f"--tokenizer={tmp_path / 'none'}"]
    assert train(given, tmp_path / "run", "--normalization=nfkc") == 1
    assert "Received: normalization=nfkc, and a tokenizer with normalization=none" in one_line(
        capfd
    )
    assert not (tmp_path / "run").exists()
    given[-1] = f"--tokenizer={tmp_path / 'nfkc'}"
    assert train(given, tmp_path / "run") == 0
    record = RunFolder(tmp_path / "run").read_record()
    assert record.settings.normalization == "nfkc"
    assert record.asked_for["normalization"] == "none"


def test_pairs_that_are_all_too_long_leave_no_folder(train_arguments, tmp_path, capfd):
    lines = "one two three four five six seven eight nine ten\n" * 40
    path = write(tmp_path, "long", lines.encode())
    files = [f"--train-source={path}", f"--train-target={path}"]
    more = [*files, "--max-length=4", "--vocabulary-size=280"]
    assert train(train_arguments, tmp_path / "run", *more) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert "the text must hold at least one pair" in error
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_created_is_reported_in_one_line(train_arguments, tmp_path, capfd):
    write(tmp_path, "file", b"")
    assert train(train_arguments, tmp_path / "file" / "run") == 1
    assert "Not a directory" in one_line(capfd)


@pytest.mark.slow
@pytest.mark.parametrize("floatx", ["float64", "float16"])
def test_a_keras_json_changes_neither_a_training_nor_its_translations(
    floatx, finished_run, train_arguments, tmp_path
):
    """The weights are equal to the last bit, and the command translates with either file."""
    (tmp_path / "keras.json").write_text(json.dumps({"floatx": floatx, "backend": "tensorflow"}))
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}

    def run_module(name, *arguments, environment, **options):
        command = [sys.executable, "-m", f"training.{name}", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, check=True, timeout=280, **options
        ).stdout

    run = tmp_path / "run"
    run_module("train", *train_arguments, "--output", str(run), environment=environment)
    assert_same_checkpoint(run, finished_run, 3)
    metrics, expected = (
        [{k: v for k, v in line.items() if "second" not in k} for line in other.read_metrics()]
        for other in (RunFolder(run), RunFolder(finished_run))
    )
    assert metrics == expected
    text = b"one two\nthree\n"
    translations = run_module("translate", str(run), environment=environment, input=text)
    assert translations == run_module(
        "translate", str(finished_run), environment=dict(os.environ), input=text
    )


def test_training_leaves_floatx_and_the_dtype_policy_unchanged():
    import keras

    from training.runs.compiled_model import number_formats

    earlier = keras.config.floatx(), keras.config.dtype_policy().name
    with pytest.raises(KeyboardInterrupt), number_formats("mixed_bfloat16"):
        assert keras.config.floatx() == "float32"
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        raise KeyboardInterrupt
    assert (keras.config.floatx(), keras.config.dtype_policy().name) == earlier


def test_the_saved_model_has_no_optimizer_state(tmp_path):
    import keras

    from training.runs.compiled_model import compiled_model

    settings = TrainingSettings(num_layers=1, model_dim=64, feed_forward_dim=64, num_heads=2)
    model = compiled_model(dataclasses.replace(settings, vocabulary_size=5000), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    run = RunFolder(tmp_path)
    save_model(run, model)
    num_bytes = run.model_path.stat().st_size
    assert num_bytes == pytest.approx(4 * model.count_params(), rel=0.1)
    read = keras.saving.load_model(run.model_path)
    for weight, expected in zip(read.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert read.max_source_tokens == model.max_source_tokens
