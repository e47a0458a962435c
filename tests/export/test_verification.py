import shutil

import numpy as np
import pytest

from keras_transformer.errors import InputError
from keras_transformer.export import verification
from keras_transformer.export.verification import _LiveAnswers, verify_saved_model
from keras_transformer.search.hypotheses import length_penalty_of
from keras_transformer.translator import Translator
from tests.export.served import SIGNATURES
from tests.random_models import TEXTS

SOME_TEXTS = [*TEXTS, " ", "눈 🚲", "snow " * 30]


@pytest.mark.slow
def test_both_loaders_answer_like_the_live_translator(exported, served_translator):
    verify_saved_model(exported, served_translator, SOME_TEXTS)


@pytest.mark.slow
def test_an_export_with_different_answers_is_refused(exported, random_model, tokenizer):
    other = Translator(
        random_model, tokenizer, beam_size=3, length_penalty=0.9, max_source_tokens=40
    )
    message = (
        rf"{exported}: the signature serving_default must answer as the live translator does\."
        r" Received: \[\('.*', -\d.*\)\] for 'a man .*', where the live translator has \[.*\]\. Do"
    )
    with pytest.raises(InputError, match=message):
        verify_saved_model(exported, other, SOME_TEXTS)


def without_a_signature(exported, folder):
    from tensorflow.core.protobuf import saved_model_pb2

    shutil.copytree(exported, folder)
    saved_model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    del saved_model.meta_graphs[0].signature_def["attention"]
    (folder / "saved_model.pb").write_bytes(saved_model.SerializeToString())


@pytest.mark.slow
def test_a_missing_signature_is_named(exported, served_translator, tmp_path):
    without_a_signature(exported, tmp_path / "1")
    message = r"signatures serving_default, .* attention\. Received: greedy, n_best, n_best_from"
    with pytest.raises(InputError, match=message):
        verify_saved_model(tmp_path / "1", served_translator, ["snow"])


@pytest.mark.parametrize("damage", ["nothing", "no weights", "half a graph"])
def test_an_export_that_does_not_load_is_named(exported, served_translator, tmp_path, damage):
    version = tmp_path / "1"
    if damage != "nothing":
        shutil.copytree(exported, version)
    if damage == "no weights":
        shutil.rmtree(version / "variables")
    if damage == "half a graph":
        graph = (version / "saved_model.pb").read_bytes()
        (version / "saved_model.pb").write_bytes(graph[: len(graph) // 2])
    message = r"1: an export must load and answer .* Received: .+\. Export again"
    with pytest.raises(InputError, match=message):
        verify_saved_model(version, served_translator, ["snow"])


def test_verifying_needs_a_text(exported, served_translator):
    with pytest.raises(InputError, match="with some texts. Received: no texts. Give a few"):
        verify_saved_model(exported, served_translator, [])


@pytest.mark.slow
def test_an_export_that_only_python_can_load_is_refused(served_translator, tmp_path):
    import tensorflow as tf

    from keras_transformer.export.signatures import served_functions

    # An export that holds the model, not its variables, saves each under a second handle.
    module = tf.Module()
    module.model = served_translator.fast_model
    module.tokenizer = served_translator.tokenizer.graph_tokenizer
    signatures = served_functions(served_translator)
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=signatures)
    with verification._loaded_by_python(tmp_path / "1") as (_, ask):
        assert ask("greedy", text=["snow"])["translation"].shape == (1,)
    with pytest.raises(InputError, match=r"must load and answer in TensorFlow Serving"):
        verify_saved_model(tmp_path / "1", served_translator, ["snow"])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "int8", "int8_bfloat16"])
def test_an_export_in_another_precision_is_verified(wide_model, tokenizer, tmp_path, precision):
    from keras_transformer.export.saved_model import export_saved_model

    translator = Translator(wide_model, tokenizer, precision=precision)
    export_saved_model(translator, tmp_path, verify_texts=SOME_TEXTS)


# Made-up answers: which differences are refused.


@pytest.fixture(scope="module")
def live(random_model, tokenizer):
    # Short translations, since a random model's translations are odd and encode to more tokens.
    translator = Translator(
        random_model,
        tokenizer,
        beam_size=3,
        length_penalty=0.7,
        max_source_tokens=40,
        max_target_tokens=12,
    )
    return _LiveAnswers(translator, SOME_TEXTS, tolerance=1e-3)


def right_answers(live):
    """Returns the live translator's answers by signature, as arrays that a test may change."""
    answers = {}
    for name in ("n_best", "n_best_from_prefix"):
        n_best = live.results[name]
        texts, scores = np.full((len(n_best), 3), b"", object), np.full((len(n_best), 3), -1e9)
        for row, results in enumerate(n_best):
            for rank, (text, score) in enumerate(results):
                texts[row, rank], scores[row, rank] = text.encode(), score
        answers[name] = {"translations": texts, "scores": scores}
    for name in ("serving_default", "greedy"):
        best = [results[0] for results in live.results[name]]
        answers[name] = {
            "translation": np.array([text.encode() for text, _ in best], object),
            "score": np.array([score for _, score in best]),
        }
    found = live.translator.score(*zip(*live.pairs, strict=True))
    answers["score"] = {
        "log_probability": np.array([x for x, _ in found]),
        "num_tokens": np.array([n for _, n in found]),
    }
    attention = [live.translator.attention(*pair) for pair in live.pairs]
    shape = [max(len(one[side]) for one in attention) for side in (1, 0)]
    answers["attention"] = {
        "source_tokens": np.full((len(attention), shape[1]), b"", object),
        "target_tokens": np.full((len(attention), shape[0]), b"", object),
        "weights": np.zeros((len(attention), 3, *shape)),
    }
    for row, one in enumerate(attention):
        for key, tokens in zip(("source_tokens", "target_tokens"), one[:2], strict=True):
            answers["attention"][key][row, : len(tokens)] = [t.encode() for t in tokens]
        target_length, source_length = one.weights.shape[1:]
        answers["attention"]["weights"][row, :, :target_length, :source_length] = one.weights
    return answers


