"""The path length: the task asks only for the token k positions back."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from training.command_line.running import run_command
from training.experiments.__main__ import main
from training.experiments.path import ANSWERS, TASKS, Learner, sequences
from training.experiments.stacks import KINDS

SMALL = {"symbols": 3, "steps": 60, "batch": 16, "learning_rate": 0.02}
SMALL |= {"model_dim": 16, "num_blocks": 1}


@pytest.mark.parametrize("distance", [1, 6])
def test_the_answer_is_the_one_marked_token_k_before_the_last(distance):
    tokens, answers = sequences("one", np.random.default_rng(0), 500, distance, symbols=5)
    assert tokens.dtype == answers.dtype == np.int32
    assert ((tokens >= 5).sum(-1) == 1).all()
    np.testing.assert_array_equal(tokens[:, [-1 - distance]] - 5, answers)
    assert (tokens.shape, tokens.min(), tokens.max()) == ((500, 4 + distance), 0, 9)


@pytest.mark.parametrize("distance", [1, 30])
def test_each_answer_is_the_token_k_before_its_position(distance):
    tokens, answers = sequences("all", np.random.default_rng(0), 40, distance, symbols=5)
    assert (tokens.shape, answers.shape) == ((40, ANSWERS + distance), (40, ANSWERS))
    assert (tokens.min(), tokens.max()) == (0, 4)
    for back in range(1, ANSWERS + 1):
        np.testing.assert_array_equal(tokens[:, -back - distance], answers[:, -back])


def test_no_other_token_gives_the_answer_away():
    tokens, answers = sequences("one", np.random.default_rng(1), 40_000, 4, symbols=5)
    shares = np.bincount(answers[:, 0]) / len(answers)
    np.testing.assert_allclose(shares, 1 / 5, atol=0.01)
    same = (tokens % 5 == answers).mean(0)  # of each place
    assert same[-1 - 4] == 1
    np.testing.assert_allclose(np.delete(same, -1 - 4), 1 / 5, atol=0.01)


@pytest.mark.slow
def test_results_depend_only_on_the_seed():
    learner = Learner("convolution", "all", 2, SimpleNamespace(**{**SMALL, "steps": 8}))
    accuracies = [learner.accuracy(seed) for seed in (1, 2, 1)]
    weights = [weight.copy() for weight in learner.model.get_weights()]
    assert accuracies[0] == accuracies[2]
    learner.accuracy(1)
    for one, other in zip(weights, learner.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert learner.model.optimizer.iterations == 8


@pytest.mark.slow
def test_near_tokens_are_learned_and_tokens_out_of_reach_are_not():
    options = SimpleNamespace(**SMALL)
    assert Learner("convolution", "one", 1, options).accuracy(1) > 0.95
    assert Learner("self_attention", "one", 12, options).accuracy(1) > 0.95
    # Chance is 1/3; 1,024 answers by chance are within 0.08 of it but once in millions.
    assert Learner("convolution", "one", 9, options).accuracy(1) == pytest.approx(1 / 3, abs=0.08)


@pytest.mark.slow
def test_table_numbers_and_picture_are_written(tmp_path, capsys):
    values = {**SMALL, "steps": 200, "learning_rate": 0.01}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    options += ["--distances", "2", "1", "--seeds", "4", "5", "--threads=0"]
    assert run_command(main, ["path", *options, f"--output={tmp_path}"]) == 0
    numbers = json.loads((tmp_path / "path.json").read_text())
    assert numbers["distances"] == [1, 2]
    assert (numbers["chance"], numbers["reach_of_convolution"]) == (pytest.approx(1 / 3), 8)
    for task, kind in itertools.product(TASKS, KINDS):
        assert np.shape(numbers["accuracies"][task][kind]) == (2, 2)
        if (task, kind) != ("all", "self_attention"):  # which wants more updates at this width
            assert np.min(numbers["accuracies"][task][kind]) > 0.9
    table = capsys.readouterr().out
    assert table in (tmp_path / "path.md").read_text()
    assert [line.split(" | ")[:2] for line in table.splitlines()[2:]] == [
        [f"| {task}", label] for task in TASKS for label in KINDS.values()
    ]
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (["--distances", "4", "0"], "--distances must be at least 1. Received: 0"),
        (["--seeds", "1", "-1"], "--seeds must be at least 0. Received: -1"),
        (["--symbols", "1"], "--symbols must be at least 2"),
        (["--learning-rate", "0"], "--learning-rate must be above 0"),
        (["--kinds", "rnn"], "--kinds must be"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(wrong, complaint, tmp_path, capfd):
    assert run_command(main, ["path", f"--output={tmp_path}", *wrong]) == 2
    error = capfd.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
