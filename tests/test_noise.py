"""The library writes nothing to the terminal, not even from C++ code."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from keras_transformer.quiet import without_information
from keras_transformer.text.subword_tokenizer import SubwordTokenizer

ROOT = Path(__file__).parent.parent

TRAIN_AND_EXPORT = """
import sys
import keras_transformer as kt
import tensorflow as tf

tf.config.list_physical_devices()  # TensorFlow describes itself at the first call
source, target = sys.argv[1] + "/text.en", sys.argv[1] + "/text.de"
for path in (source, target):
    with open(path, "w") as file:
        file.write("a man\\na woman rides\\n" * 9)
print("begin", file=sys.stderr, flush=True)
tokenizer = kt.SubwordTokenizer.train([source, target], vocabulary_size=275)
config = kt.TransformerConfig(
    vocabulary_size=tokenizer.vocabulary_size,
    num_layers=1, model_dim=12, num_heads=3, feed_forward_dim=17,
)
model = kt.build_transformer(config)
model.compile(
    optimizer=kt.paper_adam(12),
    loss=kt.LabelSmoothedCrossentropy(),
    weighted_metrics=[kt.Perplexity()],
)
model.fit(kt.pair_batches(source, target, tokenizer, max_tokens=64), verbose=0)
translator = kt.Translator(model, tokenizer, max_source_tokens=16)
kt.export_saved_model(translator, sys.argv[1] + "/export", verify_texts=["a man"])
"""


@pytest.mark.slow
def test_training_and_exporting_from_python_print_nothing(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", TRAIN_AND_EXPORT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == ""
    assert process.stderr.endswith("begin\n")


def test_only_information_is_dropped_from_the_output(capfd):
    with without_information():
        os.write(2, b"normalizer.cc(51) LOG(INFO) precompiled_charsmap is empty.\n")
        os.write(2, b"an error\nno line's end")
    assert capfd.readouterr().err == "an error\nno line's end"


def test_output_before_an_error_is_kept(capfd):
    with pytest.raises(ValueError, match="of the block"), without_information():
        with without_information():
            os.write(2, b"why\n")
        raise ValueError("of the block")
    os.write(2, b"after it\n")
    assert capfd.readouterr().err == "why\nafter it\n"


def test_with_stderr_closed_the_block_still_runs():
    stderr = os.dup(2)
    os.close(2)
    try:
        with without_information():
            has_run = True
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    assert has_run


def test_without_a_python_stderr_file_descriptor_2_is_not_filtered(monkeypatch, capfd):
    monkeypatch.setattr(sys, "stderr", None)
    with without_information():
        os.write(2, b"a) LOG(INFO) in a file\n")
    assert capfd.readouterr().err == "a) LOG(INFO) in a file\n"


def test_building_a_graph_tokenizer_prints_nothing(tokenizer, capfd):
    keras.ops.zeros(())  # TensorFlow looks for a GPU and logs it
    capfd.readouterr()
    SubwordTokenizer(tokenizer.serialized_model).tokenize(["a man"])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
