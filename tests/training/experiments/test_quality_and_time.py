"""The comparison of systems, on made-up text."""

import json

import pytest
import yaml

from tests.training.conftest import as_arguments
from training.command_line.errors import InputError
from training.command_line.running import run_command
from training.experiments import quality_and_time
from training.experiments.__main__ import main
from training.experiments.figures import FIGURES, mean_course
from training.experiments.quality_and_time import (
    BY_DEFAULT,
    SYSTEMS,
    system_settings,
    write_results,
)

TEXT = {
    "train_source": "a",
    "train_target": "b",
    "validation_source": "c",
    "validation_target": "d",
}


def course(seconds, val_bleu, **more):
    scores = {"parameters": 2_610_944, "tokens_per_second": 1000.0, "bleu": 30.0}
    signatures = {"bleu_signature": "nrefs:1", "test_bleu_signature": "nrefs:1|tok:none"}
    by_epoch = {"seconds_by_epoch": seconds, "val_bleu_by_epoch": val_bleu, "epochs": len(seconds)}
    return {**scores, "test_bleu": 31.0, **signatures, **by_epoch, **more}


def test_systems_differ_only_in_the_model_and_its_recipe():
    """All systems spend their time on the same text and are measured alike."""
    asked = {system: system_settings(system, 5, TEXT, 7.5) for system in SYSTEMS}
    for system, settings in asked.items():
        assert settings.model == system
        assert (settings.seed, settings.max_minutes, settings.validation_bleu) == (5, 7.5, True)
        assert settings.epochs > 1000  # not what ends a training
        names = "vocabulary_size tokenizer_type average_checkpoints beam_size length_penalty"
        for name in names.split():
            assert getattr(settings, name) == getattr(asked["transformer"], name)


def test_seeds_are_compared_after_equal_numbers_of_epochs():
    """Epochs that not all seeds finished do not count."""
    runs = [course([60, 120, 180], [1.0, 2.0, 9.0]), course([120, 240], [3.0, 6.0])]
    assert mean_course(runs) == ([1.5, 3.0], [[1.0, 3.0], [2.0, 6.0]])


def test_the_marks_of_the_picture_are_on_the_line_of_the_mean():
    runs = {"0": course([60, 120], [1.0, 2.0]), "1": course([120, 240], [3.0, 6.0])}
    measured = {"minutes": 4, "systems": {"gru": runs, "transformer": {"0": runs["0"]}}}
    [axes] = FIGURES["quality_and_time"](measured)["quality_and_time"].axes
    gru, transformer = axes.lines
    assert gru.get_marker() not in ("", "None")
    assert gru.get_markevery() is None  # every point of the line has a mark
    assert gru.get_xydata().tolist() == [[1.5, 2.0], [3.0, 4.0]]
    assert transformer.get_xydata().tolist() == [[1.0, 1.0], [2.0, 2.0]]


def test_the_table_has_the_mean_and_the_range_of_the_seeds(tmp_path, capsys):
    gru = [
        course([50, 99], [1.0, 2.0], bleu=20.0, test_bleu=21.04),
        course([60, 95], [1.5, 2.5], bleu=24.0, test_bleu=22.04, tokens_per_second=2000.0),
    ]
    transformer = [course([30, 60, 90], [4.0, 8.0, 9.0])] * 2
    measured = {"transformer": dict(enumerate(transformer)), "gru": dict(enumerate(gru))}
    write_results(tmp_path, measured, 1.65)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "| system | parameters | tokens/s | epochs | minutes | validation BLEU | test BLEU |"
    )
    assert lines[2].startswith("| Transformer | 2,610,944 | 1,000 | 3 | 1.5 | 30.0 (30.0 to")
    assert lines[3] == (
        "| GRU, one vector | 2,610,944 | 1,500 | 2 | 1.6 | 22.0 (20.0 to 24.0) |"
        " 21.5 (21.0 to 22.0) |"  # 50 and 60 s of the first epoch, 99 and 95 s in all
    )
    numbers = json.loads((tmp_path / "quality_and_time.json").read_text())
    assert numbers["systems"]["gru"]["1"]["bleu"] == 24.0
    assert (tmp_path / "quality_and_time.png").read_bytes().startswith(b"\x89PNG")
    caption = (tmp_path / "quality_and_time.md").read_text()
    assert "at most 1.65 minutes" in caption
    assert "Means of 2 seeds and their range. Tokens per second are target tokens" in caption


@pytest.mark.parametrize(
    ("options", "tokenizer"),
    [([], "13a"), (["--tokenized"], "none"), (["--bleu-tokenizer=zh"], "zh")],
)
def test_training_and_the_table_use_the_same_bleu_tokenizer(
    text_files, tmp_path, monkeypatch, options, tokenizer
):
    asked = []

    def train(folder, settings):
        asked.append(settings.bleu_tokenizer)
        raise InputError("enough")

    monkeypatch.setattr(quality_and_time, "leave_devices_to_children", lambda: None)
    monkeypatch.setattr(quality_and_time, "trained_and_scored", train)
    arguments = ["quality", *as_arguments(text_files), f"--output={tmp_path}", *options]
    assert run_command(main, arguments) == 1
    assert asked == [tokenizer]


