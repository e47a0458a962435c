import importlib
import io
import os
import re
import sys
from pathlib import Path

import pytest

from training.benchmark import TASKS
from training.command_line.errors import UsageError
from training.command_line.parser import CommandParser, parse, use_threads
from training.command_line.running import run_command
from training.command_line.wording import closest
from training.experiments.__main__ import EXPERIMENTS
from training.settings import SETTING_NAMES, make_settings_parser

ROOT = Path(__file__).parents[3]
MODULES = [path for path in ROOT.glob("training/*.py") if "\ndef main(" in path.read_text()]
COMMANDS = [(path.stem,) for path in MODULES if path.stem != "benchmark"]
COMMANDS += [("benchmark", task) for task in TASKS]
COMMANDS += [("experiments.__main__", name) for name in EXPERIMENTS]
DRAWING = ("compare", "curve", "memory", "redraw")


@pytest.fixture
def parser():
    parser = CommandParser("try", "Tries.")
    parser.add_option("name", str | None, None, "A name.")
    parser.add_option("files", str | list[str] | None, None, "Files.")
    parser.add_option("sizes", int, [1], "Sizes.", nargs="+")
    parser.add_flag("loud", "Loud.")
    return parser


def main_of(command):
    return importlib.import_module(f"training.{command[0]}").main


def options_of(command, capfd):
    with pytest.raises(SystemExit, match="0"):
        main_of(command)([*command[1:], "--help"])
    return re.findall(r"^  (--[a-z][a-z0-9-]*)", capfd.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_command_runs_when_it_is_called(path):
    assert path.read_text().endswith("    sys.exit(run_command(main))\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_an_option_that_is_given_twice(command, capfd):
    for option in options_of(command, capfd):
        arguments = [*command[1:], option, "1", f"{option}=2"]
        assert run_command(main_of(command), arguments) == 2
        assert capfd.readouterr().err.startswith(f"error: {option} must be given once. Received")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_computes_takes_a_number_of_threads(command, capfd):
    assert ("--threads" in options_of(command, capfd)) == (command[-1] not in DRAWING)


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (["--name", "a", "--name=b"], "Leave all but one out."),
        (["--loud", "--loud"], "Leave all but one out."),
        (["--sizes", "1", "--sizes", "2"], "Give all values after one --sizes."),
        (["--files=a", "--files=b"], r"Give a list, --files '\[FIRST, SECOND\]', or a pattern."),
    ],
)
def test_the_error_for_a_repeated_option_says_what_to_do(parser, arguments, instead):
    with pytest.raises(UsageError, match=f"^{arguments[0].split('=')[0]} must be .*. {instead}$"):
        parse(parser, arguments)


def test_a_value_with_a_space_may_look_like_an_option(parser):
    assert parse(parser, ["--name", "--name is given"]).name == "--name is given"


@pytest.mark.parametrize("name", ["#t.model", "&x", "~", "1e3", "007", "", " a ", "a=b", "@file"])
def test_names_are_passed_on_unchanged(parser, name):
    assert parse(parser, [f"--name={name}"]).name == name
    assert parse(parser, ["--name", name]).name == name
    assert parse(make_settings_parser(), [f"--tokenizer={name}"]).tokenizer == name


def test_null_unsets_a_name(parser):
    assert parse(parser, ["--name=null"], {"name": "of the file"}).name is None


def test_values_of_a_file_are_kept_unless_an_option_is_given(parser):
    options = parse(parser, ["--sizes", "2", "3"], {"name": "null", "files": "[a]", "sizes": [7]})
    assert (options.name, options.files, options.sizes) == ("null", "[a]", [2, 3])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("--batchsize", "--batch-tokens"),
        ("--batch-size", "--batch-tokens"),
        ("--learning-rate", "--peak-learning-rate"),
        ("--heads", "--num-heads"),
        ("--vocab-size", "--vocabulary-size"),
        ("--epoch", "--epochs"),
        ("--batch_tokens", "--batch-tokens"),
        ("--xyz", None),
    ],
)
def test_a_mistyped_option_suggests_what_was_meant(name, meant):
    assert closest(name, [f"--{known.replace('_', '-')}" for known in SETTING_NAMES]) == meant


def test_nothing_is_suggested_if_no_option_is_similar():
    assert closest("--batchsize", ["--beam-size", "--source", "--reference"]) is None


def test_an_unknown_option_is_named_before_what_is_missing(capfd):
    from training.train import main

    assert run_command(main, ["--ouptut", "run"]) == 2
    assert capfd.readouterr().err == (
        "error: unrecognized arguments: --ouptut run. Did you mean --output?\n"
    )


def test_an_option_states_its_least_value_or_a_bound_that_it_must_exceed():
    parser = CommandParser("try", "Tries.")
    parser.add_option("numbers", int, [3], "Some.", least=2, nargs="+")
    parser.add_option("rate", float | None, 0.5, "One.", above=0)
    assert parse(parser, ["--numbers", "2", "7", "--rate=null"]).numbers == [2, 7]
    with pytest.raises(
        UsageError, match=r"--numbers must be at least 2\. Received: 1\. Choose 2 or"
    ):
        parse(parser, ["--numbers", "2", "1"])
    for wrong in ("0", "nan"):
        message = rf"--rate must be above 0\. Received: {wrong}\. For example, choose 0\.5\."
        with pytest.raises(UsageError, match=message):
            parse(parser, [f"--rate={wrong}"])


def test_threads_are_set_for_this_process_and_its_children(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    parser = CommandParser("try", "Tries.")
    parser.add_threads()
    assert parse(parser, []).threads is None
    assert not os.environ
    parse(parser, ["--threads", "3"])
    assert os.environ == dict.fromkeys(
        ["OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC"], "3"
    )


def test_threads_must_be_a_number_given_before_tensorflow_starts(monkeypatch):
    with pytest.raises(UsageError, match="--threads must be at least 1. Received: 0"):
        use_threads(0)
    monkeypatch.setattr("training.command_line.parser.limit_threads", refuse)
    with pytest.raises(UsageError, match="--threads must be given before TensorFlow starts"):
        use_threads(2)


def refuse(_threads):
    raise RuntimeError


def test_names_are_escaped_if_the_terminal_cannot_print_them(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    assert run_command(lambda _: print("finished: r\u00e9sum\u00e9, \udce9")) == 0
    sys.stdout.flush()
    assert printed.getvalue() == b"finished: r\\xe9sum\\xe9, \\udce9\n"


def test_help_gives_the_type_and_default_of_each_value(capsys):
    parser = CommandParser("try", "Tries 100% of it.".replace("%", "%%"))
    parser.add_option("size", int, 7, "All is 100%.")
    parser.add_option("dry", bool, False, "Dry.")
    parser.add_option("names", str, ["a", "b"], "Names.", nargs="+")
    parser.add_option("file", str | None, None, "A file.")
    parser.add_flag("fast", "At 50%.")
    parser.print_help()
    text = " ".join(capsys.readouterr().out.split())
    assert "All is 100%. (a whole number; default: 7)" in text
    assert "Dry. (true or false; default: false)" in text
    assert "Names. (text; default: a b)" in text
    assert "A file. (text or null)" in text
    assert "At 50%." in text
