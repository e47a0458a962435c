"""What is decided before Keras is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMMANDS = ["train", "evaluate", "translate", "export", "benchmark", "demo"]

RUN_AND_SAY_WHAT_IT_IMPORTED = """
import atexit, runpy, sys
heavy = {"keras", "tensorflow", "jax", "matplotlib", "sacrebleu"}
atexit.register(lambda: print("imported:", heavy & set(sys.modules)))
sys.argv = sys.argv[1:]
runpy.run_module("training." + sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_without_what_takes_seconds_to_import(command):
    arguments = [sys.executable, "-c", RUN_AND_SAY_WHAT_IT_IMPORTED, command, "--help"]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert f"training.{command}" in process.stdout
    assert process.stdout.endswith("imported: set()\n")


EXPERIMENTS = ["layers", "parallel", "path", "table3", "heads", "positions", "quality", "jane"]
BENCHMARKS = ["train", "data", "decode", "serve", "compare", "curve", "memory"]


@pytest.mark.parametrize(
    "words",
    [
        *(("experiments", name) for name in EXPERIMENTS),
        *(("benchmark", name) for name in BENCHMARKS),
        ("serve",),
        ("tune",),
    ],
    ids=" ".join,
)
def test_help_is_all_that_is_printed_where_it_is_asked_for(words):
    module, *more = words
    arguments = [sys.executable, "-m", f"training.{module}", *more, "--help"]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("usage: ")
    assert process.stderr == ""


def test_where_no_help_is_asked_for_the_whole_library_is_there():
    """A model's file can be read only where all its layers have been imported."""
    code = (
        "import sys; sys.argv = ['x', 'run']; import training.command_line.running;"
        " import keras_transformer as kt; kt.Translator"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_training_says_what_it_does_before_keras_is_imported(train_arguments, tmp_path):
    """Keras and its backend take seconds; here there is one that gives up at once."""
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "__init__.py").write_text("raise SystemExit(7)\n")
    command = [sys.executable, "-m", "training.train", *train_arguments, "--output", "run"]
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 7, process.stderr
    assert process.stdout.startswith("reading the text\n")
