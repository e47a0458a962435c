"""Prepares docstrings for the site: turns the project's own sections into ones that Griffe knows.

`Source:` and `Deviation:` become paragraphs, `Call arguments:` a list of arguments. Public names in
backquotes become links to their entries.
"""

import re

import griffe

from docs.hooks.public_names import PUBLIC_NAMES

HEADING = re.compile(r"[A-Z][A-Za-z ]*:( |$)")
REMARK = re.compile(r"(Source|Deviation): ")
# Names, and a description with the lines that continue it, four or more spaces deeper.
SHARED_DESCRIPTION = re.compile(r"^    (\w+(?:, \w+)+):(.*(?:\n {8}.*)*)", re.MULTILINE)


class ProjectDocstrings(griffe.Extension):
    """Rewrites each docstring before Griffe parses it."""

    def on_object(self, *, obj: griffe.Object, **_more) -> None:
        """Rewrites the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = for_griffe(obj.docstring.value)


def for_griffe(docstring: str) -> str:
    """Returns a docstring with only sections that Griffe knows, and with links."""
    blocks = [_rewritten(block) for block in _blocks(docstring.splitlines())]
    return _linked("\n\n".join("\n".join(block) for block in blocks))


def _blocks(lines: list[str]) -> list[list[str]]:
    """Splits a docstring at blank lines and before section headings."""
    blocks = [[]]
    for line in lines:
        if not line.strip():
            # A blank line inside an indented section belongs to it.
            blocks.append([])
        elif HEADING.match(line) and blocks[-1]:
            blocks.append([line])
        else:
            blocks[-1].append(line)
    return [block for block in blocks if block]


def _rewritten(block: list[str]) -> list[str]:
    title, *content = block
    if REMARK.match(title):
        name, _, text = " ".join(line.strip() for line in block).partition(": ")
        return [f"**{name}:** {text}"]
    if title == "Call arguments:":
        return ["Other args: Call arguments:", *_one_name_each(content)]
    if title == "Example:" and content:
        return ["Examples: Example:", *_as_python(content)]
    if title in ("Args:", "Attributes:"):
        return [title, *_one_name_each(content)]
    return block


def _one_name_each(content: list[str]) -> list[str]:
    """Repeats a description that several names share."""
    text = re.sub(r"(?m)^(    (?:\w+, )*\w+,)\n +", r"\1 ", "\n".join(content))
    return SHARED_DESCRIPTION.sub(_repeated, text).splitlines()


def _repeated(match: re.Match) -> str:
    return "\n".join(f"    {name}:{match[2]}" for name in match[1].split(", "))


def _as_python(content: list[str]) -> list[str]:
    """Fences an example that is not a session with `>>>`."""
    if content[0].lstrip().startswith(">>>"):
        return content
    return ["    ```python", *content, "    ```"]


def _linked(docstring: str) -> str:
    """Links public names in backquotes to their entries, except arguments of the same name."""
    arguments = {*re.findall(r"^    (\w+):", docstring, re.MULTILINE)}
    return re.sub(
        r"(?<![`\[])`(\w+)((?:\.\w+)?)`(?!`)",
        lambda match: (
            f"[{match[0]}][keras_transformer.{match[1]}{match[2]}]"
            if match[1] in PUBLIC_NAMES and match[1] not in arguments
            else match[0]
        ),
        docstring,
    )
