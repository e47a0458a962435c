"""The attention of a sentence: every head of every layer."""

import json

import numpy as np
import pytest

from training.command_line.running import run_command
from training.experiments.__main__ import main
from training.experiments.figures import FIGURES
from training.experiments.jane import describe
from training.pictures.attention import token_labels


@pytest.mark.parametrize(
    ("kind", "weights", "expected"),
    [
        ("encoder", np.eye(4), ("itself", 1.0, 1.0)),
        ("encoder", np.eye(5, k=-1) + np.eye(5, k=4), ("the token before", 1.0, 1.0)),
        ("encoder", np.eye(5, k=1) + np.eye(5, k=-4), ("the token after", 1.0, 1.0)),
        ("encoder", np.full((4, 4), 0.25), ("spread; most at itself", 0.25, 4.0)),
        ("encoder", np.tile([0, 0, 1.0], (3, 1)), ("the end", 1.0, 1.0)),
        ("decoder", np.tile([1.0, 0, 0], (3, 1)), ("the start", 1.0, 1.0)),
        ("decoder", np.eye(3), ("itself", 1.0, 1.0)),
        ("cross", np.eye(3, 5)[::-1], ("one token, another for each row", 1.0, 1.0)),
        ("cross", np.tile([0, 0, 0, 1.0], (3, 1)), ("the end", 1.0, 1.0)),
    ],
)
def test_a_head_is_described_by_what_it_attends_to(kind, weights, expected):
    name, *numbers = describe(kind, weights)
    assert name == expected[0]
    assert numbers == pytest.approx(expected[1:])


def test_a_picture_has_every_head_and_its_tokens():
    tokens = {"source": ["a", "</s>"], "read": ["<s>", "b", "c"], "target": ["b", "c", "</s>"]}
    shapes = {"encoder": (2, 2), "decoder": (3, 3), "cross": (3, 2)}
    generator = np.random.default_rng(0)
    weights = {
        kind: generator.dirichlet(np.ones(shape[1]), size=(2, 3, shape[0]))
        for kind, shape in shapes.items()
    }
    lists = {kind: of_kind.tolist() for kind, of_kind in weights.items()}
    found = FIGURES["jane"]({"tokens": tokens, "weights": lists})
    assert list(found) == ["jane_encoder", "jane_decoder", "jane_cross"]
    panels = found["jane_cross"].axes[:-1]  # the last is the color bar
    titles = [panel.get_title() for panel in panels]
    assert titles == [f"layer {layer}, head {head}" for layer in (1, 2) for head in (1, 2, 3)]
    for panel, drawn in zip(panels, weights["cross"].reshape(6, 3, 2), strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), drawn)
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["b", "+c", "(end)"]
    assert [label.get_text() for label in panels[3].get_xticklabels()] == ["a", "(end)"]
    rows = [label.get_text() for label in found["jane_decoder"].axes[0].get_yticklabels()]
    assert rows == ["(start)", "b", "+c"]


def test_the_start_token_has_a_name_and_no_word_continues_after_it():
    assert token_labels(["<s>", "Jane", "t", "\u2581x", "</s>"]) == [
        "(start)",
        "Jane",
        "+t",
        "x",
        "(end)",
    ]


def test_the_attention_of_a_run_is_drawn(finished_run, tmp_path, capfd):
    arguments = ["jane", f"--run={finished_run}", f"--output={tmp_path}", "--source=one two"]
    assert run_command(main, [*arguments, "--target=two one"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "jane.md",
        "jane.json",
        *(f"jane_{kind}.png" for kind in ("encoder", "decoder", "cross")),
    }
    lines = capfd.readouterr().out.splitlines()
    assert lines[:2] == ["one two", "two one"]
    assert len(lines) == 3 + 2 + 3 * 1 * 3  # of one layer with three heads
    weights = json.loads((tmp_path / "jane.json").read_text())["weights"]
    assert np.shape(weights["cross"])[:2] == (1, 3)

    arguments[-1] = "--source=" + 40 * "q"
    assert run_command(main, arguments) == 1
    assert "at most 40 tokens" in capfd.readouterr().err


def test_a_missing_run_is_named(tmp_path, capfd):
    assert run_command(main, ["jane", f"--run={tmp_path / 'absent'}"]) == 1
    assert "absent: a run folder must hold config.yaml" in capfd.readouterr().err
