"""The text that `benchmark data` makes up, and the lines that it prints."""

import json

import pytest

from training.benchmark import main
from training.benchmarks.data_speed import measure_data, write_texts
from training.command_line.errors import InputError
from training.command_line.running import run_command


def lines_of(folder, pattern, side):
    paths = sorted(folder.glob(f"{pattern}.{side}"))
    return [line for path in paths for line in path.read_text().splitlines()]


def test_one_file_and_many_hold_the_same_pairs(tmp_path):
    part, whole, shards = write_texts(tmp_path, num_pairs=700, in_memory=30, num_files=4)
    assert [text.num_pairs for text in (part, whole, shards)] == [30, 700, 700]
    assert [text.streamed for text in (part, whole, shards)] == [False, True, True]
    for side in ("source", "target"):
        lines = lines_of(tmp_path, "all", side)
        assert len(lines) == 700
        assert lines_of(tmp_path, "shard-*", side) == lines
        assert lines_of(tmp_path, "part", side) == lines[:30]
        assert len(list(tmp_path.glob(f"shard-*.{side}"))) == 4
    validation = lines_of(tmp_path, "validation", "source")
    assert not set(validation) & set(lines_of(tmp_path, "all", "source"))


def test_each_target_is_its_source_reversed(tmp_path):
    write_texts(tmp_path, num_pairs=50, in_memory=50, num_files=2)
    sources, targets = (lines_of(tmp_path, "all", side) for side in ("source", "target"))
    assert targets == [source[::-1] for source in sources]
    assert all(6 <= len(source.split()) < 30 for source in sources)


@pytest.mark.slow  # twelve training runs, each in its own process
def test_each_way_of_reading_prints_a_line(tmp_path, capfd):
    small = ["--num-pairs=600", "--in-memory=600", "--num-files=3", "--steps=4", "--repeats=2"]
    small += ["--batch-tokens=1000", "--vocabulary-size=500", f"--folder={tmp_path}"]
    assert run_command(main, ["data", *small]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(line["text"], line["files"]) for line in lines] == [
        ("in memory", 1),
        ("one file", 1),
        ("many files", 3),
    ]
    assert [line["steps"] for line in lines[1:]] == [4, 4]
    for line in lines:
        assert line["tokens_per_second"] > 0
        assert line["first_update_seconds"] > 1  # TensorFlow is imported
        assert line["peak_memory_mib"] > 100
        assert line["repeats"] == 2
    assert list(tmp_path.iterdir()) == []  # nothing is left


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--num-pairs=499", "--num-pairs must be at least 500. Received: 499."),
        ("--repeats=0", "--repeats must be at least 1. Received: 0."),
        ("--steps=1", "--steps must be at least 2. Received: 1."),
    ],
)
def test_too_little_to_measure_is_refused(option, complaint, capfd):
    assert run_command(main, ["data", option]) == 2
    assert complaint in capfd.readouterr().err


def test_the_error_of_a_failed_training_is_printed(tmp_path, capfd):
    config = tmp_path / "short.yaml"
    config.write_text("max_length: 2\n")  # so that no pair is short enough
    small = ["--num-pairs=500", "--in-memory=500", "--num-files=2", "--vocabulary-size=300"]
    assert run_command(main, ["data", *small, f"--config={config}"]) == 1
    error = capfd.readouterr().err
    assert "Training must succeed. Received: error:" in error
    assert "500 longer than 2 tokens" in error


def test_unreadable_settings_are_reported_before_the_text_is_written(monkeypatch):
    monkeypatch.setattr("training.benchmarks.data_speed.write_texts", None)
    with pytest.raises(InputError, match="absent.yaml"):
        measure_data(["--config", "absent.yaml"])
