"""A user's program is checked against the package's hints."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed"),
]

RIGHT = """
import keras_transformer as kt

tokenizer = kt.SubwordTokenizer.train(["train.en", "train.de"], vocabulary_size=10_000)
config = kt.TransformerConfig.tiny(vocabulary_size=tokenizer.vocabulary_size, dropout=0.1)
model = kt.build_transformer(config)
blocks: list[kt.EncoderBlock] = model.encoder_blocks
model.compile(optimizer=kt.paper_adam(config.model_dim), loss=kt.LabelSmoothedCrossentropy())
model.fit(kt.pair_batches("train.en", "train.de", tokenizer, max_tokens=1024), epochs=20)

ids: list[int] = tokenizer.encode("A man")
rows: list[list[int]] = tokenizer.encode(["A man", "Two men"])
line: str = tokenizer.decode(ids)
lines: list[str] = tokenizer.decode(rows)

translator = kt.Translator.load("runs/en-de", beam_size=2)
translations: list[str] = translator(["A man rides a bicycle."])
n_best: list[list[tuple[str, float]]] = translator.n_best((line for line in lines), n=2)
tokens: list[str] = translator.attention("A man", "Ein Mann").source_tokens
version: str = kt.export_saved_model(translator, "saved_models/en-de")
encoded = kt.EncoderBlock(num_heads=4, feed_forward_dim=128)(kt.padding_mask(rows))
"""

# Each line has one error, named by its comment.
WRONG = """
import keras_transformer as kt

translator = kt.Translator.load(3)  # arg-type
translator(["A man rides a bicycle."]).upper()  # attr-defined
translator.n_best(["A man"], n="2")  # arg-type
translator.n_best(["A man"], n=2, beams=3)  # call-arg
translator.attention("A man", "Ein Mann").target_words  # attr-defined
tokenizer = kt.SubwordTokenizer.train("train.en")  # call-arg
ids: list[int] = tokenizer.encode(["A man"])  # assignment
config = kt.TransformerConfig(vocabulary_size="10_000")  # arg-type
kt.build_transformer(300)  # arg-type
kt.EncoderBlock(num_heads="4", feed_forward_dim=128)  # arg-type
kt.beam_search(len, kt.DecodingState(0), start_id=2, end_id=3, max_length=[5])  # arg-type
kt.paper_adam(model_dim=512, warm_up=400)  # call-arg
kt.Translater  # attr-defined
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The errors in both programs: for each program, its lines and their kinds."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "right.py").write_text(RIGHT)
    (folder / "wrong.py").write_text(WRONG)
    options = ["--config-file=", f"--cache-dir={folder / 'cache'}", "--follow-imports=silent"]
    process = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "right.py", "wrong.py"],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.stderr == ""
    errors = re.findall(r"^(\w+)\.py:(\d+): error: .*\[([\w-]+)\]$", process.stdout, re.MULTILINE)
    assert len(errors) == process.stdout.count(": error: ")
    return {
        program: [(int(number), kind) for name, number, kind in errors if name == program]
        for program in ("right", "wrong")
    }


def test_a_right_program_has_no_errors(found):
    assert found["right"] == []


def test_each_mistake_in_a_program_is_found(found):
    expected = [
        (number, line.partition("  # ")[2])
        for number, line in enumerate(WRONG.splitlines(), start=1)
        if "  # " in line
    ]
    assert found["wrong"] == expected
