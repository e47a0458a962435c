"""The printed lines of the decoding benchmark; the speed itself is not tested."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.config import TransformerConfig
from training.benchmark import main
from training.benchmarks.decoding_speed import (
    exports_for,
    made_up_texts,
    random_transformer,
    tokenizer_of_words,
)
from training.benchmarks.flops import decoding_flops
from training.benchmarks.served_speed import answer
from training.benchmarks.step_profile import DECODING_PARTS, DECODING_REST, OUTSIDE
from training.command_line.running import run_command


class Reverser(tf.Module):
    """Translates a text to its letters in reverse, but the text `lost` to a blank text."""

    def __init__(self, lost="", with_greedy=True):
        super().__init__()
        self.lost = lost
        self.with_greedy = with_greedy

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def translate(self, text):
        letters = tf.strings.unicode_split(text, "UTF-8")
        backwards = tf.strings.reduce_join(tf.reverse(letters.to_tensor(""), [1]), axis=1)
        return {"translation": tf.where(text == self.lost, "", backwards)}

    def save(self, path):
        signatures = {"serving_default": self.translate}
        if self.with_greedy:
            signatures["greedy"] = self.translate
        tf.saved_model.save(self, str(path), signatures=signatures)
        return str(path)


def request(version, batches, **changes):
    settings = {"signature": "greedy", "repeats": 2, "fewest_bytes": 0, "profile": None}
    return {"version": version, "batches": batches, **settings, **changes}


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines"
    path.write_text("".join(f"line {number}\n" for number in range(5)))
    return str(path)


def test_no_weight_of_a_random_model_is_constant():
    config = TransformerConfig(
        vocabulary_size=50, num_layers=1, model_dim=8, feed_forward_dim=12, num_heads=2
    )
    weights = random_transformer(config).get_weights()
    assert weights
    assert all(np.ptp(weight) > 0 for weight in weights)


def test_the_operations_of_a_search_are_the_sum_over_its_products():
    config = TransformerConfig(
        vocabulary_size=100, num_layers=2, model_dim=8, feed_forward_dim=12, num_heads=2
    )
    projections = 4 * 8 * 8  # of one position: query, key, value and output
    feed_forward = 2 * 8 * 12
    encoder = 5 * (projections + feed_forward) + 2 * 5 * 5 * 8
    source_keys_and_values = 5 * (2 * 8 * 8)
    positions_seen = 1 + 2 + 3
    self_attention = 3 * projections + 2 * positions_seen * 8
    cross_attention = 3 * (2 * 8 * 8) + 2 * 3 * 5 * 8
    decoder = 2 * (self_attention + cross_attention + 3 * feed_forward) + 3 * 8 * 100
    multiply_adds = 7 * (2 * (encoder + source_keys_and_values) + 4 * decoder)
    assert decoding_flops(config, 7, beam_size=4, source_length=5, length=3) == 2 * multiply_adds


@pytest.mark.parametrize("vocabulary_size", [300, 1001, 10_000])
def test_a_made_up_word_is_one_token(vocabulary_size):
    tokenizer, words = tokenizer_of_words(vocabulary_size)
    assert tokenizer.vocabulary_size == vocabulary_size
    assert len(words) >= 0.4 * (vocabulary_size - 4 - 256)
    for words_at_once in (words[:7], words[-7:]):
        assert len(tokenizer.encode(" ".join(words_at_once))) == 7


def test_made_up_texts_have_the_given_length():
    tokenizer, words = tokenizer_of_words(300)
    texts = made_up_texts(tokenizer, words, batch=3, source_length=6)
    assert [len(ids) for ids in tokenizer.encode(texts)] == [5, 5, 5]  # and the end
    with pytest.raises(RuntimeError, match=r"must have 6 tokens. Received: \[30\]"):
        made_up_texts(tokenizer, ["split"], batch=3, source_length=6)  # into bytes


@pytest.mark.parametrize(
    ("beam_sizes", "exports"),
    [
        ([4], [(4, [4])]),
        ([1], [(4, [1])]),
        ([1, 5], [(5, [1, 5])]),
        ([3, 1, 2], [(3, [1, 3]), (2, [2])]),
    ],
)
def test_greedy_search_is_measured_with_the_first_export(beam_sizes, exports):
    assert exports_for(beam_sizes) == exports


@pytest.mark.slow
def test_each_search_prints_a_line_of_json(capfd):
    small = ["--num-layers=1", "--vocabulary-size=300", "--source-length=4", "--length=3"]
    several = ["--batch=2", "--beam-size", "1", "2", "--repeats=3", "--profile"]
    assert run_command(main, ["decode", *small, *several]) == 0
    greedy, beam = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert (greedy["beam_size"], beam["beam_size"]) == (1, 2)
    for measured in (greedy, beam):
        assert measured["task"] == "decode"
        assert (measured["batch"], measured["source_length"], measured["length"]) == (2, 4, 3)
        assert 0 < measured["seconds_min"] <= measured["seconds"] <= measured["seconds_max"]
        assert measured["tokens_per_second"] == pytest.approx(2 * 3 / measured["seconds"], rel=0.01)
        assert measured["sentences_per_second"] == pytest.approx(2 / measured["seconds"], rel=0.01)
        assert measured["step_ms"] == pytest.approx(1000 * measured["seconds"] / 3, rel=0.01)
        assert 0 < measured["memory_mib"] <= measured["peak_memory_mib"]
        assert measured["export_mib"] > 0
        profile = measured["profile_ms"]
        assert profile.keys() == {*DECODING_PARTS, DECODING_REST, OUTSIDE}
        assert profile["encoder"] > 0


def test_lines_of_a_file_are_translated_in_order(tmp_path, lines, capfd):
    version = Reverser().save(tmp_path / "1")
    arguments = ["--saved-model", version, "--text", lines, "--batch=2", "--repeats=1"]
    assert run_command(main, ["decode", *arguments]) == 0
    measured = json.loads(capfd.readouterr().out)
    assert (measured["sentences"], measured["batch"]) == (5, 2)
    assert measured["signature"] == "serving_default"
    assert measured["sentences_per_second"] == pytest.approx(5 / measured["seconds"], rel=0.01)


def test_the_error_of_the_other_process_is_reported(tmp_path, lines, capfd):
    version = Reverser(with_greedy=False).save(tmp_path / "1")
    arguments = ["--saved-model", version, "--text", lines, "--greedy"]
    assert run_command(main, ["decode", *arguments]) == 1
    complaint = capfd.readouterr().err
    assert "in a process of its own. Received: ValueError" in complaint
    assert "must have the signature greedy. Received: serving_default." in complaint
    assert complaint.count("error: ") == 1


def test_a_repeat_is_one_pass_over_all_batches(tmp_path):
    measured = answer(request(Reverser().save(tmp_path / "1"), [["ab", "c"], ["d"]]))
    assert len(measured["seconds"]) == 2
    assert min(measured["seconds"]) > 0


def test_blank_translations_are_refused(tmp_path):
    version = Reverser(lost="c").save(tmp_path / "1")
    with pytest.raises(ValueError, match="must have 1 bytes or more.* Received: 0 to 2 bytes"):
        answer(request(version, [["ab", "c"]], fewest_bytes=1))
    with pytest.raises(ValueError, match="not all may be blank"):
        answer(request(version, [["c"], ["c"]]))
    answer(request(version, [["ab", "c"]]))  # a blank line of real text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--batch", "4", "0"], "--batch must be at least 1. Received: 0."),
        (["--batch", "2", "x"], "--batch must be a whole number. Received: x."),
        (["--length=1"], "--length must be at least 2. Received: 1."),
        (["--source-length=1"], "--source-length must be at least 2."),
        (["--vocabulary-size=80001"], "--vocabulary-size must be at most 80000."),
        (["--threads=0"], "--threads must be at least 1."),
        (["--preset=huge"], "--preset must be one of tiny, base, big or null. Received: huge."),
        (["--dtype=float16"], "--dtype must be one of float32, bfloat16, int8"),
        (["--text=x"], "--saved-model and --text must be given together."),
        (["--saved-model=x", "--text=y", "--length=3"], "Received: --length. Leave these"),
        (["--greedy"], "--greedy must be given with --saved-model."),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments, complaint, capfd):
    assert run_command(main, ["decode", *arguments]) == 2
    assert complaint in capfd.readouterr().err


def test_missing_files_are_named(tmp_path, lines, capfd):
    missing = str(tmp_path / "missing")
    assert run_command(main, ["decode", "--saved-model", missing, "--text", missing]) == 1
    assert re.search(r"missing: must be a file.*No such file", capfd.readouterr().err)
    assert run_command(main, ["decode", "--saved-model", missing, "--text", lines]) == 1
    assert "missing: must be one version of an export." in capfd.readouterr().err