def differences(live, answers, signature):
    return list(live.differences(signature, lambda name, **_: answers[name]))


@pytest.mark.parametrize("signature", SIGNATURES)
def test_equal_answers_pass(live, signature):
    assert len(live.pairs) == len(SOME_TEXTS) - 1  # the truncated text cannot be scored
    assert live.signatures == [*SIGNATURES]
    assert differences(live, right_answers(live), signature) == []


CHANGES = [
    ("serving_default", "translation", (1,), b"another"),
    ("serving_default", "score", (1,), -1.0),
    ("greedy", "translation", (0,), b"another"),
    ("n_best", "translations", (1, 2), b"another"),
    ("n_best", "scores", (1, 2), -1e9),
    ("n_best", "scores", (5, 1), -3.0),  # the blank text, which has one result
    ("n_best_from_prefix", "translations", (1, 0), b"another"),
    ("n_best_from_prefix", "scores", (1, 1), -9.0),
    ("score", "log_probability", (2,), -1.0),
    ("score", "num_tokens", (2,), 1),
    ("attention", "source_tokens", (1, 0), b"another"),
    ("attention", "target_tokens", (1, 1), b""),
    ("attention", "weights", (1, 2, 1, 1), 0.5),
    ("attention", "weights", (2, 0, -1, -1), 0.5),  # after the pair, in its padding
]


@pytest.mark.parametrize(("signature", "output", "place", "value"), CHANGES)
def test_each_output_is_compared(live, signature, output, place, value):
    answers = right_answers(live)
    assert answers[signature][output][place] != value
    answers[signature][output][place] = value
    [(text, answer, expected)] = differences(live, answers, signature)
    assert answer != expected
    assert text in SOME_TEXTS or text in live.pairs


@pytest.mark.parametrize(("change", "is_near"), [(0.9e-3, True), (1.1e-3, False)])
def test_scores_may_differ_by_a_relative_tolerance(live, change, is_near):
    answers = right_answers(live)
    scores = answers["score"]["log_probability"]
    assert scores[1] < -10
    scores[1] *= 1 + change
    assert (not differences(live, answers, "score")) == is_near


def n_best_differs(live, monkeypatch, expected, found, row=1):
    """Whether an export's n-best list is refused, given the live translator's list."""
    answers = right_answers(live)
    monkeypatch.setitem(live.results, "n_best", [*live.results["n_best"]])
    live.results["n_best"][row] = expected
    texts, scores = zip(*found, *[("", -1e9)] * (3 - len(found)), strict=True)
    answers["n_best"]["translations"][row] = [text.encode() for text in texts]
    answers["n_best"]["scores"][row] = scores
    return bool(differences(live, answers, "n_best"))


ONE, OTHER, THIRD = ("one", -2.0), ("other", -2.001), ("third", -3.0)


@pytest.mark.parametrize(
    ("expected", "found", "is_refused"),
    [
        ([ONE, OTHER, THIRD], [OTHER, ONE, THIRD], False),  # equally good, in a different order
        ([ONE, THIRD], [THIRD, ONE], True),
        ([ONE, OTHER, THIRD], [ONE, ("one", -2.001), THIRD], True),  # a repeated text
        ([ONE, OTHER, THIRD], [ONE, OTHER], True),
        ([ONE, OTHER], [ONE], False),  # in the live list, too, a text has replaced another
        ([ONE, OTHER], [OTHER], False),
        ([ONE, OTHER], [ONE, OTHER, ("unheard of", -2.1)], True),
        ([ONE, OTHER], [], True),
    ],
)
def test_n_best_lists_may_differ_in_equally_good_results(
    live, monkeypatch, expected, found, is_refused
):
    assert n_best_differs(live, monkeypatch, expected, found) == is_refused


def test_an_additional_text_passes_with_its_own_score(live, monkeypatch):
    [(log_probability, num_tokens)] = live.translator.score([SOME_TEXTS[1]], ["snow"])
    more = "snow", log_probability / float(length_penalty_of(num_tokens, 0.7))
    assert not n_best_differs(live, monkeypatch, [ONE, OTHER], [ONE, OTHER, more])
    assert n_best_differs(live, monkeypatch, [ONE, OTHER], [ONE, OTHER, ("snow", more[1] - 1)])


def test_a_different_text_passes_only_with_its_own_score(live):
    row, other = 1, "snow"
    [(log_probability, num_tokens)] = live.translator.score([SOME_TEXTS[row]], [other])
    its_score = log_probability / float(length_penalty_of(num_tokens, 0.7))
    results = live.results["greedy"]
    there = results[row]
    try:
        # As if the live result were equally good: the export may have chosen this one.
        results[row] = [("something else", its_score * (1 + 0.5e-3))]
        answers = right_answers(live)
        answers["greedy"]["translation"][row] = other.encode()
        assert differences(live, answers, "greedy") == []
        # A text does not pass with another text's score.
        answers["greedy"]["translation"][row] = b"the house"
        assert len(differences(live, answers, "greedy")) == 1
    finally:
        results[row] = there
