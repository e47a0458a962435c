"""The claim of parallel steps: equal tokens, equal parameters, one line for each stack."""

import json

import numpy as np
import pytest

from training.command_line.running import run_command
from training.experiments.__main__ import main
from training.experiments.parallel import VOCABULARY, _steps, training_model
from training.experiments.stacks import COMPILED, KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_updates_every_weight(seeded, kind):
    model = training_model(kind, 5, 8, 1)
    model.jit_compile = False  # which only takes time here
    before = model.get_weights()
    _steps(model, batch=3, length=5)(2)
    assert model.optimizer.iterations == 2
    assert model.output_shape == (None, 5, VOCABULARY)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.abs(old - new).max() > 0


def test_xla_compiles_stacks_with_a_loop():
    assert {kind: training_model(kind, 4, 8, 1).jit_compile for kind in KINDS} == {
        kind: kind in COMPILED for kind in KINDS
    }


@pytest.mark.slow
def test_recurrence_takes_longer_on_long_sequences(tmp_path, capsys):
    options = ["--lengths", "64", "4", "--tokens=256", "--model-dim=8", "--repeats=2"]
    assert run_command(main, ["parallel", *options, f"--output={tmp_path}"]) == 0
    numbers = json.loads((tmp_path / "parallel.json").read_text())
    assert (numbers["lengths"], numbers["tokens"]) == ([4, 64], 256)
    parameters = numbers["parameters"].values()
    assert len(parameters) == len(KINDS)
    for kind in KINDS:
        assert np.shape(numbers["seconds"][kind]) == (2, 2)
        assert np.min(numbers["seconds"][kind]) > 0
    printed = capsys.readouterr().out
    assert printed in (tmp_path / "parallel.md").read_text()
    assert [line.split(" | ")[0] for line in printed.splitlines()[2:]] == [
        f"| {label}" for label in KINDS.values()
    ]
    assert (tmp_path / "parallel.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (["--lengths", "8", "24"], "--lengths must divide --tokens 4096. Received: 24"),
        (["--tokens", "0"], "--tokens must be at least 1"),
        (["--model-dim", "96"], "--model-dim must be a multiple of 4 up to 64, or of 64"),
        (["--threads", "-1"], "--threads must be 0 or more"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(wrong, complaint, tmp_path, capfd):
    assert run_command(main, ["parallel", f"--output={tmp_path}", *wrong]) == 2
    error = capfd.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
