"""Models with more and fewer heads, with and without positions."""

import json
import types

import keras
import numpy as np
import pytest

from training.command_line.running import run_command
from training.experiments import heads, positions
from training.experiments.__main__ import main
from training.experiments.figures import FIGURES
from training.experiments.made_tasks import fit, rewriting_pairs
from training.runs.folder import RunFolder


def logits_of(model, source, target):
    inputs = {"source_ids": np.array([source]), "target_ids": np.array([target])}
    return keras.ops.convert_to_numpy(model(inputs, training=False))


@pytest.mark.parametrize("encoding", positions.ENCODINGS)
def test_only_a_model_without_positions_ignores_the_order_of_the_source(encoding):
    keras.utils.set_random_seed(3)
    model = positions.build_model(encoding, num_symbols=9, longest=6)
    target = [2, 5, 4, 6]
    one = logits_of(model, [4, 5, 6, 3], target)
    other = logits_of(model, [6, 4, 5, 3], target)
    assert np.allclose(one, other, atol=1e-5) == (encoding == "none")


def test_training_does_not_change_learned_positions_beyond_its_lengths():
    model = positions.build_model("learned", num_symbols=9, longest=6)
    table = keras.ops.convert_to_numpy(model.embedding.position_table)
    pairs = rewriting_pairs("copy", [3, 2] * 32, 9, np.random.default_rng(2))
    fit(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), *pairs, num_updates=1)
    after = keras.ops.convert_to_numpy(model.embedding.position_table)
    assert not np.any(np.all(table[:4] == after[:4], axis=1))
    np.testing.assert_array_equal(table[4:], after[4:])


def test_accuracy_ignores_padding():
    pairs = rewriting_pairs("copy", [1, 4], 9, np.random.default_rng(2))
    wrong = pairs.labels.copy()
    wrong[1, 2] += 1  # of 2 + 5 tokens
    assert positions.token_accuracy(lambda inputs, training: one_hot(wrong), pairs) == 6 / 7


def one_hot(ids):
    return np.eye(20)[ids]


def test_lengths_go_up_to_four_times_the_trained_one():
    assert positions.tested_lengths(16) == [4, 8, 12, 16, 20, 24, 32, 48, 64]


def test_models_with_any_number_of_heads_have_equally_many_parameters():
    models = [heads.build_namer(number) for number in heads.HEADS]
    # symbols and their way out, one layer by hand: attention, feed-forward, two normalizations
    d, d_ff, out = 64, 256, 8 * 16
    layer = 4 * (d + 1) * d + (d + 1) * d_ff + (d_ff + 1) * d + 2 * 2 * d
    assert {model.count_params() for model in models} == {16 * d + layer + (d + 1) * out}
    assert models[0].output_shape == (None, 16, 8, 16)
    blocks = [model.layers[2].self_attention for model in models]
    assert [(block.num_heads, block.key_width) for block in blocks] == [
        (1, 64),
        (2, 32),
        (4, 16),
        (8, 8),
    ]


