"""CONTRIBUTING.md describes the code correctly."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_transformer"
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NOT_ON_JAX = ("text", "data", "export", "translator.py", "compiled_functions.py")


def test_contributing_names_the_core_files_that_ask_for_the_backend():
    [section] = re.findall(r"^## TensorFlow and JAX$(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL)
    asking = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in NOT_ON_JAX
        and re.search(r"backend\.backend\(\)|shapes_are_dynamic", path.read_text(encoding="utf-8"))
    }
    assert {*re.findall(r"`(\S+\.py)`", section)} == asking


def test_the_folders_that_contributing_names_exist():
    [section] = re.findall(r"^## Where things are$(.*?)^Imports", TEXT, re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`([\w/]+(?:/|\.py))`", section.replace("COMMAND", "train")):
        assert (ROOT / name).exists() or (PACKAGE / name).exists(), name
