"""The rows of Table 3: their parameters, settings and trainings."""

import dataclasses
import json
import signal
import types

import pytest

from keras_transformer.config import TABLE_3, TransformerConfig
from training.command_line.errors import InputError
from training.command_line.running import run_command
from training.experiments.__main__ import main
from training.experiments.figures import FIGURES
from training.experiments.runs import _run_command, trained_and_scored
from training.experiments.table3 import (
    CONFIGS,
    PAPER,
    REASON,
    _parser,
    count_parameters,
    difference_percent,
    row_settings,
    write_results,
)
from training.experiments.text_folder import text_settings
from training.runs.folder import RunFolder
from training.settings import make_settings, read_settings_file

# The table as printed: N, d_model, d_ff, h, d_k, d_v, and millions of parameters where it has them.
# For rows B it prints only d_k.
PRINTED = {
    "base": (6, 512, 2048, 8, 64, 64, 65),
    "A_heads_1": (6, 512, 2048, 1, 512, 512, None),
    "A_heads_4": (6, 512, 2048, 4, 128, 128, None),
    "A_heads_16": (6, 512, 2048, 16, 32, 32, None),
    "A_heads_32": (6, 512, 2048, 32, 16, 16, None),
    "B_head_dim_16": (6, 512, 2048, 8, 16, 64, 58),
    "B_head_dim_32": (6, 512, 2048, 8, 32, 64, 60),
    "C_layers_2": (2, 512, 2048, 8, 64, 64, 36),
    "C_layers_4": (4, 512, 2048, 8, 64, 64, 50),
    "C_layers_8": (8, 512, 2048, 8, 64, 64, 80),
    "C_model_dim_256": (6, 256, 2048, 8, 32, 32, 28),
    "C_model_dim_1024": (6, 1024, 2048, 8, 128, 128, 168),
    "C_feed_forward_dim_1024": (6, 512, 1024, 8, 64, 64, 53),
    "C_feed_forward_dim_4096": (6, 512, 4096, 8, 64, 64, 90),
    "E_learned_positions": (6, 512, 2048, 8, 64, 64, None),
    "big": (6, 1024, 4096, 16, 64, 64, 213),
}
COUNTED = [row for row, printed in PRINTED.items() if printed[-1] is not None]


def pencil(row, vocabulary, value_dim=None):
    """Counts a row's parameters by hand, with biases, gains and one embedding matrix."""
    n, d, d_ff, h, d_k, d_v, _ = PRINTED[row]
    d_v = value_dim or d_v
    attention = 2 * (d + 1) * h * d_k + (d + 1) * h * d_v + (h * d_v + 1) * d
    feed_forward = (d + 1) * d_ff + (d_ff + 1) * d
    norm = 2 * d
    encoder = attention + feed_forward + 2 * norm
    decoder = 2 * attention + feed_forward + 3 * norm
    positions = 512 * d if row == "E_learned_positions" else 0
    return n * (encoder + decoder) + vocabulary * d + positions


@pytest.mark.parametrize("row", PRINTED)
def test_parameters_match_a_count_with_paper_and_pencil(row):
    # A small vocabulary avoids a large matrix, whose share is beyond doubt.
    assert count_parameters(TransformerConfig.table3(row, 50)) == pencil(row, 50)


def test_published_counts_are_the_printed_ones():
    published = {row: PAPER[row].parameters for row in COUNTED}
    assert published == {row: PRINTED[row][-1] for row in COUNTED}
    assert [row for row in PAPER if PAPER[row].parameters is not None] == COUNTED
    assert list(PAPER) == list(TABLE_3)


def test_every_published_count_is_within_7_percent_and_the_reason_names_those_over_3_5():
    off = {row: difference_percent(pencil(row, 37_000), PRINTED[row][-1]) for row in COUNTED}
    assert max(map(abs, off.values())) < 7
    far = [row for row in COUNTED if abs(off[row]) > 3.5]
    assert far == ["C_layers_2", "C_model_dim_256", "C_feed_forward_dim_1024"]
    assert all(row in REASON for row in far)
    assert off["base"] == pytest.approx(100 * (63_082_496 - 65_000_000) / 65_000_000)


def test_the_stated_reason_agrees_with_the_counts():
    def fits(row, vocabulary, **changes):
        return round(pencil(row, vocabulary, **changes) / 1e6) == PRINTED[row][-1]

    assert [row for row in COUNTED if not fits(row, 41_000)] == ["big"]
    assert not any(fits(row, 37_000) for row in COUNTED)
    assert [fits("big", rows) for rows in (35_200, 35_300, 36_200, 36_300)] == [
        False,
        True,
        True,
        False,
    ]
    # rows B need values of width 64: else they are millions below, whatever of these rows is taken
    assert not fits("B_head_dim_16", 41_000, value_dim=16)
    assert not fits("B_head_dim_32", 41_000, value_dim=32)


