"""Counts of operations, and the printed lines of benchmarks; the speed itself is not tested."""

import json
import subprocess
import sys

import pytest

from keras_transformer.config import TransformerConfig
from keras_transformer.optimizers import Adam
from training.benchmark import TASKS, main
from training.benchmarks.flops import forward_flops
from training.benchmarks.step_profile import OUTSIDE, PARTS, REST
from training.benchmarks.training_speed import model_to_train
from training.command_line.running import run_command
from training.runs.compiled_model import compiled_model
from training.settings import TrainingSettings


def test_the_operations_of_a_forward_pass_are_the_sum_over_its_products():
    config = TransformerConfig(
        vocabulary_size=100, num_layers=2, model_dim=8, feed_forward_dim=12, num_heads=2
    )
    projections = 4 * 8 * 8  # of one position: query, key, value and output
    feed_forward = 2 * 8 * 12
    encoder = 5 * (projections + feed_forward) + 2 * 5 * 5 * 8
    self_attention = 3 * projections + 2 * 3 * 3 * 8
    cross_attention = 3 * (projections // 2) + 5 * (projections // 2) + 2 * 3 * 5 * 8
    decoder = self_attention + cross_attention + 3 * feed_forward
    multiply_adds = 7 * (2 * (encoder + decoder) + 3 * 8 * 100)
    assert forward_flops(config, batch=7, source_length=5, target_length=3) == 2 * multiply_adds


def test_operations_follow_the_widths_of_keys_and_values():
    wide = TransformerConfig(
        vocabulary_size=5, num_layers=1, model_dim=8, feed_forward_dim=1, num_heads=2, value_dim=9
    )
    plain = TransformerConfig(
        vocabulary_size=5, num_layers=1, model_dim=8, feed_forward_dim=1, num_heads=2
    )
    # Three attentions over one position: values, their sums, and the output projections.
    more = 3 * 2 * (9 - 4) * (8 + 1 + 8)
    assert forward_flops(wide, 1, 1, 1) - forward_flops(plain, 1, 1, 1) == 2 * more


def test_the_training_benchmark_prints_one_line_of_json(capfd):
    Adam(0.1)  # so that the measured optimizer gets another name
    # Large enough for every part to take longer than operations that the profiler omits.
    sizes = ["--batch=16", "--source-length=30", "--target-length=40", "--vocabulary-size=50"]
    assert run_command(main, ["train", *sizes, "--steps=2", "--repeats=3", "--profile"]) == 0
    [line] = capfd.readouterr().out.splitlines()
    measured = json.loads(line)
    assert measured["task"] == "train"
    assert (measured["batch"], measured["source_length"], measured["target_length"]) == (16, 30, 40)
    assert measured["step_ms_min"] <= measured["step_ms"] <= measured["step_ms_max"]
    expected = 16 * (30 + 40) / (measured["step_ms"] / 1000)
    assert measured["tokens_per_second"] == pytest.approx(expected, rel=0.02)
    assert 0 < measured["share_of_peak"] < 1
    assert measured["first_step_seconds"] > 0
    profile = measured["profile_ms"]
    assert profile.keys() == {*PARTS, REST, OUTSIDE}
    for part in ("attention", "feed-forward networks", "dropout", "optimizer", REST):
        assert profile[part] > 0


@pytest.mark.slow
def test_nothing_is_printed_except_that_line_and_progress():
    arguments = ["--steps=1", "--repeats=1", "--batch=2", "--vocabulary-size=50"]
    command = [sys.executable, "-m", "training.benchmark", "train", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert process.returncode == 0, process.stderr
    assert len(process.stdout.splitlines()) == 1
    told = ["starting Keras ...", "building tiny, then 1 times 1 updates ..."]
    assert process.stderr.splitlines() == told


def test_the_measured_model_is_compiled_as_in_training():
    config = TransformerConfig.tiny(50, dropout=0.3, label_smoothing=0.2)
    measured = model_to_train(config, xla=False)
    settings = TrainingSettings(
        **{name: getattr(config, name) for name in ("num_layers", "model_dim", "num_heads")},
        feed_forward_dim=config.feed_forward_dim,
        vocabulary_size=50,
        dropout=0.3,
        label_smoothing=0.2,
    )
    trained = compiled_model(settings, jit_compile=False)
    assert measured.count_params() == trained.count_params()
    for part in ("optimizer", "loss"):
        one, other = [getattr(model, part).get_config() for model in (measured, trained)]
        assert {**one, "name": None} == {**other, "name": None}  # optimizers are numbered


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_says_what_can_be_measured(capsys, option):
    with pytest.raises(SystemExit, match="0"):
        main([option])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines] == list(TASKS)


@pytest.mark.parametrize("arguments", [[], ["trian"], ["--preset", "tiny"]])
def test_the_benchmark_to_run_must_be_named(arguments, capfd):
    assert run_command(main, arguments) == 2
    assert "must name what to measure" in capfd.readouterr().err
