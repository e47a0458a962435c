"""Measurements of Table 1: each measures what its name says."""

import json

import keras
import numpy as np
import pytest

from training.command_line.running import run_command
from training.experiments.__main__ import main
from training.experiments.layers import (
    KINDS,
    RADIUS,
    Line,
    _crossing_cells,
    _crossings,
    _Work,
    make_layer,
)
from training.experiments.slopes import Crossing

# Kernels with d = 64 inputs: four projections; three gates for input and state; three taps.
SQUARES = {"self_attention": 4, "restricted": 4, "recurrent": 6, "convolutional": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_has_the_stated_number_of_weights(kind):
    layer = make_layer(kind, 64)
    outputs = layer(keras.random.normal((2, 3 * RADIUS, 64)))
    assert outputs.shape == (2, 3 * RADIUS, 64)
    kernels = [weight for weight in layer.weights if "bias" not in weight.name]
    assert sum(np.prod(weight.shape) for weight in kernels) == SQUARES[kind] * 64**2


def test_a_training_pass_uses_the_gradient_of_training():
    # Outside of training, TensorFlow derives the GRU's gradient itself, which XLA computes in n².
    work = _Work(make_layer("recurrent", 8), False, (1, RADIUS, 8), "training")
    work.once()
    graph = work.results.get_concrete_function(work.inputs).graph
    assert "IdentityN" in {operation.type for operation in graph.get_operations()}


@pytest.mark.parametrize("kind", KINDS)
def test_counted_operations_are_projections_and_the_layers_own_work(kind):
    n, d = 7 * RADIUS, 5
    attention = {"self_attention": n * n * d, "restricted": n * 3 * RADIUS * d}
    expected = SQUARES[kind] * n * d * d + 2 * attention.get(kind, 0)
    assert KINDS[kind].multiply_adds(n, d) == expected


def test_operation_counts_of_self_attention_and_recurrence_cross_at_the_width():
    lengths = [64, 128, 256, 512]
    lines = {
        ("forward", width, kind): Line([KINDS[kind].multiply_adds(n, width) for n in lengths], [])
        for width in (100, 300)
        for kind in ("self_attention", "recurrent")
    }
    crossings = _crossings(lines, lengths)
    # Between the lengths, the projections bend the true line of self-attention.
    assert crossings["forward", 100][0] == pytest.approx(100, rel=0.05)
    assert crossings["forward", 300][0] == pytest.approx(300, rel=0.05)
    assert _crossing_cells(100, Crossing(250.0, 3.0, True), lengths) == ["250", "2.5"]


def test_lines_that_do_not_cross_are_described():
    lines = [Crossing(None, None, is_above) for is_above in (True, False)]
    cells = [_crossing_cells(64, line, [32, 4096]) for line in lines]
    assert cells == [
        ["nowhere: longer at each n from 32 to 4,096", "-"],
        ["nowhere: shorter still at n = 4,096", "-"],
    ]


@pytest.mark.slow
def test_table_numbers_and_picture_are_written(tmp_path, capsys):
    sizes = ["--lengths", "64", "32", "--widths", "8", "12", "--passes", "forward"]
    options = [*sizes, "--repeats=2", "--threads=0", "--batch=3"]
    assert run_command(main, ["layers", *options, f"--output={tmp_path}"]) == 0
    numbers = json.loads((tmp_path / "layers.json").read_text())
    assert (numbers["lengths"], numbers["widths"], numbers["batch"]) == ([32, 64], [8, 12], 3)
    keys = [(line["width"], line["kind"], line["pass"]) for line in numbers["lines"]]
    assert keys == [(width, kind, "forward") for width in (8, 12) for kind in KINDS]
    for line in numbers["lines"]:
        assert np.shape(line["seconds"]) == (2, 2)
        assert np.min(line["seconds"]) > 0
        assert line["counted"] == pytest.approx(
            np.log2(KINDS[line["kind"]].multiply_adds(64, line["width"]))
            - np.log2(KINDS[line["kind"]].multiply_adds(32, line["width"]))
        )
    printed = capsys.readouterr().out
    assert printed in (tmp_path / "layers.md").read_text()
    assert printed.count("| self-attention | ") == 2 + 1  # by width, and once for all widths
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_memory_of_self_attention_grows_with_the_square_of_the_length(tmp_path):
    sizes = ["--lengths", "512", "2048", "--widths", "64"]
    options = [*sizes, "--passes", "forward", "training", "--repeats=1", "--threads=0"]
    assert run_command(main, ["layers", *options, f"--output={tmp_path}"]) == 0
    numbers = json.loads((tmp_path / "layers.json").read_text())
    lines = {(line["kind"], line["pass"]): line for line in numbers["lines"]}
    attention, recurrent = [lines[kind, "training"] for kind in ("self_attention", "recurrent")]
    if attention["mib"][1] is None:
        pytest.skip("this build of TensorFlow keeps no account of its memory")
    assert attention["mib"][1] >= 3 * 4 * 2048**2 / 2**20  # scores, weights, a gradient
    assert 1.6 < attention["exponent_of_memory"] < 2.4
    assert recurrent["mib"][1] < attention["mib"][1] / 2
    # A loop with four times as many steps takes longer on any machine.
    assert np.min(recurrent["seconds"][1]) > 1.5 * np.min(recurrent["seconds"][0])
    assert np.min(attention["seconds"][1]) > np.min(lines["self_attention", "forward"]["seconds"])


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (["--lengths", "64", "50"], "--lengths must be multiples of 32"),
        (["--lengths", "64", "64"], "--lengths must be two or more"),
        (["--widths", "96"], "--widths must be at most 64, or multiples of 64"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--slope-lengths", "1"], "--slope-lengths must be at least 2"),
        (["--passes", "backward"], "--passes must be"),
        (["--lenghts", "64"], "Did you mean --lengths?"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(wrong, complaint, tmp_path, capfd):
    assert run_command(main, ["layers", f"--output={tmp_path}", *wrong]) == 2
    error = capfd.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
