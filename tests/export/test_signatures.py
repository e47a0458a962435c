"""Exports in the loader that TensorFlow Serving is built on, also with odd text."""

import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import keras_transformer.export.signatures
from keras_transformer.export.signatures import (
    NO_RESULT,
    _attends,
    _best_of_each_text,
    _finds_n_best,
    _finds_n_best_from_prefix,
    _in_groups,
    _scores,
    _translates,
    source_ids_in_graph,
)
from keras_transformer.search.hypotheses import Hypotheses
from keras_transformer.text.blank import BLANK_CHARACTERS
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from keras_transformer.translator import Translator
from tests.export.served import SIGNATURES, assert_n_best, assert_only_stock_operations, meta_graph
from tests.export.serving_loaders import ask_in_a_fresh_process
from tests.random_models import TEXTS
from tests.writer import Writer

BLANKS = ["", "\t \n", *BLANK_CHARACTERS]
HARD_TEXTS = ["two  spaces ", "tab\tand café", "눈 속의 개", "🚲", "</s> <s>", "snow " * 30]
BATCHES = [[], [""], ["snow"], [*TEXTS, *BLANKS, *HARD_TEXTS]]
BEAM_SIZES = {"serving_default": 3, "greedy": 1}
PAIRS = [
    ("a man rides a bicycle", "two dogs"),
    ("snow", "A red bicycle! and the house"),
    ("", "one"),
    (" ", ""),
    ("눈 개", "\t🚲 </s>"),
]
PAIR_BATCHES = [[], PAIRS[:1], PAIRS]
PREFIXED = [
    ("a man rides a bicycle", "the "),
    ("snow", ""),
    ("two dogs", "the"),
    ("눈 속의 개", "a dog sees  "),
    ("snow", " "),
    ("a man", "\u3000\t"),
    ("snow", "the\nhouse\r\n"),
    ("A red bicycle!", "눈\u00a0"),
    ("a man", "雪 "),
    ("a", "snow and " * 9),  # more tokens than the 51 of a translation of its source
    ("", "the "),
    ("\u3000", "the"),
    ("snow " * 30, "café\t"),
]
PREFIXED_BATCHES = [[], PREFIXED[:1], PREFIXED[1:2], PREFIXED]
PREFIXES_REFUSED = [
    (["a", "b"], ["", "x" * 89], r"A prefix must have at most 88 tokens.*Received: 89\. Shorten"),
    (["a", "b"], ["a"], r"Each text needs a prefix\. Received: .* 2 and 1\. Give equally"),
]
REFUSED = [
    (["snow " * 50], ["a"], r"A source .* must have at most 40 tokens.*Received: \d+\. Shorten"),
    (["a"], ["snow " * 50], r"A target .* must have at most 89 tokens.*Received: \d+\. Shorten"),
    (["a", "b"], ["a"], r"Each source needs a target\. Received: .* 2 and 1\. Give equally"),
]
LOADERS = [
    "c_api",
    pytest.param("session", marks=pytest.mark.slow),
    pytest.param("tf.saved_model", marks=pytest.mark.slow),
]


def as_inputs(pairs, names=("source", "target")):
    return {name: [pair[place] for pair in pairs] for place, name in enumerate(names)}


def as_prefixed(pairs):
    return as_inputs(pairs, ("text", "prefix"))


@pytest.fixture(scope="module", params=LOADERS)
def answers(request, exported):
    """Returns each loader's answers, by signature."""
    requests = [
        *((name, {"text": batch}) for name in (*BEAM_SIZES, "n_best") for batch in BATCHES),
        *((name, as_inputs(batch)) for name in ("score", "attention") for batch in PAIR_BATCHES),
        *(
            (name, {"source": sources, "target": targets})
            for name in ("score", "attention")
            for sources, targets, _ in REFUSED
        ),
        *(("n_best_from_prefix", as_prefixed(batch)) for batch in PREFIXED_BATCHES),
        *(
            ("n_best_from_prefix", {"text": texts, "prefix": prefixes})
            for texts, prefixes, _ in PREFIXES_REFUSED
        ),
    ]
    found = {}
    for (name, _), answer in zip(
        requests, ask_in_a_fresh_process(request.param, exported, requests), strict=True
    ):
        kind = "refused" if isinstance(answer, str) else "answered"
        found.setdefault((name, kind), []).append(answer)
    return found


