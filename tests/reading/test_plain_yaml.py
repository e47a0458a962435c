"""YAML in which every value is text."""

import pytest

from keras_transformer.reading.files import DamagedFile
from keras_transformer.reading.plain_yaml import plain_yaml
from tests.mutated_bytes import KINDS, mutants


def test_values_that_yaml_would_convert_stay_text():
    text = 'on: 0\n2: 1\n~: 2\nnull: 3\n1e3: 4\n"!": 5\n0x10: 6\n2026-01-01: 7\n'
    assert plain_yaml(text.encode()) == {
        **{"on": "0", "2": "1", "~": "2", "null": "3", "1e3": "4"},
        **{"!": "5", "0x10": "6", "2026-01-01": "7"},
    }


def test_lists_and_mappings_may_be_nested():
    text = b"a:\n  - b\n  - [c, {d: e}]\nf: {g: []}\n"
    assert plain_yaml(text) == {"a": ["b", ["c", {"d": "e"}]], "f": {"g": []}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: &x 1\n", "anchor"),
        (b"a: 1\nb: *a\n", "alias|anchor"),
        (b"a: !!python/object:os.system 1\n", "the type .*os.system"),
        (b"a: !!int 1\n", "the type"),
        (b"a: 1\na: 2\n", "'a' twice"),
        (b"- a\n", "other than `name: value`"),
        (b"", "other than `name: value`"),
        (b"a: 1\n--- \nb: 2\n", "more than one document"),
        (b"a: [b\n", "expected"),
        (b"{[a]: b}", "a key that is not text"),
        (b"\xff\xfe\x00", "utf-8"),
        (b"[" * 100_000, "levels"),
        (b"{a: " * 100_000, "levels"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises(DamagedFile, match=message):
        plain_yaml(text)


def test_a_bomb_of_references_is_refused_at_once():
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    with pytest.raises(DamagedFile, match="anchor"):
        plain_yaml("\n".join(lines).encode())


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_or_read_but_never_crashes(kind):
    text = b"a: 1\nb:\n  - c\n  - {d: e}\n'f': \"g\\n\"\nsome: more text, to have parts to swap\n"
    for mutant in mutants(text, kind):
        try:
            assert isinstance(plain_yaml(mutant), dict)
        except DamagedFile as error:
            assert "\n" not in str(error)
