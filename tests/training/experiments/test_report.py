"""The files that experiments write, and their command line."""

import json
import sys
import types

import keras
import pytest

from training.command_line.running import run_command
from training.experiments.__main__ import EXPERIMENTS, main
from training.experiments.report import circumstances, markdown_table, write_report
from training.pictures.style import new_figure


def test_a_table_has_a_line_for_each_row():
    table = markdown_table(["layer", "ms"], [["attention", 3], ["GRU", 4.5]])
    assert table.splitlines() == [
        "| layer | ms |",
        "| --- | ---: |",
        "| attention | 3 |",
        "| GRU | 4.5 |",
    ]


def test_table_numbers_and_picture_are_written(tmp_path, capsys):
    figure = new_figure(4, 3, "A line.")
    figure.subplots().plot([1, 2], [3, 4])
    write_report(
        tmp_path / "new",
        "speed",
        caption="Seconds of a step.",
        columns=["n", "seconds"],
        rows=[[16, 0.5]],
        measured={"seconds": {"16": [0.4, 0.5, 0.6]}},
        figure=figure,
    )
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "speed.md",
        "speed.json",
        "speed.png",
    }
    assert capsys.readouterr().out == "| n | seconds |\n| --- | ---: |\n| 16 | 0.5 |\n"
    table = (tmp_path / "new" / "speed.md").read_text()
    assert table.startswith("Seconds of a step.\n\n| n | seconds |")
    numbers = json.loads((tmp_path / "new" / "speed.json").read_text())
    assert numbers == {"seconds": {"16": [0.4, 0.5, 0.6]}, **circumstances()}
    assert (tmp_path / "new" / "speed.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_experiment(capsys, option):
    with pytest.raises(SystemExit, match="0"):
        main([option])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines] == list(EXPERIMENTS)


def test_versions_are_those_of_the_imported_packages(monkeypatch):
    """TensorFlow has packages with several names, and not every backend needs it."""
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(__version__="2.99+cpu"))
    assert circumstances()["tensorflow"] == "2.99+cpu"
    monkeypatch.delitem(sys.modules, "tensorflow")
    assert circumstances()["tensorflow"] is None
    assert circumstances()["keras"] == keras.__version__


@pytest.mark.parametrize("arguments", [[], ["tabel3"], ["--output", "x"]])
def test_an_experiment_must_be_named(arguments, capfd):
    assert run_command(main, arguments) == 2
    assert "must name an experiment" in capfd.readouterr().err


def test_notes_follow_the_table(tmp_path, capsys):
    write_report(
        tmp_path, "x", caption="c", columns=["a"], rows=[], measured={}, notes="Why it is so."
    )
    assert capsys.readouterr().out == "| a |\n| --- |\n\nWhy it is so.\n"
    assert (tmp_path / "x.md").read_text() == "c\n\n| a |\n| --- |\n\nWhy it is so.\n"