def test_the_table_works_without_a_test_text(tmp_path, capsys):
    run = course([30, 60, 90], [4.0, 8.0, 9.0])
    del run["test_bleu"], run["test_bleu_signature"]
    write_results(tmp_path, {"transformer": {0: run}}, 1.5)
    head, _, row = capsys.readouterr().out.splitlines()
    assert head == "| system | parameters | tokens/s | epochs | minutes | validation BLEU |"
    assert row == "| Transformer | 2,610,944 | 1,000 | 3 | 1.5 | 30.0 |"


@pytest.mark.parametrize(
    ("lines", "message"),
    [(None, "test.de"), ("one\ntwo\n", "the same number of lines"), ("\udcff\n", "UTF-8")],
)
def test_a_test_text_is_read_before_any_training(text_files, tmp_path, capfd, lines, message):
    source, target = tmp_path / "test.en", tmp_path / "test.de"
    source.write_text("one\n")
    if lines is not None:
        target.write_bytes(lines.encode("utf-8", "surrogateescape"))
    arguments = ["quality", *as_arguments(text_files), f"--output={tmp_path / 'out'}"]
    arguments += [f"--test-source={source}", f"--test-target={target}"]
    assert run_command(main, arguments) == 1
    complaint = capfd.readouterr().err
    assert str(target) in complaint
    assert message in complaint
    assert not (tmp_path / "out").exists()


def test_the_table_is_written_after_each_run_without_using_a_gpu(text_files, tmp_path, monkeypatch):
    seen = []

    def train(folder, settings):
        table = tmp_path / "quality_and_time.md"
        seen.append(table.read_text() if table.exists() else "")
        return {}

    monkeypatch.setattr(quality_and_time, "leave_devices_to_children", lambda: seen.append("left"))
    monkeypatch.setattr(quality_and_time, "trained_and_scored", train)
    monkeypatch.setitem(FIGURES, "quality_and_time", lambda _: {})
    monkeypatch.setattr(quality_and_time, "_course", lambda folder: course([60], [1.0]))
    arguments = ["quality", *as_arguments(text_files), f"--output={tmp_path}", "--seeds", "0", "1"]
    assert run_command(main, [*arguments, "--systems", "transformer", "gru"]) == 0
    left, *tables = seen
    assert left == "left"
    assert [table.count("| 1,000 |") for table in tables] == [0, 1, 2, 2]
    assert "One seed." in tables[1]
    assert "Means of 1 to 2 seeds" in tables[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--systems", "rnn"], "--systems must be one of transformer, gru_attention"),
        (["--minutes", "0"], "--minutes must be above 0. Received: 0"),
        (["--test-source", "x"], "--test-source and --test-target must be given together"),
        ([], "--data or by the names of its files. Received: neither"),
        (["--data", ".", "--train-source", "x"], "--data must not be given together with"),
    ],
)
def test_wrong_comparisons_are_refused(options, message, capfd):
    assert run_command(main, ["quality", *options]) == 2
    assert message in capfd.readouterr().err


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Writes a YAML file for each system, so small that an epoch takes a moment."""
    folder = tmp_path_factory.mktemp("configs")
    for system in BY_DEFAULT:
        values = {
            "vocabulary_size": 290,
            "num_layers": 1,
            "model_dim": 12,
            "batch_tokens": 256,
            "peak_learning_rate": 0.01,
            "warmup_steps": 20,
            "average_checkpoints": 2,
            "beam_size": 2,
        }
        if system == "transformer":
            values |= {"num_heads": 3, "feed_forward_dim": 17}
        (folder / f"{SYSTEMS[system][0]}.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.mark.slow
def test_systems_are_trained_for_a_given_time_scored_and_kept(text_files, configs, tmp_path, capfd):
    files = [f"--{name.replace('_', '-')}={path}" for name, path in text_files.items()]
    arguments = ["quality", *files, "--configs", str(configs), "--output", str(tmp_path)]
    arguments += ["--minutes=0.02", "--seeds", "3", "--test-source", text_files["train_source"]]
    arguments += ["--test-target", text_files["train_target"], "--systems", "transformer"]
    assert run_command(main, arguments) == 0
    capfd.readouterr()
    assert run_command(main, [*arguments, "gru_attention"]) == 0  # one more, the first is kept
    out = capfd.readouterr().out
    assert "transformer_seed_3: already finished" in out
    assert "| GRU with attention |" in out
    systems = json.loads((tmp_path / "quality_and_time.json").read_text())["systems"]
    assert list(systems) == ["transformer", "gru_attention"]
    for runs in systems.values():
        assert 0 <= runs["3"]["test_bleu"] <= 100
        assert len(runs["3"]["val_bleu_by_epoch"]) == runs["3"]["epochs"] >= 1
        assert runs["3"]["updates"] >= runs["3"]["epochs"]