@pytest.mark.parametrize("signature", BEAM_SIZES)
def test_served_translations_and_scores_equal_the_live_translators(translator, answers, signature):
    for batch, answer in zip(BATCHES, answers[signature, "answered"], strict=True):
        live = translator.n_best(batch, 1, beam_size=BEAM_SIZES[signature])
        assert answer["translation"].tolist() == [text for ((text, _),) in live]
        np.testing.assert_allclose(answer["score"], [score for ((_, score),) in live], rtol=1e-4)


def test_served_n_best_lists_equal_the_live_translators(translator, answers):
    for batch, answer in zip(BATCHES, answers["n_best", "answered"], strict=True):
        assert answer["translations"].shape == answer["scores"].shape == (len(batch), 3)
        assert_n_best(answer, translator.n_best(batch, 3))


def test_served_n_best_lists_with_prefixes_equal_the_live_translators(translator, answers):
    for batch, answer in zip(
        PREFIXED_BATCHES, answers["n_best_from_prefix", "answered"], strict=True
    ):
        texts, prefixes = as_prefixed(batch).values()
        assert answer["translations"].shape == answer["scores"].shape == (len(batch), 3)
        assert_n_best(answer, translator.n_best(texts, 3, prefixes=prefixes))


def test_served_scores_of_pairs_equal_the_live_translators(translator, answers):
    for batch, answer in zip(PAIR_BATCHES, answers["score", "answered"], strict=True):
        live = translator.score(*as_inputs(batch).values())
        np.testing.assert_allclose(answer["log_probability"], [x for x, _ in live], rtol=1e-4)
        assert answer["num_tokens"].tolist() == [n for _, n in live]


def test_served_attention_equals_the_live_translators_with_padding(translator, answers):
    for batch, answer in zip(PAIR_BATCHES, answers["attention", "answered"], strict=True):
        for (source, target), sources, targets, weights in zip(
            batch,
            answer["source_tokens"],
            answer["target_tokens"],
            answer["weights"],
            strict=True,
        ):
            live = translator.attention(source, target)
            for tokens, expected in ((sources, live.source_tokens), (targets, live.target_tokens)):
                assert list(tokens) == expected + [""] * (len(tokens) - len(expected))
            expected = np.zeros((3, len(targets), len(sources)))
            expected[:, : len(live.target_tokens), : len(live.source_tokens)] = live.weights
            np.testing.assert_allclose(weights, expected, atol=1e-5)


@pytest.mark.parametrize("signature", ["score", "attention"])
def test_pairs_that_cannot_be_scored_are_refused_with_a_message(answers, signature):
    for (_, _, message), refusal in zip(REFUSED, answers[signature, "refused"], strict=True):
        assert re.search(message, refusal), refusal


def test_prefixes_that_are_too_long_or_too_few_are_refused_with_a_message(answers):
    refusals = answers["n_best_from_prefix", "refused"]
    for (_, _, message), refusal in zip(PREFIXES_REFUSED, refusals, strict=True):
        assert re.search(message, refusal), refusal


def test_only_core_ops_and_three_sentencepiece_ops_are_used(exported):
    assert_only_stock_operations(exported)


def test_signatures_have_the_documented_names_types_and_shapes(exported):
    from tensorflow.core.framework import types_pb2

    types = {types_pb2.DT_STRING: str, types_pb2.DT_FLOAT: float, types_pb2.DT_INT32: int}
    graph = meta_graph(exported)
    served = {k: v for k, v in graph.signature_def.items() if not k.startswith("__")}
    assert set(served) == set(SIGNATURES)
    for name, (inputs, outputs) in SIGNATURES.items():
        described = [
            {
                key: (types[info.dtype], [axis.size for axis in info.tensor_shape.dim])
                for key, info in side.items()
            }
            for side in (served[name].inputs, served[name].outputs)
        ]
        assert described == [dict.fromkeys(inputs, (str, [-1])), outputs]


# Without an export: the same functions, run as they are.


def test_source_ids_in_the_graph_equal_the_live_translators(translator):
    texts = [text for text in [*TEXTS, *HARD_TEXTS] if text]
    assert source_ids_in_graph(translator, texts).to_list() == translator._encode(texts)


def test_a_row_with_fewer_results_is_filled_up(random_model, tokenizer):
    short = Translator(random_model, tokenizer, beam_size=3, max_target_tokens=1)
    answer = _finds_n_best(short)(tf.constant(["a man", ""]))
    live = short.n_best(["a man", ""], 3)
    assert [len(row) for row in live] == [1, 1]  # only the end; a blank text has one result
    assert_n_best({key: value.numpy() for key, value in answer.items()}, live)
    assert pytest.approx(-1e9) == NO_RESULT
    assert np.isfinite(np.float32(NO_RESULT))


