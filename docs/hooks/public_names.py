"""Completes the API reference: headings as users write the names, and the list of all names."""

import ast
import re
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(r"^::: keras_transformer\.(\w+)$", re.MULTILINE)
MARKER = "<!-- all public names -->"


def _public_names() -> tuple[str, ...]:
    """Reads `__all__` without importing the package."""
    source = (ROOT / "keras_transformer" / "__init__.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return tuple(ast.literal_eval(node.value))
    raise ValueError("keras_transformer/__init__.py must define __all__. Received: no such line.")


PUBLIC_NAMES = _public_names()


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Writes each entry's heading, or the list of all entries."""
    if MARKER in markdown:
        return markdown.replace(MARKER, _all_names(files))
    return ENTRY.sub(_entry, markdown)


def _entry(match: re.Match) -> str:
    name = match[1]
    options = f"heading: kt.{name}\n      toc_label: {name}"
    return f"{match[0]}\n    options:\n      {options}"


def _all_names(files) -> str:
    """Returns a table for each page of the reference, in its order."""
    package = griffe.load("keras_transformer", search_paths=[str(ROOT)])
    parts = []
    for file in files.documentation_pages():
        if not file.src_uri.startswith("reference/"):
            continue
        text = file.content_string
        names = ENTRY.findall(text)
        if not names:
            continue
        title = re.match(r"# (.*)", text)[1]
        rows = [f"| {_link(file, name)} | {first_line(package[name])} |" for name in names]
        page_name = file.src_uri.removeprefix("reference/")
        head = f"## [{title}]({page_name})"
        parts.append("\n".join([head, "", "| name | what it does or is |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def _link(file, name: str) -> str:
    return f"[`kt.{name}`][keras_transformer.{name}]"


def first_line(obj: griffe.Object) -> str:
    """Returns the first sentence of a docstring, on one line."""
    if obj.docstring is None:
        return ""
    paragraph = obj.docstring.value.split("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", r"\|")