def test_the_picture_of_positions_has_mean_and_trained_length():
    shares = {"none": (0.2, 0.4), "learned": (0.5, 1.0), "sinusoidal": (0.1, 0.2)}
    accuracy = {name: [[share] * 9 for share in seeds] for name, seeds in shares.items()}
    measured = {"lengths": positions.tested_lengths(8), "trained_length": 8}
    panels = FIGURES["positions"](measured | {"accuracy": {"sort": accuracy}})["positions"].axes
    assert [panel.get_title() for panel in panels] == ["no positions", "learned", "sinusoidal"]
    for panel, mean in zip(panels, (0.3, 0.75, 0.15), strict=True):
        sort, trained = panel.lines
        assert np.allclose(sort.get_ydata(), mean)
        assert sort.get_xdata()[-1] == 32
        assert list(trained.get_xdata()) == [8, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["positions", "--tasks", "swap"], "--tasks must be one of copy, reverse, sort."),
        (["positions", "--trained-length=3"], "--trained-length must be at least 4."),
        (["heads", "--tasks", "copy"], "--tasks must be one of neighbours, translation."),
        (["heads", "--seeds=0"], "--seeds must be at least 1. Received: 0."),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(arguments, message, capfd, tmp_path):
    assert run_command(main, [*arguments, f"--output={tmp_path}"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert message in line


def test_a_quick_run_does_not_replace_results_of_a_long_one(tmp_path, monkeypatch):
    trained = []

    def name_neighbours(settings):
        trained.append(settings)
        return {"score": settings["steps"] / 10, "parameters": 3}

    monkeypatch.setattr(heads, "_name_neighbours", name_neighbours)
    options = [types.SimpleNamespace(output=tmp_path, steps=steps) for steps in (9, 1, 9)]
    assert [heads._neighbours(2, 0, one)["score"] for one in options] == [0.9, 0.1, 0.9]
    assert len(trained) == 2
    for name in ("MODEL", "RECIPE"):
        monkeypatch.setattr(heads, name, {**getattr(heads, name), name: "changed"})
        heads._neighbours(2, 0, options[0])
    monkeypatch.setattr(heads, "OFFSETS", (-1, 1))
    heads._neighbours(2, 0, options[0])
    monkeypatch.setattr(heads, "NUM_TEST", 7)
    heads._neighbours(2, 0, options[0])
    assert len(trained) == 2 + 4


@pytest.mark.parametrize("name", ["steps", "trained_length"])
def test_results_with_different_options_are_kept_side_by_side(tmp_path, monkeypatch, name):
    trained = []

    def train(settings):
        trained.append(settings)
        return {"length": [1], "accuracy": [settings[name] / 10]}

    monkeypatch.setattr(positions, "_train_and_test", train)
    common = {"output": tmp_path, "steps": 5, "trained_length": 4, "seeds": 1}
    options = [types.SimpleNamespace(**common | {name: number}) for number in (9, 6, 9)]
    found = [positions._of_seeds("copy", "none", one) for one in options]
    assert found == [[[0.9]], [[0.6]], [[0.9]]]
    assert len(trained) == 2
    for needed in ("tested_quarters", "num_test", "batch_size", "peak_learning_rate"):
        assert needed in trained[0]


def test_this_process_trains_after_all_others(tmp_path, monkeypatch):
    """A process keeps the GPU's memory after its first use."""
    seen = []

    def note(what, result):
        return lambda *_: seen.append(what) or dict(result)

    monkeypatch.setattr(heads, "HEADS", (1, 2))
    monkeypatch.setattr(heads, "_translation", note("other", {"score": 1.0}))
    monkeypatch.setattr(heads, "_parameters", lambda _: seen.append("read") or 3)
    monkeypatch.setattr(heads, "_neighbours", note("this", {"score": 0.5, "parameters": 3}))
    assert run_command(main, ["heads", f"--output={tmp_path}", "--seeds=1"]) == 0
    assert seen == ["other", "other", "read", "read", "this", "this"]
    tasks = json.loads((tmp_path / "heads.json").read_text())["tasks"]
    assert list(tasks) == ["neighbours", "translation"]
    assert tasks["translation"]["2"] == [{"score": 1.0, "parameters": 3}]


@pytest.mark.slow
def test_positions_are_measured(tmp_path, capfd):
    arguments = ["positions", f"--output={tmp_path}", "--tasks", "sort"]
    arguments += "--trained-length=4 --steps=1 --seeds=1".split()
    assert run_command(main, arguments) == 0
    numbers = json.loads((tmp_path / "positions.json").read_text())
    assert numbers["lengths"] == [1, 2, 3, 4, 5, 6, 8, 12, 16]
    [of_seed] = numbers["accuracy"]["sort"]["learned"]
    assert len(of_seed) == 9
    assert all(0 <= share <= 1 for share in of_seed)
    assert capfd.readouterr().out.splitlines()[-1].startswith("| sort | sinusoidal | ")
    assert (tmp_path / "positions.png").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_heads_are_measured(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(heads, "HEADS", (1, 2))
    monkeypatch.setattr(heads, "NUM_PAIRS", 1000)
    arguments = ["heads", f"--output={tmp_path}", "--steps=1", "--translation-steps=2"]
    assert run_command(main, [*arguments, "--seeds=1"]) == 0
    numbers = json.loads((tmp_path / "heads.json").read_text())["tasks"]
    for task in heads.TASKS:
        [[one], [two]] = numbers[task].values()
        assert one["parameters"] == two["parameters"]
    run = RunFolder(tmp_path / "runs" / "heads_2_seed_0").read_record().settings
    assert (run.num_heads, run.steps_per_epoch, run.epochs) == (2, 2, 1)
    assert (tmp_path / "heads.png").exists()
    *_, last = capfd.readouterr().out.splitlines()
    assert last.startswith("| translation | 2 | ")