def test_n_best_texts_are_distinct_and_filled_up(speller):
    answer = _finds_n_best(speller)(tf.constant(["a man", "\u3000", "snow"]))
    texts, scores = (answer[key].numpy() for key in ("translations", "scores"))
    for row in (0, 2):
        assert texts[row].tolist() == [b"snow", b"a dog", b"", b"dog", b"", b""]
        expected = [*np.log([0.3, 0.25, 0.2, 0.1]), NO_RESULT, NO_RESULT]
        np.testing.assert_allclose(scores[row], expected, rtol=1e-5)
    assert texts[1].tolist() == [b""] * 6
    assert scores[1].tolist() == [0.0] + [NO_RESULT] * 5


def served_n_best(loader, serve, translator, folder, **inputs):
    """Returns the answer of an export with one signature, from a fresh process."""
    module = tf.Module()
    module.tokenizer = translator.tokenizer.graph_tokenizer
    specs = [tf.TensorSpec([None], tf.string, name=name) for name in inputs]
    serve = tf.function(serve(translator), specs).get_concrete_function()
    tf.saved_model.save(module, str(folder), {"n_best": serve})
    [answer] = ask_in_a_fresh_process(loader, folder, [("n_best", inputs)])
    return answer


@pytest.mark.parametrize("loader", LOADERS)
def test_served_n_best_texts_are_distinct(speller, tmp_path, loader):
    texts = ["a man", *BLANKS, "snow"]
    answer = served_n_best(loader, _finds_n_best, speller, tmp_path, text=texts)
    assert_n_best(answer, speller.n_best(texts, 6))
    assert [len(set(row)) for row in answer["translations"]] == [4, *[1] * len(BLANKS), 4]


@pytest.mark.parametrize("loader", LOADERS)
def test_served_translations_continue_a_prefix_with_or_without_a_space_by_script(tmp_path, loader):
    lines = ["我们去学校", "the house", "there"]
    tokenizer = SubwordTokenizer.train_from_lines(lines, 273)  # 13 characters and no more
    probabilities = {"我们去学校": 0.3, "我们 去学校": 0.2, "there": 0.4, "the house": 0.1}
    sentences = {tuple(tokenizer.encode(text)): p for text, p in probabilities.items()}
    model = Writer(tokenizer.vocabulary_size, sentences)
    writer = Translator(model, tokenizer, beam_size=3, length_penalty=0.0)
    best = {
        "我们": ("我们去学校", 0.3),
        "我们 ": ("我们 去学校", 0.3),  # the better of two spellings
        "我们\u3000": ("我们\u3000去学校", 0.3),
        "the": ("there", 0.4),
        "the  ": ("the  house", 0.1),
        " ": (" there", 0.4),
        "我们去学校 ": ("我们去学校 ", 0.3),
        "": ("there", 0.4),
    }
    inputs = {"text": ["x"] * len(best), "prefix": [*best]}
    answer = served_n_best(loader, _finds_n_best_from_prefix, writer, tmp_path, **inputs)
    assert answer["translations"][:, 0].tolist() == [text for text, _ in best.values()]
    expected = np.log([probability for _, probability in best.values()])
    np.testing.assert_allclose(answer["scores"][:, 0], expected, rtol=1e-5)
    for texts, scores in zip(answer["translations"], answer["scores"], strict=True):
        found = [text for text, score in zip(texts, scores, strict=True) if score > NO_RESULT]
        assert len(set(found)) == len(found)


def test_a_repeated_text_keeps_its_best_score():
    texts = [[b"a", b"b", b"a", b"b"], [b"", b"a", b"", b"\xff"], [b"a", b"a", b"a", b"a"]]
    scores = [[-1.0, -2.0, -3.0, -4.0], [-1.0, -2.0, -3.0, NO_RESULT], [-1.0, -1.0, -5.0, -6.0]]
    found, best = _best_of_each_text(tf.constant(texts), tf.constant(scores))
    assert found[:, :2].numpy().tolist() == [[b"a", b"b"], [b"", b"a"], [b"a", b"a"]]
    no = NO_RESULT
    assert best.numpy().tolist() == [[-1, -2, no, no], [-1, -2, no, no], [-1, no, no, no]]


def test_rows_are_searched_in_groups_of_similar_length_and_returned_in_order():
    groups = []

    def results_of(rows):
        groups.append(rows.numpy().tolist())
        return rows * 10, tf.stack([rows, rows], axis=1)

    none = tf.zeros([0], "int32"), tf.zeros([0, 2], "int32")
    lengths = tf.constant([3, 9, 1, 4, 30, 2])
    tens, twice = _in_groups(results_of, lengths, 10, *none)
    assert tens.numpy().tolist() == [0, 10, 20, 30, 40, 50]
    assert twice.numpy().tolist() == [[row, row] for row in range(6)]
    # 3 rows of up to 3 tokens are 9; a 4th of 4 would make 16. The longest fits nowhere.
    assert groups == [[2, 5, 0], [3], [1], [4]]


