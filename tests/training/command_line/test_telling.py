"""Commands report their start once, before imports that take seconds."""

import subprocess
import sys

import pytest

from tests.training.conftest import as_arguments
from training.command_line.running import tell

# Ends with code 7 as soon as Keras, TensorFlow or JAX would be imported.
UP_TO_THE_IMPORT = """
import os, runpy, sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name in ("keras", "tensorflow", "jax"):
            sys.stdout.flush()
            os._exit(7)
sys.meta_path.insert(0, Stop())
sys.argv = sys.argv[1:]
runpy.run_module(f"training.{sys.argv[0]}", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def run_up_to_the_import(tmp_path):
    """Returns what a command prints before that import, to stdout and to stderr."""

    def run(*arguments):
        command = [sys.executable, "-c", UP_TO_THE_IMPORT, *map(str, arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 7, done.stderr
        return done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    "command",
    [
        "benchmark train",
        "benchmark decode",
        "experiments layers",
        "experiments parallel",
        "experiments path",
        "experiments heads",
        "experiments positions",
        "experiments jane",
        "experiments table3",
    ],
)
def test_a_command_reports_its_start_at_once(run_up_to_the_import, tmp_path, command):
    output = ["--output", tmp_path] if command.startswith("experiments") else []
    stdout, stderr = run_up_to_the_import(*command.split(), *output)
    assert stdout == ""
    assert stderr.endswith(" ...\n")


def test_translating_reports_its_start_on_stderr_only(run_up_to_the_import, finished_run):
    said = run_up_to_the_import("translate", finished_run)
    assert said == ("", f"loading {finished_run} ...\n")


@pytest.mark.parametrize("command", ["evaluate", "export", "train", "tune"])
def test_commands_on_runs_report_their_start_at_once(
    run_up_to_the_import, finished_run, text_files, tmp_path, command
):
    source, target = text_files["validation_source"], text_files["validation_target"]
    more = {
        "evaluate": [finished_run, "--source", source, "--reference", target],
        "export": [finished_run, tmp_path / "saved_models"],
        "train": [*as_arguments(text_files), "--output", tmp_path / "run"],
        "tune": [*as_arguments(text_files), "--output", tmp_path / "out", "--max-trials=1"],
    }
    stdout, stderr = run_up_to_the_import(command, *more[command])
    assert "loading" not in stdout
    assert stderr.startswith(("starting ", "loading "))
    assert stderr.count("\n") == 1


def test_the_server_names_the_version_to_load_at_once(run_up_to_the_import, tmp_path):
    for number in (1, 2, 10):
        (tmp_path / "en-de" / str(number)).mkdir(parents=True)
    stdout, _ = run_up_to_the_import("serve", tmp_path / "en-de", "--port=0")
    assert stdout == f"loading {tmp_path / 'en-de'} version 10 ...\n"
    stdout, _ = run_up_to_the_import("serve", tmp_path / "en-de", "--port=0", "--versions=1,2,3")
    assert stdout.splitlines() == [f"loading {tmp_path / 'en-de'} version {n} ..." for n in (1, 2)]
    stdout, _ = run_up_to_the_import("serve", tmp_path / "none", "--port=0", "--wait")
    assert stdout == f"waiting for a version in {tmp_path / 'none'} ...\n"


def test_without_stderr_nothing_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    tell("one two ...")
    assert capsys.readouterr().out == ""
