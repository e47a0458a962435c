"""Reads YAML in which every value is text, such as the files of a Marian model.

YAML would read the sub-word `on` as true, `2` as a number and `~` as nothing. Here they stay text.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import yaml

from keras_transformer.reading.files import DamagedFile

Plain: TypeAlias = "str | list[Plain] | dict[str, Plain]"

_MOST_LEVELS = 8


class _Place(NamedTuple):
    """A list or mapping that is being read, and the key that waits for its value."""

    value: Any
    key: str | None = None


def plain_yaml(data: bytes) -> "dict[str, Plain]":
    """Reads a mapping of texts, lists and mappings.

    Reads the file as a stream of events, so nothing grows beyond the size of the file: references
    to other parts of it (aliases) and tags are refused.

    Raises:
        DamagedFile: If the bytes are not such a mapping, or give a key twice.
    """
    try:
        root = _value_of(_events(data.decode("utf-8-sig")))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedFile(" ".join(str(error).split())[:200] or type(error).__name__) from error
    if not isinstance(root, dict):
        raise DamagedFile("something other than `name: value` lines")
    return root


def _events(text: str) -> Iterator[Any]:
    parser = getattr(yaml, "CBaseLoader", yaml.BaseLoader)(text)
    try:
        while parser.check_event():
            yield parser.get_event()
    finally:
        parser.dispose()


def _value_of(events: Iterator[Any]) -> "Plain | None":
    """Returns the only document's value, or None if there is no document."""
    root: Any = None
    places: list[_Place] = []
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise DamagedFile("a reference to another part of the file (an alias)")
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            raise DamagedFile("more than one document")
        if isinstance(event, yaml.CollectionEndEvent):
            places.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        _refuse_names(event)
        if isinstance(event, yaml.ScalarEvent):
            value: Any = event.value
        else:
            value = [] if isinstance(event, yaml.SequenceStartEvent) else {}
        if places:
            _put(places, value)
        else:
            root = value
        if not isinstance(value, str):
            places.append(_Place(value))
            if len(places) > _MOST_LEVELS:
                raise DamagedFile(f"more than {_MOST_LEVELS} levels of lists and mappings")
    return root


def _refuse_names(event: Any) -> None:
    if event.anchor is not None:
        raise DamagedFile("a name for a part of the file (an anchor)")
    if event.tag not in (None, "!"):
        raise DamagedFile(f"the type {str(event.tag)[:80]}")


def _put(places: list[_Place], value: Any) -> None:
    """Adds a value to the innermost list or mapping, or keeps it as the key of the next one."""
    container, key = places[-1]
    if isinstance(container, list):
        container.append(value)
    elif key is not None:
        container[key] = value
        places[-1] = _Place(container)
    elif not isinstance(value, str):
        raise DamagedFile("a key that is not text")
    elif value in container:
        raise DamagedFile(f"the key {value[:80]!r} twice")
    else:
        places[-1] = _Place(container, value)