def test_a_large_batch_is_searched_in_groups(random_model, tokenizer, monkeypatch):
    translator = Translator(random_model, tokenizer, beam_size=2, batch_tokens=60)
    sizes = []

    def search(source_ids, beam_size, alpha, num_results):
        sizes.append(source_ids.shape[0] * source_ids.shape[1])
        rows = source_ids.shape[0]
        return Hypotheses(tf.fill([rows, beam_size, 1], 3), tf.zeros([rows, beam_size]))

    monkeypatch.setattr(translator, "search", search)
    _translates(translator, 2)(tf.constant([*TEXTS * 5, *BLANKS]))
    assert len(sizes) > 5
    assert max(sizes) <= 60


def test_attention_for_a_batch_that_is_too_large_is_refused(translator, monkeypatch):
    inputs = [tf.constant(texts) for texts in as_inputs(PAIRS).values()]
    shape = _attends(translator)(*inputs)["weights"].shape
    monkeypatch.setattr(keras_transformer.export.signatures, "MOST_WEIGHTS", np.prod(shape))
    _attends(translator)(*inputs)
    monkeypatch.setattr(keras_transformer.export.signatures, "MOST_WEIGHTS", np.prod(shape) - 1)
    message = rf"at most {np.prod(shape) - 1} weights.* Received: {np.prod(shape)}\. Send fewer"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        _attends(translator)(*inputs)


def test_both_signatures_with_beam_search_share_one_copy_in_the_file(exported):
    graph = meta_graph(exported)
    names = [function.signature.name for function in graph.graph_def.library.function]
    assert len([name for name in names if name.startswith("__inference_beam_search_")]) == 1


def test_targets_may_be_as_long_as_translations(random_model, tokenizer):
    translator = Translator(random_model, tokenizer, max_source_tokens=3, max_target_tokens=200)
    for num_words, is_refused in ((99, False), (100, True)):
        inputs = tf.constant(["a"]), tf.constant(["\t\x01" * num_words])  # 2 bytes, 2 tokens
        if is_refused:
            with pytest.raises(tf.errors.InvalidArgumentError, match="at most 200 tokens"):
                _scores(translator)(*inputs)
        else:
            assert _scores(translator)(*inputs)["num_tokens"].numpy() == [199]


# Odd text, through the loaded export.


@pytest.fixture(scope="module")
def loaded(exported):
    import tensorflow_text  # noqa: F401  registers the SentencePiece ops

    return tf.saved_model.load(exported)


def ask(loaded, signature, **inputs):
    inputs = {key: tf.constant(texts, tf.string, [len(texts)]) for key, texts in inputs.items()}
    return {key: value.numpy() for key, value in loaded.signatures[signature](**inputs).items()}


ODD = [
    b"",
    b"   ",
    b"\xff\xfe",
    b"\xe3\x80",
    "\u3000\0".encode(),
    "\u200b\u200c".encode(),
    b"a\xc3",
    b"\xed\xa0\x80",
    b"snow \xf0\x9f\x9a",
    b"a\x00b",
    b"<s></s><unk><pad>",
    "a▁man▁".encode(),
    "👩\u200d🚀👨\u200d👩\u200d👧".encode(),
    "שלום עולם مرحبا".encode(),
    "a snow Ελλάδα снег 눈 雪".encode(),
    b"\xef\xbb\xbfsnow\r\n",
]
odd_texts = st.one_of(
    st.sampled_from(ODD),
    st.binary(max_size=12),
    st.text(st.characters(codec="utf-8"), max_size=12).map(str.encode),
)
FEW_EXAMPLES = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@FEW_EXAMPLES
@given(texts=st.lists(odd_texts, max_size=4), signature=st.sampled_from(list(BEAM_SIZES)))
@example(texts=ODD, signature="serving_default")
@example(texts=ODD, signature="greedy")
def test_odd_text_is_translated_like_its_readable_part_in_any_batch(
    translator, loaded, texts, signature
):
    answer = ask(loaded, signature, text=texts)
    readable = [text.decode(errors="replace") for text in texts]
    for text, translation, score in zip(
        readable, answer["translation"], answer["score"], strict=True
    ):
        [[(expected, expected_score)]] = translator.n_best(
            [text], 1, beam_size=BEAM_SIZES[signature]
        )
        assert translation.decode() == expected
        assert score == pytest.approx(expected_score, rel=1e-4)


