import pytest

from training.command_line.option_types import from_text, from_yaml, in_words

TEXTS = ["#t.model", "&x", "*x", "~", "1e3", "007", "1_000", "0x10", "[a]", "{a: b}", "yes", "a: b"]
TEXTS += [
    "",
    " ",
    " a ",
    "@file",
    "a=b",
    "!x",
    "- a",
    "'a'",
    "a # b",
    "None",
    "2001-01-01",
    "\udce9",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("type_hint", [str, str | None])
def test_text_is_kept_unchanged(text, type_hint):
    assert from_text(text, type_hint) == text


@pytest.mark.parametrize("text", [text for text in TEXTS if text != "[a]"])
def test_text_is_kept_unchanged_where_a_list_is_allowed(text):
    assert from_text(text, str | list[str] | None) == text


def test_a_list_of_texts_is_read_as_yaml():
    assert from_text("[a.en, 'b c']", str | list[str] | None) == ["a.en", "b c"]
    assert from_text("[1, 2]", str | list[str] | None) == "[1, 2]"
    assert from_text("[ab]*.txt", str | list[str] | None) == "[ab]*.txt"
    assert from_text('[{"source": "a"}]', list[dict] | None) == [{"source": "a"}]


@pytest.mark.parametrize("type_hint", [str | None, int | None, float | None, list[dict] | None])
def test_null_unsets_what_may_be_none(type_hint):
    assert from_text("null", type_hint) is None
    assert from_yaml(None, type_hint) is None


def test_null_is_text_for_values_that_cannot_be_unset():
    assert from_text("null", str) == "null"


@pytest.mark.parametrize(
    ("text", "type_hint", "value"),
    [
        ("10", int, 10),
        ("010", int, 10),
        ("-3", int | None, -3),
        ("1e-4", float | None, 1e-4),
        ("1", float, 1.0),
        ("true", bool, True),
        ("False", bool | None, False),
    ],
)
def test_numbers_and_booleans_are_parsed(text, type_hint, value):
    found = from_text(text, type_hint)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "type_hint", "message"),
    [
        ("#5", int | None, "must be a whole number or null"),
        ("~", float | None, "must be a number or null"),
        ("2.5", int, "must be a whole number"),
        ("", int | None, "must be a whole number or null"),
        ("1", bool, "must be true or false"),
        ("source: a", list[dict] | None, "must be a list of mappings or null"),
        ("[{source: a, source: b}]", list[dict], "must be a list of mappings"),
    ],
)
def test_text_of_a_wrong_type_is_refused(text, type_hint, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        from_text(text, type_hint)


def test_a_yaml_value_keeps_its_type():
    assert from_yaml("null", str | None) == "null"  # it was written with quotes
    assert from_yaml("[a]", str | list[str] | None) == "[a]"
    assert from_yaml(["a"], str | list[str] | None) == ["a"]
    assert isinstance(from_yaml(1, float | None), float)
    assert from_yaml("1e-4", float) == 1e-4  # YAML 1.1 asks for a point


@pytest.mark.parametrize(("value", "type_hint"), [(7, str | None), (True, float), (2.5, int)])
def test_a_yaml_value_of_a_wrong_type_is_refused(value, type_hint):
    with pytest.raises(ValueError, match=f"^must be {in_words(type_hint)}$"):
        from_yaml(value, type_hint)
