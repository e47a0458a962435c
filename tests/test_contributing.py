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


def test_the_files_and_folders_that_contributing_names_exist():
    named = re.findall(r"`([\w/.]+(?:/|\.py|\.toml|\.cfg|\.lock|\.ipynb))`", TEXT)
    assert {"keras_transformer/", "training/", "docs/", "tests/documented_commands.py"} <= {*named}
    for name in named:
        assert (ROOT / name).exists() or (PACKAGE / name).exists(), name


def test_contributing_links_to_the_map_of_the_code():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert "docs/architecture.md" in links
    assert all((ROOT / link).exists() for link in links)