@FEW_EXAMPLES
@given(texts=st.lists(odd_texts, max_size=3))
@example(texts=ODD)
def test_odd_text_has_n_best_translations(translator, loaded, texts):
    readable = [text.decode(errors="replace") for text in texts]
    assert_n_best(ask(loaded, "n_best", text=texts), translator.n_best(readable, 3))


@FEW_EXAMPLES
@given(pairs=st.lists(st.tuples(odd_texts, odd_texts), max_size=3))
@example(pairs=[(text, text[::-1] + b" ") for text in ODD if len(text) < 30])
def test_odd_text_as_a_prefix_works_like_its_readable_part(translator, loaded, pairs):
    texts, prefixes = (
        [text.decode(errors="replace") for text in column] for column in as_prefixed(pairs).values()
    )
    answer = ask(loaded, "n_best_from_prefix", **as_prefixed(pairs))
    assert_n_best(answer, translator.n_best(texts, 3, prefixes=prefixes))


@FEW_EXAMPLES
@given(pairs=st.lists(st.tuples(odd_texts, odd_texts), max_size=3))
@example(pairs=[(text, text[::-1]) for text in ODD if len(text) < 30])
def test_odd_pairs_have_the_scores_and_attention_of_their_readable_part(translator, loaded, pairs):
    from keras_transformer.errors import InputError

    readable = [[text.decode(errors="replace") for text in pair] for pair in pairs]
    try:
        live = translator.score(*as_inputs(readable).values())
    except InputError:
        with pytest.raises(tf.errors.InvalidArgumentError, match="must have at most 40 tokens"):
            ask(loaded, "score", **as_inputs(pairs))
        return
    answer = ask(loaded, "score", **as_inputs(pairs))
    np.testing.assert_allclose(answer["log_probability"], [x for x, _ in live], rtol=1e-4)
    assert answer["num_tokens"].tolist() == [n for _, n in live]
    attention = ask(loaded, "attention", **as_inputs(pairs))
    for row, pair in enumerate(readable):
        expected = translator.attention(*pair)
        tokens = [token.decode() for token in attention["source_tokens"][row] if token]
        assert tokens == expected.source_tokens
        heads, target_length, source_length = expected.weights.shape
        weights = attention["weights"][row]
        np.testing.assert_allclose(
            weights[:, :target_length, :source_length], expected.weights, atol=1e-5
        )
        assert np.sum(weights) == pytest.approx(heads * target_length, rel=1e-5)


@pytest.mark.parametrize("signature", ["serving_default", "greedy", "n_best"])
def test_a_text_of_100_000_characters_is_cut_and_changes_no_other_row(loaded, signature):
    import time

    first = "snow and " * 20  # more than is read
    start = time.monotonic()
    answer = ask(loaded, signature, text=[first + "x" * 100_000, "snow", first])
    assert time.monotonic() - start < 60
    alone = ask(loaded, signature, text=["snow"])
    for key, values in answer.items():
        if values.dtype == object:
            np.testing.assert_array_equal(values[0], values[2])
            np.testing.assert_array_equal(values[1], alone[key][0])
        else:
            np.testing.assert_allclose(values[0], values[2], rtol=1e-4)
            np.testing.assert_allclose(values[1], alone[key][0], rtol=1e-4)


@pytest.mark.parametrize(
    "signature",
    [
        "score",
        "attention",
        "greedy",
        pytest.param("serving_default", marks=pytest.mark.slow),
        pytest.param("n_best", marks=pytest.mark.slow),
    ],
)
def test_a_batch_of_1_000_is_answered_in_order(loaded, signature):
    texts = [f"{TEXTS[row % len(TEXTS)]}{row % 13}" for row in range(1000)]
    some = [0, 1, 500, 999]
    names = SIGNATURES[signature][0]
    answer = ask(loaded, signature, **dict.fromkeys(names, texts))
    few = ask(loaded, signature, **{key: [texts[row] for row in some] for key in names})
    for key, values in answer.items():
        assert len(values) == 1000
        if key in ("translation", "translations"):
            np.testing.assert_array_equal(values[some], few[key])
        elif key in ("score", "scores", "log_probability", "num_tokens"):
            np.testing.assert_allclose(values[some], few[key], rtol=1e-4)
        elif key == "weights":
            longest = few[key].shape[2:]
            np.testing.assert_allclose(
                values[some][:, :, : longest[0], : longest[1]], few[key], atol=1e-5
            )
