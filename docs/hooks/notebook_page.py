"""Puts the notebook, with the outputs that it stores, on a page of its own."""

import re
from pathlib import Path

import nbformat
from mkdocs.structure.files import File
from nbconvert.exporters import MarkdownExporter

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "attention_is_all_you_need.ipynb"
MARKER = "<!-- the notebook -->"
_text = ""


def on_files(files, config):
    """Converts the notebook, and adds its pictures to the site."""
    global _text
    exporter = MarkdownExporter()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    _text, resources = exporter.from_notebook_node(
        notebook, {"output_files_dir": "notebook_pictures", "unique_key": "picture"}
    )
    for name, content in resources["outputs"].items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Fills the page."""
    if MARKER not in markdown:
        return markdown
    _, _, text = _text.partition("\n\n")  # without the title, which the page has
    return markdown.replace(MARKER, _described(text))


def _described(text: str) -> str:
    """Gives each picture the title of its section as its description."""
    parts = re.split(r"(?m)^(## .*)$", text)
    for place in range(2, len(parts), 2):
        title = parts[place - 1].removeprefix("## ")
        parts[place] = re.sub(r"!\[\w+\]\(", f"![{title}](", parts[place])
    return "".join(parts)
