"""Reads the settings in a run's config.yaml, as far as the library needs them."""

from pathlib import Path
from typing import Any

import yaml

from keras_transformer.reading.files import DamagedFile, read_bounded

_MOST_BYTES = 2**20
_MOST_LEVELS = 20
_MOST_EVENTS = 50_000  # beginnings and ends of lists and mappings, and what they hold
# PyYAML reads 1:1:1 as a number in base 60, in quadratic time.
_MOST_DIGITS = 100
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_scalars(path: Path) -> dict[str, Any]:
    """Reads the texts, numbers, Booleans and nulls at the top of a YAML file; skips the rest.

    Reads the file as a stream of events, so nothing grows beyond the size of the file: references
    to other parts of it (aliases) are refused, and lists and mappings are never built.

    Raises:
        DamagedFile: If the file is not such a mapping, or is larger than 1 MiB.
    """
    try:
        return _scalars(yaml.SafeLoader(read_bounded(path, _MOST_BYTES).decode("utf-8-sig")))
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, ValueError) as error:
        # PyYAML raises many kinds for values that do not fit their type.
        raise DamagedFile(" ".join(str(error).split())[:200] or type(error).__name__) from error


def _scalars(loader: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    key: str | None = None
    level = num_events = 0
    while loader.check_event():
        event, num_events = loader.get_event(), num_events + 1
        if num_events > _MOST_EVENTS:
            raise DamagedFile(f"more than {_MOST_EVENTS:,} values")
        if isinstance(event, yaml.DocumentStartEvent) and values:
            raise DamagedFile("more than one document")
        if isinstance(event, yaml.AliasEvent):
            raise DamagedFile("a reference to another part of the file (an alias)")
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
            if level > _MOST_LEVELS or (level == 2 and key is None):
                raise DamagedFile("nested keys, or values nested too deeply")
            if level == 1 and not isinstance(event, yaml.MappingStartEvent):
                raise DamagedFile("something other than `name: value` lines")
        elif isinstance(event, yaml.CollectionEndEvent):
            level -= 1
            key = None if level == 1 else key
        elif isinstance(event, yaml.ScalarEvent) and level == 1 and key is None:
            key = event.value
            if key in values:
                raise DamagedFile(f"{key[:80]!r} twice")
            values[key] = None
        elif isinstance(event, yaml.ScalarEvent) and level == 1 and key is not None:
            values[key] = _value_of(loader, event)
            key = None
    if level != 0 or not values:
        raise DamagedFile("something other than `name: value` lines")
    return values


def _value_of(loader: Any, event: yaml.ScalarEvent) -> Any:
    """Returns the value of a scalar; explicit types such as !!binary are refused."""
    if event.tag is not None:
        raise DamagedFile(f"the type {event.tag[:80]!r}")
    tag = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
    if tag in _NUMBERS and len(event.value) > _MOST_DIGITS:
        raise DamagedFile(f"a number of more than {_MOST_DIGITS} digits")
    return loader.construct_object(yaml.ScalarNode(tag, event.value))
