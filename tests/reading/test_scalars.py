"""Settings are read from a run's config.yaml without building what they do not need."""

import pytest
import yaml

from keras_transformer.reading.files import DamagedFile
from keras_transformer.reading.settings import read_scalars

SETTINGS = {
    "text": "a: b",
    "number": 3,
    "small": 1.0e-09,
    "yes": True,
    "nothing": None,
    "list": [{"source": ["a", "b"]}],
    "mapping": {"a": 1},
    "last": "x",
}


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_scalars_are_read_as_pyyaml_reads_them(write):
    found = read_scalars(write(yaml.safe_dump(SETTINGS, sort_keys=False)))
    assert found == SETTINGS | {"list": None, "mapping": None}


REFUSED = {
    r"an alias": "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "nested too deeply": "a: " + "[" * 10_000,
    "nested keys": "[1, 2]: 3\n",
    "'a' twice": "a: 1\na: 2\n",
    "the type": "a: !!python/object/apply:os.system [id]\nb: !!binary x\n",
    "more than one document": "a: 1\n--- \nb: 2\n",
    "more than 1,048,576 bytes": "#" * 2**21,
    "lines": "[1, 2]\n",
    "month must be": "a: 2026-13-13\n",
    "expected": "a: [1, 2\n",
    "codec": b"a: \xff\n",
    "invalid literal": "a: 0x_\n",
    "more than 100 digits": "a: " + "1:" * 20_000 + "1\n",  # in base 60, in quadratic time
    "more than 50,000 values": "a: [" + "1," * 50_000 + "]\n",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_a_run_does_not_hold_is_refused(words, write):
    with pytest.raises(DamagedFile, match=words):
        read_scalars(write(REFUSED[words]))