# Settings


def test_the_settings_files_are_exactly_the_rows_of_the_table():
    assert {path.name for path in CONFIGS.iterdir()} == {f"{row}.yaml" for row in TABLE_3}


@pytest.mark.parametrize("row", TABLE_3)
def test_each_settings_file_has_its_row_and_the_papers_recipe(row):
    settings = make_settings(read_settings_file(CONFIGS / f"{row}.yaml"))
    expected = TransformerConfig.table3(row, settings.vocabulary_size)
    head_dim = expected.head_dim or expected.model_dim // expected.num_heads
    expected = dataclasses.replace(
        expected, head_dim=head_dim, value_dim=expected.value_dim or head_dim
    )
    assert settings.model_config(37_000) == expected
    assert settings.vocabulary_size == 37_000
    assert settings.epochs * settings.steps_per_epoch == (300_000 if row == "big" else 100_000)
    recipe = {
        "batch_tokens": 25_000,
        "warmup_steps": 4000,
        "peak_learning_rate": None,  # equation 3
        "adam_beta_1": 0.9,
        "adam_beta_2": 0.98,
        "adam_epsilon": 1e-9,
        "average_checkpoints": 1,  # 6.2: "no checkpoint averaging"
        "beam_size": 4,
        "length_penalty": 0.6,
        "tokenizer_type": "bpe",
    }
    assert {name: getattr(settings, name) for name in recipe} == recipe


def options_of(*arguments):
    return _parser().parse_args(arguments)


@pytest.mark.parametrize("row", TABLE_3)
def test_a_scale_multiplies_only_the_widths(row):
    options = options_of("--scale=0.125", "--steps=40", "--vocabulary-size=300")
    full = make_settings(read_settings_file(CONFIGS / f"{row}.yaml"))
    small = row_settings(row, {}, options)
    for name in ("model_dim", "feed_forward_dim", "head_dim", "value_dim"):
        assert getattr(small, name) == getattr(full, name) / 8
    for name in ("num_layers", "num_heads", "dropout", "label_smoothing", "position_encoding"):
        assert getattr(small, name) == getattr(full, name)
    assert (small.epochs, small.steps_per_epoch, small.warmup_steps) == (1, 40, 10)
    assert small.vocabulary_size == 300


