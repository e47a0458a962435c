"""Converts the text of a command line, or a YAML value, to the type of an option.

Takes text literally, and parses only lists as YAML.
"""

import typing
from typing import Any

import yaml

NULL = "null"  # how None is typed on the command line

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): NULL,
    list[str]: "a list of texts",
    list[dict]: "a list of mappings",
}
_MOST_VALUES = 50_000  # in a YAML file; a list of 10,000 files to train on fits
_MOST_LEVELS = 20
# PyYAML reads 1:1:1 as a number in base 60, in quadratic time.
_MOST_DIGITS = 100
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_ITEMS = {list[str]: str, list[dict]: dict}


class StrictLoader(yaml.SafeLoader):
    """Loads plain YAML in bounded time and memory.

    Refuses repeated keys, of which PyYAML would drop the first value; values nested deeply; and
    more values than a file of settings has, where a reference to another part of the file (an
    alias) counts as much as that part. References within references would otherwise grow without
    bounds.
    """

    def __init__(self, stream):
        super().__init__(stream)
        self._level, self._num_values = 0, 0
        self._sizes = {}  # the number of values in each part that may be referred to

    def compose_node(self, parent, index):
        start, is_reference = self._num_values, self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark
        self._level += 1
        if self._level > _MOST_LEVELS:
            raise yaml.composer.ComposerError(problem="values nested too deeply", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        if is_reference and node not in self._sizes:
            raise yaml.composer.ComposerError(problem="a part within itself", problem_mark=mark)
        self._num_values += self._sizes[node] if is_reference else 1
        self._sizes.setdefault(node, self._num_values - start)
        if self._num_values > _MOST_VALUES:
            problem = f"more than {_MOST_VALUES:,} values, with references written out"
            raise yaml.composer.ComposerError(problem=problem, problem_mark=mark)
        return node

    def construct_object(self, node, deep=False):
        if node.tag in _NUMBERS and len(node.value) > _MOST_DIGITS:
            raise yaml.constructor.ConstructorError(
                problem=f"a number of more than {_MOST_DIGITS} digits", problem_mark=node.start_mark
            )
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # PyYAML raises many kinds for text that does not fit its type, such as 2026-13-01.
            raise yaml.constructor.ConstructorError(
                problem="a value that does not fit its type", problem_mark=node.start_mark
            ) from error

    def construct_mapping(self, node, deep=False):
        names = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in names:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value[:80]} twice in one mapping", problem_mark=key.start_mark
                )
            names.add(key.value)
        return super().construct_mapping(node, deep)


def in_words(type_hint) -> str:
    """Describes a type, to complete the sentence "must be ..."."""
    if typing.get_origin(type_hint) is typing.Literal:
        return "one of " + ", ".join(typing.get_args(type_hint))
    if type_hint in _WORDS:
        return _WORDS[type_hint]
    return " or ".join(in_words(part) for part in typing.get_args(type_hint))


def from_text(text: str, type_hint) -> Any:
    """Converts the text of an option to its type.

    Args:
        text: The text as typed.
        type_hint: int, float, bool, str, None, a Literal of texts, list[str], list[dict], or a
            union of these.

    Raises:
        ValueError: If the text is not a value of that type.
    """
    members = _members(type_hint)
    if text == NULL and type(None) in members:
        return None
    for member in sorted(members, key=lambda member: member is str):  # str accepts any text
        try:
            return _one_from_text(text, member)
        except ValueError:
            continue
    raise ValueError(f"must be {in_words(type_hint)}")


def from_yaml(value, type_hint) -> Any:
    """Converts a value in a YAML file to the type of its setting.

    Text that spells a number counts as the number, since YAML reads 1e-4 as text.

    Args:
        value: The value, of plain YAML types.
        type_hint: As for `from_text`.

    Raises:
        ValueError: If the value has a different type.
    """
    members = _members(type_hint)
    for member in members:
        if _is_a(value, member):
            return float(value) if member is float else value
    if isinstance(value, str) and {int, float, bool} & {*members}:
        return from_text(value, type_hint)
    raise ValueError(f"must be {in_words(type_hint)}")


def _members(type_hint) -> tuple:
    """Returns the types in a union, or the single type."""
    is_one = type_hint in _WORDS or typing.get_origin(type_hint) is typing.Literal
    return (type_hint,) if is_one else typing.get_args(type_hint)


def _one_from_text(text: str, kind) -> Any:
    if kind in (str, int):
        return kind(text)
    if kind is float:
        return float({".inf": "inf", "-.inf": "-inf", ".nan": "nan"}.get(text.lower(), text))
    if kind is bool and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    value = _list_from_text(text) if kind in _ITEMS else text
    if kind is not bool and _is_a(value, kind):
        return value
    raise ValueError


def _list_from_text(text: str) -> Any:
    """Parses text in brackets as YAML; returns None if it has no brackets or is not YAML."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        return yaml.load(text, StrictLoader)
    except yaml.YAMLError:
        return None


def _is_a(value, kind) -> bool:
    """Whether a value has a type; a Boolean is not a number."""
    if typing.get_origin(kind) is typing.Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if kind in _ITEMS:
        return isinstance(value, list) and all(isinstance(item, _ITEMS[kind]) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind
