"""No slow import comes before it is needed, and Keras' backend is set in time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.benchmark import TASKS
from training.experiments.__main__ import EXPERIMENTS

ROOT = Path(__file__).parents[3]
MODULES = [path for path in ROOT.glob("training/*.py") if "\ndef main(" in path.read_text()]
COMMANDS = [
    *((path.stem,) for path in sorted(MODULES)),
    *(("benchmark", task) for task in TASKS),
    ("experiments",),
    *(("experiments", name) for name in EXPERIMENTS),
]
HEAVY = ("keras", "tensorflow", "jax", "keras_transformer", "sacrebleu")

RUN_AND_SAY_WHAT_IT_IMPORTED = f"""
import atexit, runpy, sys
atexit.register(lambda: print("imported:", {{*{HEAVY}}} & set(sys.modules)))
sys.argv = sys.argv[1:]
runpy.run_module("training." + sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run(*words):
    command = [sys.executable, "-c", RUN_AND_SAY_WHAT_IT_IMPORTED, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_needs_no_slow_imports(words):
    process = run(*words, "--help")
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(("usage: ", f"python -m training.{words[0]} "))
    assert process.stdout.endswith("imported: set()\n")
    assert process.stderr == ""


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_wrong_option_is_named_without_slow_imports(words):
    process = run(*words, "--batchsize=3")
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert "--batchsize=3. " in process.stderr
    assert process.stdout == "imported: set()\n"


def test_importing_a_command_has_no_side_effects():
    code = (
        "import os, sys; sys.argv = ['x', '--backend=jax']; before = dict(os.environ)\n"
        "import training.evaluate; assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_training_reports_its_start_before_importing_keras(train_arguments, tmp_path):
    """Replaces Keras, whose import takes seconds, by a module that raises an error at once."""
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