def test_the_warmup_is_the_papers_if_there_are_enough_steps():
    assert row_settings("base", {}, options_of("--steps=100000")).warmup_steps == 4000
    assert row_settings("base", {}, options_of("--steps=100", "--warmup-steps=7")).warmup_steps == 7


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--rows", "base", "F"], 2, "--rows must be one of base, A_heads_1"),
        (["--data=x", "--train-source=y"], 2, "--data must not be given together with single"),
        (["--data=absent"], 1, "absent: the folder of the text must hold train.en."),
        (["--train-source=a", "--scale=0.1"], 1, "--scale must leave widths whole."),
        (["--stepps=3"], 2, "Did you mean --steps?"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(arguments, code, message, capfd, tmp_path):
    assert run_command(main, ["table3", f"--output={tmp_path}", *arguments]) == code
    lines = capfd.readouterr().err.splitlines()
    assert [message in line for line in lines if line.startswith("error:")] == [True]


# Text


def test_files_in_a_text_folder_are_found_by_their_names(tmp_path):
    for name in ("train.en", "train.en.gz", "train.de.GZ", "val.en.xz", "val.de", "dev.de"):
        (tmp_path / name).touch()
    assert text_settings(tmp_path, ["en", "de"]) == {
        "train_source": str(tmp_path / "train.en"),
        "train_target": str(tmp_path / "train.de.GZ"),
        "validation_source": str(tmp_path / "val.en.xz"),
        "validation_target": str(tmp_path / "val.de"),
    }
    with pytest.raises(InputError, match=r"must hold train\.fr\. Received: none of train\.fr, pl"):
        text_settings(tmp_path, ["en", "fr"])
    with pytest.raises(InputError, match="must be two.* Received: en"):
        text_settings(tmp_path, ["en"])


# Runs


def test_a_finished_run_is_kept_and_scored_once(finished_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.symlink_to(finished_run)
    asked = []

    def evaluate(module, *arguments):
        asked.append(module)
        scores = {"bleu": 12.5, "chrf": 30.0, "bleu_signature": "s", "num_sentences": 3}
        path = arguments[arguments.index("--json") + 1]
        RunFolder(run).path.joinpath(path).write_text(json.dumps(scores))

    monkeypatch.setattr("training.experiments.runs._run_command", evaluate)
    scores = str(tmp_path / "scores.json")
    monkeypatch.setattr("training.experiments.runs.SCORES_NAME", scores)
    settings = RunFolder(run).read_record().settings
    first = trained_and_scored(run, settings)
    assert trained_and_scored(run, settings) == first
    assert asked == ["training.evaluate"]
    lines = RunFolder(run).read_metrics()
    assert first["val_perplexity"] == lines[-1]["val_perplexity"]
    assert first["seconds"] == pytest.approx(sum(line["seconds"] for line in lines[:-1]))
    assert first["bleu"] == 12.5

    other = dataclasses.replace(settings, dropout=0.35)
    with pytest.raises(InputError, match=r"same settings and data.* dropout: 0\.1 there, 0\.35 n"):
        trained_and_scored(run, other)


def test_a_process_that_fails_or_is_stopped_ends_the_experiment(monkeypatch, capfd):
    with pytest.raises(InputError, match=r"python -m training\.absent must succeed\. .* code 1,"):
        _run_command("training.absent")
    assert "No module named training.absent" in capfd.readouterr().err
    for code in (130, 143, -signal.SIGINT, -signal.SIGTERM):  # the last two while it imports
        process = types.SimpleNamespace(wait=lambda code=code: code)
        monkeypatch.setattr(
            "training.experiments.runs.subprocess.Popen", lambda command, env, p=process: p
        )
        with pytest.raises(KeyboardInterrupt):
            _run_command("training.train")


def test_results_are_shown_beside_the_papers(tmp_path, capsys):
    numbers = {"val_perplexity": 8.0, "bleu": 20.0, "parameters": 1_234_567, "steps": 1500}
    measured = {
        "base": {**numbers, "bleu_signature": "nrefs:1"},
        "C_layers_2": {**numbers, "val_perplexity": 10.0, "bleu": 17.5, "bleu_signature": "s"},
    }
    options = options_of("--scale=0.25", "--steps=1500")
    settings = {row: row_settings(row, {}, options) for row in measured}
    write_results(tmp_path, settings, measured, 0.25)
    *_, last = capsys.readouterr().out.splitlines()
    assert last == (
        "| C_layers_2 | 2 | 128 | 512 | 8 | 16 | 16 | 0.1 | 0.1 | 1,500 | 10.00 | 17.5 | 1.23"
        " | 6.11 | 23.7 | 36 |"
    )
    numbers = json.loads((tmp_path / "table3.json").read_text())
    assert numbers["rows"] == measured
    assert "train_source" not in numbers["settings"]
    assert (tmp_path / "table3.png").exists()


def test_the_picture_shows_differences_from_base():
    measured = {
        "base": {"val_perplexity": 8.0, "bleu": 20.0},
        "C_layers_2": {"val_perplexity": 10.0, "bleu": 17.5},
    }
    left, right = FIGURES["table3"]({"rows": measured})["table3"].axes
    (_, ours, papers) = left.lines  # behind the line at 0
    assert list(ours.get_xdata()) == [pytest.approx(25.0)]
    assert list(papers.get_xdata()) == [pytest.approx(100 * (6.11 / 4.92 - 1))]
    (_, ours, papers) = right.lines
    assert list(ours.get_xdata()) == [-2.5]
    assert list(papers.get_xdata()) == [pytest.approx(23.7 - 25.8)]


@pytest.mark.slow
def test_rows_are_trained_one_by_one_and_kept(text_files, tmp_path, capfd):
    arguments = [
        "table3",
        f"--output={tmp_path / 'out'}",
        *(f"--{name.replace('_', '-')}={path}" for name, path in text_files.items()),
        *"--scale=0.03125 --vocabulary-size=290 --batch-tokens=300 --steps=2".split(),
        *"--rows C_layers_2".split(),
    ]
    assert run_command(main, arguments) == 0
    *_, base, row = capfd.readouterr().out.splitlines()
    assert base.startswith("| base | 6 | 16 | 64 | 8 | 2 | 2 | 0.1 | 0.1 | 2 | ")
    assert row.startswith("| C_layers_2 | 2 | 16 | 64 | 8 | 2 | 2 | 0.1 | 0.1 | 2 | ")
    numbers = json.loads((tmp_path / "out" / "table3.json").read_text())["rows"]
    from keras_transformer.translator import read_model

    for row in ("base", "C_layers_2"):
        model = read_model(tmp_path / "out" / "runs" / row / "model.keras")
        assert numbers[row]["parameters"] == model.count_params()
        assert len(model.encoder_blocks) == PRINTED[row][0]
    assert run_command(main, arguments) == 0
    assert "training" not in capfd.readouterr().out.split("| row |")[0].replace("kept", "")
