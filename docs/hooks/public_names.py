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
        return markdown.replace(MARKER, _all_names(config))
    return ENTRY.sub(_entry, markdown)


def _entry(match: re.Match) -> str:
    name = match[1]
    options = f"heading: kt.{name}\n      toc_label: {name}"
    return f"{match[0]}\n    options:\n      {options}"


def _all_names(config) -> str:
    """Returns a table for each page of the reference, in the order of the navigation."""
    package = griffe.load("keras_transformer", search_paths=[str(ROOT)])
    parts = []
    for page in re.findall(r"reference/\w+\.md", str(config.nav)):
        text = (Path(config.docs_dir) / page).read_text(encoding="utf-8")
        names = ENTRY.findall(text)
        if not names:
            continue
        title = re.match(r"# (.*)", text)[1]
        links = [f"[`kt.{name}`][keras_transformer.{name}]" for name in names]
        rows = [
            f"| {link} | {first_line(package[name])} |"
            for link, name in zip(links, names, strict=True)
        ]
        head = f"## [{title}]({Path(page).name})"
        parts.append("\n".join([head, "", "| name | what it does or is |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def first_line(obj: griffe.Object) -> str:
    """Returns the first paragraph of a docstring, on one line."""
    if obj.docstring is None:
        return ""
    paragraph = obj.docstring.value.split("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", r"\|")
