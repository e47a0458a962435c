"""Puts files of the checkout's root on pages, with their links changed to fit."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
INCLUDED = re.compile(r"<!-- the file (\w+\.md) -->")


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Replaces a marker by the file that it names."""
    return INCLUDED.sub(lambda match: _content(match[1]), markdown)


def _content(name: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    # Pages can link to pages only: of other files of the checkout, the name stays.
    is_elsewhere = r"(?![a-z]+:|#)(?!\w+(?:/\w+)*\.md)"
    return re.sub(rf"\[([^\]]+)\]\({is_elsewhere}[^)]+\)", r"\1", text)
