"""Training on streamed text, on several corpora, and on parts of batches."""

import gzip

import numpy as np
import pytest

from tests.training.small_run import once
from training.command_line.parser import parse
from training.command_line.running import run_command
from training.devices.base import Devices
from training.runs.checkpoints import load_arrays
from training.runs.folder import Position, RunFolder
from training.runs.record import RunRecord
from training.runs.text import shared_tokenizer
from training.settings import SETTING_NAMES, make_settings, make_settings_parser
from training.train import main

TRAIN_OPTIONS = ("--train-source", "--train-target")


@pytest.fixture
def arguments(train_arguments):
    """The arguments of a small training run, without the training text."""
    return [option for option in train_arguments if not option.startswith(TRAIN_OPTIONS)]


@pytest.fixture
def shards(text_files, tmp_path):
    """The training text in three files, two of them compressed: their pattern."""
    with open(text_files["train_source"]) as source, open(text_files["train_target"]) as target:
        pairs = [f"{one.strip()}\t{other}" for one, other in zip(source, target, strict=True)]
    for number in range(3):
        path, opened = tmp_path / f"part-{number}.tsv", open
        if number:
            path, opened = path.with_suffix(".tsv.gz"), gzip.open
        with opened(path, "wt") as file:
            file.writelines(pairs[50 * number : 50 * number + 50])
    return str(tmp_path / "part-*")


def trained(arguments, output, *more):
    assert run_command(main, once([*arguments, f"--output={output}", *more])) == 0
    return RunFolder(output)


def settings_of(options):
    values = parse(make_settings_parser(), options)
    return make_settings({name: values[name] for name in SETTING_NAMES})


def error_of(arguments, output, capsys, *more):
    assert run_command(main, once([*arguments, f"--output={output}", *more])) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    return line


def source(*names):
    """Returns the corpus as an option, because a pattern's files need not be named .tsv."""
    corpora = ", ".join(f'{{"source": "{name}"}}' for name in names)
    return f"--train-corpora=[{corpora}]"


def test_a_streamed_text_trains_for_the_given_steps(arguments, shards, tmp_path):
    run = trained(arguments, tmp_path / "run", source(shards), "--steps-per-epoch=4")
    assert [line["steps"] for line in run.read_metrics() if "epoch" in line] == [4, 8, 12]
    assert run.is_finished


def test_all_sources_of_randomness_can_be_combined(arguments, shards, tmp_path):
    run = trained(
        arguments,
        tmp_path / "run",
        source(shards, shards),
        "--steps-per-epoch=3",
        "--sampling=0.2",
        "--max-length-ratio=2",
        "--accumulation-steps=3",
        "--epochs=2",
        "--dropout=0.2",
    )
    assert [line["steps"] for line in run.read_metrics() if "epoch" in line] == [3, 6]


def test_a_tokenizer_can_be_given_or_trained_on_part_of_the_text(
    arguments, shards, tmp_path, finished_run
):
    def tokenizer(*options):
        settings = settings_of([*arguments, source(shards), *options])
        return shared_tokenizer(RunFolder(tmp_path), settings, Devices())

    whole = RunFolder(finished_run).tokenizer_path.read_bytes()
    part = tokenizer("--tokenizer-pairs=20")
    assert tokenizer().serialized_model == whole
    assert part.serialized_model != whole
    part.save(tmp_path / "part.model")
    given = tokenizer(f"--tokenizer={tmp_path / 'part.model'}")
    assert given.serialized_model == part.serialized_model


@pytest.mark.slow
def test_accumulated_parts_of_a_batch_make_the_same_update(train_arguments, tmp_path):
    options = ["--dropout=0", "--epochs=2", "--average-checkpoints=1"]
    runs = [
        trained(train_arguments, tmp_path / f"{steps}", *options, f"--accumulation-steps={steps}")
        for steps in (1, 3)
    ]
    # The keys' biases have a gradient of 0, so Adam sees only rounding errors.
    paths = [run.checkpoint_path(Position(2, 0), "weights") for run in runs]
    np.testing.assert_allclose(*(load_arrays(path)["weights.00000"] for path in paths), atol=2e-5)
    whole, parts = [run.read_metrics()[:2] for run in runs]
    for one, other in zip(whole, parts, strict=True):
        assert one["steps"] == other["steps"]
        assert one["perplexity"] == pytest.approx(other["perplexity"], rel=1e-5)
        assert one["val_perplexity"] == pytest.approx(other["val_perplexity"], rel=1e-5)


def test_an_error_in_a_streamed_text_is_reported_in_one_line(
    arguments, tmp_path, capsys, finished_run
):
    lines = ["one two\ttwo one\n"] * 30_000
    lines[29_000] = "one two\n"
    (tmp_path / "pairs.tsv").write_text("".join(lines))
    error = error_of(
        arguments,
        tmp_path / "run",
        capsys,
        f"--train-source={tmp_path / 'pairs.tsv'}",
        "--steps-per-epoch=10000",
        "--checkpoint-steps=50",
        f"--tokenizer={RunFolder(finished_run).tokenizer_path}",
    )
    assert "pairs.tsv:29001: a line must have 2 columns" in error
    assert RunFolder(tmp_path / "run").position_saved > Position(0, 0)


def test_a_missing_file_of_a_stream_is_named_before_anything_is_written(
    arguments, tmp_path, capsys
):
    error = error_of(arguments, tmp_path / "run", capsys, source("no-*.tsv"), "--steps-per-epoch=3")
    assert "no-*.tsv: must match at least one file" in error
    assert not (tmp_path / "run").exists()


def test_unequal_weights_need_a_stream(arguments, shards, tmp_path, capsys):
    corpora = f'[{{"source": "{shards}"}}, {{"source": "{shards}", "weight": 3}}]'
    error = error_of(arguments, tmp_path / "run", capsys, f"--train-corpora={corpora}")
    assert "weights must be equal" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["a line more", "another weight"])
def test_a_run_is_resumed_only_with_the_same_text(arguments, shards, tmp_path, capsys, change):
    options = [*arguments, source(shards), "--steps-per-epoch=4"]
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.write_record(RunRecord.of(settings_of(options)))
    if change == "a line more":
        with open(shards.replace("*", "0.tsv"), "a") as file:
            file.write("one\tone\n")
    else:
        options[-2] = source(shards).replace("}", ', "weight": 2}')
    error = error_of(options, run.path, capsys)
    assert "train_corpora: sha256" in error
