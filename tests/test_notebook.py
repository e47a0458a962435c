"""The notebook is stored as it ran, and runs from top to bottom."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "attention_is_all_you_need.ipynb"
# The sections of the paper that the notebook covers, in order.
SECTIONS = "3.1 3.2.1 3.2.2 3.2.3 3.3 3.4 3.5 4 5.1 5.3 5.4 6.1 6.2".split()
PICTURES = 11  # pictures drawn by the notebook, without those in docs/


def stored():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell["outputs"]]


def pictures(notebook):
    return [one for one in outputs(notebook) if "image/png" in one.get("data", {})]


def test_the_notebook_follows_the_paper_in_order():
    text = "".join(
        "".join(cell["source"]) + "\n" for cell in stored()["cells"] if cell["cell_type"] != "code"
    )
    assert re.findall(r"^## ([\d.]+)", text, re.MULTILINE) == SECTIONS


def test_the_notebook_is_stored_as_it_ran_from_top_to_bottom():
    cells = code_cells(stored())
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for output in outputs(stored()) if output["output_type"] == "error"]
    assert not [output for output in outputs(stored()) if output.get("name") == "stderr"]
    assert len(pictures(stored())) >= PICTURES


def test_the_notebook_is_small_and_names_no_machine():
    content = NOTEBOOK.read_text(encoding="utf-8")
    assert len(content) < 1_500_000
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", content)
    assert not re.findall(r"/(?:home|root|tmp|work|Users|usr|opt|mnt)/[^\s\"]*", without_pictures)
    assert stored()["metadata"]["kernelspec"]["name"] == "python3"


def test_the_notebook_names_the_commands_of_its_experiments():
    source = "".join("".join(cell["source"]) + "\n" for cell in code_cells(stored()))
    named = re.findall(r'^experiment\("(\w+)"', source, re.MULTILINE)
    assert named == "heads positions layers path table3 jane quality".split()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_notebook_runs_from_top_to_bottom(monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the extra `notebook` is not installed")
    nbclient = pytest.importorskip("nbclient", reason="the extra `notebook` is not installed")
    pytest.importorskip("ipykernel", reason="the extra `notebook` is not installed")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code_cells(notebook):
        cell["outputs"] = []
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,  # seconds for one cell
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )
    client.execute()  # raises a cell's error
    assert len(pictures(notebook)) >= PICTURES
    perplexities = re.search(
        r"([\d.]+) with the last weights, ([\d.]+) averaged",
        "".join(output.get("text", "") for output in outputs(notebook)),
    )
    # Guessing among its 1,500 sub-words gives a perplexity of 1,500.
    assert max(map(float, perplexities.groups())) < 20
