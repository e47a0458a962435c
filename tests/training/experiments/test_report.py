"""The files that experiments write, and their command line."""

import json
import sys
import types

import keras
import pytest

from tests.new_process import output_of
from training.command_line.running import run_command
from training.experiments.__main__ import EXPERIMENTS, main
from training.experiments.figures import FIGURES
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


def line_through(measured):
    figure = new_figure(3, "A line")
    figure.subplots().plot(*zip(*measured["points"], strict=True))
    return {"speed": figure}


def test_table_numbers_and_picture_are_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(FIGURES, "speed", line_through)
    write_report(
        tmp_path / "new",
        "speed",
        caption="Seconds of a step.",
        columns=["n", "seconds"],
        rows=[[16, 0.5]],
        measured={"points": [(1, 3), (2, 4)]},
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
    assert numbers == {"points": [[1, 3], [2, 4]], **circumstances()}
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


def test_a_picture_is_drawn_again_from_its_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(FIGURES, "speed", line_through)
    numbers = tmp_path / "speed.json"
    numbers.write_text('{"points": [[1, 3], [2, 4]]}')
    assert run_command(main, ["redraw", str(numbers)]) == 0
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"written: {tmp_path / 'speed.png'}\n"
    elsewhere = tmp_path / "new" / "folder"
    assert run_command(main, ["redraw", str(numbers), f"--output={elsewhere}"]) == 0
    assert (elsewhere / "speed.png").read_bytes() == (tmp_path / "speed.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "table.json",
            "{}",
            "name must be that of an experiment's numbers: layers.json, parallel",
        ),
        (
            "path.json",
            "{}",
            "must hold the numbers of path. Received: content that cannot be",
        ),
        ("heads.json", "[]", "must hold the numbers of heads."),
        ("jane.json", "{", "must hold the numbers of jane."),
        ("path.json", None, "path.json: No such file"),
    ],
)
def test_a_file_without_an_experiments_numbers_is_refused(name, content, message, tmp_path, capfd):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert run_command(main, ["redraw", str(tmp_path / name)]) == 1
    assert message in capfd.readouterr().err
    assert not list(tmp_path.glob("*.png"))


def test_a_measurement_loads_no_matplotlib():
    script = (
        "import importlib, sys\n"
        "from training.experiments.__main__ import EXPERIMENTS\n"
        "for module, _ in EXPERIMENTS.values():\n"
        "    importlib.import_module(f'training.experiments.{module}')\n"
        "print('matplotlib' in sys.modules)"
    )
    assert output_of(script) == "False"
