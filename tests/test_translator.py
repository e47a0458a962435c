import contextlib
import copy
import itertools
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.compiled_functions import CompiledFunctions
from keras_transformer.decoding.precision import PRECISIONS, inference_model
from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.errors import InputError
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.losses import LabelSmoothedCrossentropy
from keras_transformer.search.scoring import score
from keras_transformer.search.state import DecodingState
from keras_transformer.text.blank import BLANK_CHARACTERS
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from keras_transformer.translator import Translator
from tests.random_models import (
    TEXTS,
    numbers,
    random_ids,
    random_transformer,
    settings_of,
    small_config,
)
from tests.writer import Writer

HARD_TEXTS = ["two  spaces", " and around ", "tab\tand café", "눈 속의 개", "🚲", "</s> <s>"]


class Parrot:
    """A fake model that translates each source to itself."""

    def __init__(self, vocabulary_size):
        self.output_shape = (None, None, vocabulary_size)


class Chatterbox(Parrot):
    """Repeats the first token, and never ends a sentence."""


def _copying_steps(model, position_of):
    def encode(source_ids):
        return ops.convert_to_tensor(source_ids)

    def initial_state(encoded, num_beams=1, *, max_length):
        return DecodingState(ops.convert_to_tensor(0, dtype="int32"), (), encoded)

    def step(token_ids, state):
        ids = ops.take(state.per_sentence, position_of(state), axis=1)  # (batch,)
        logits = 30 * ops.one_hot(ids, model.output_shape[-1])[:, None, :]
        _, beams = ops.shape(token_ids)
        logits = ops.repeat(logits, beams, axis=1)  # (batch, beams, vocabulary)
        return logits, state._replace(position=state.position + 1)

    return encode, initial_state, step


@decoding_steps.register(Parrot)
def _(model):
    def last_of(state):
        return ops.minimum(state.position, ops.shape(state.per_sentence)[1] - 1)

    return _copying_steps(model, last_of)


@decoding_steps.register(Chatterbox)
def _(model):
    return _copying_steps(model, lambda state: 0)


@pytest.fixture(scope="module")
def parrot(tokenizer):
    return Translator(Parrot(tokenizer.vocabulary_size), tokenizer)


@pytest.fixture(scope="module")
def translator(random_model, tokenizer):
    return Translator(random_model, tokenizer, beam_size=3)


# Texts in, texts out


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_copying_model_returns_every_text_in_order(parrot, beam_size):
    texts = [*TEXTS, *HARD_TEXTS]
    assert parrot.translate(texts, beam_size=beam_size) == texts


def test_texts_of_any_length_are_translated_as_if_they_were_alone(translator):
    together = translator(TEXTS)
    assert together == [translator([text])[0] for text in TEXTS]
    assert len(set(together)) > 3


def test_the_size_of_batches_changes_nothing(random_model, tokenizer, translator):
    small = Translator(random_model, tokenizer, beam_size=3, batch_tokens=17)
    for (few,), (many,) in zip(small.n_best(TEXTS, 1), translator.n_best(TEXTS, 1), strict=True):
        assert few[0] == many[0]
        assert few[1] == pytest.approx(many[1], rel=1e-4)


def test_an_empty_list_gives_an_empty_list(translator):
    assert translator([]) == []
    assert translator.n_best([], 2) == []


def test_blank_texts_translate_to_the_empty_text(translator):
    blanks = ["", *BLANK_CHARACTERS, BLANK_CHARACTERS]
    assert translator([*blanks, "snow"]) == [""] * len(blanks) + translator(["snow"])
    assert list(translator.stream(blanks)) == [""] * len(blanks)
    assert translator.n_best(blanks, 2) == [[("", 0.0)]] * len(blanks)
    assert translator.sample(blanks, 2) == [[("", 0.0)]] * len(blanks)


def test_a_text_that_is_not_blank_is_translated(parrot):
    texts = ["\0", "\u3000\0", "\u200c", " a\u3000"]
    assert parrot(texts) == texts


def test_texts_may_come_from_a_tuple_or_an_iterator(parrot):
    assert parrot(("snow", "dog")) == ["snow", "dog"]
    assert parrot(text for text in ("snow", "dog")) == ["snow", "dog"]


@pytest.mark.parametrize("texts", ["snow", ["snow", 3], [b"snow"], [None], None, 5])
def test_anything_but_a_list_of_strings_is_refused(translator, texts):
    message = r"texts must be a list of strings\. Received: texts=.*\. Put a single text into"
    with pytest.raises(ValueError, match=message):
        translator(texts)


# Lengths


def test_long_texts_are_cut_and_counted(parrot, tokenizer, caplog):
    short = Translator(parrot.model, tokenizer, max_source_tokens=6)
    texts = [TEXTS[1], "snow", TEXTS[3]]
    with caplog.at_level(logging.WARNING, logger="keras_transformer"):
        translations = short(texts)
    assert "2 of 3 texts are longer than max_source_tokens=6" in caplog.text
    first, third = (tokenizer.decode(tokenizer.encode(texts[row])[:5]) for row in (0, 2))
    assert translations == [first, "snow", third]


def test_texts_that_fit_give_no_warning(parrot, tokenizer, caplog):
    length = len(tokenizer.encode(TEXTS[0])) + 1  # and the end
    exact = Translator(parrot.model, tokenizer, max_source_tokens=length)
    assert exact([TEXTS[0]]) == [TEXTS[0]]
    assert not caplog.records


@pytest.fixture(scope="module")
def of_70_positions(tokenizer):
    """A model whose config allows 15 source tokens, though its positions would allow 20."""
    config = small_config(
        vocabulary_size=tokenizer.vocabulary_size,
        position_encoding="learned",
        max_positions=70,
        max_source_tokens=15,
    )
    return random_transformer(config)


def test_the_config_sets_the_longest_source(of_70_positions, tokenizer, tmp_path, caplog):
    of_70_positions.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    for model in (of_70_positions, loaded, inference_model(loaded, "bfloat16")):
        translator = Translator(model, tokenizer, beam_size=1)
        assert (translator.max_source_tokens, translator.most_target_tokens) == (15, 64)
    assert len(translator([" ".join(["snow"] * 60)])) == 1
    assert "1 of 1 texts are longer than max_source_tokens=15" in caplog.text


def test_without_a_config_sources_leave_room_in_learned_positions_for_targets(tokenizer):
    model = Parrot(tokenizer.vocabulary_size)
    assert Translator(model, tokenizer).max_source_tokens == 256
    model.embedding = PositionalEmbedding(
        tokenizer.vocabulary_size, 12, position_encoding="learned", max_positions=70
    )
    assert Translator(model, tokenizer).max_source_tokens == 20


@pytest.mark.parametrize(
    ("most", "is_refused"),
    [
        ({"max_source_tokens": 20}, False),
        ({"max_source_tokens": 21}, True),
        ({"max_source_tokens": 70, "max_target_tokens": 70}, False),
        ({"max_source_tokens": 71, "max_target_tokens": 70}, True),
        ({"max_source_tokens": 20, "max_target_tokens": 71}, True),
    ],
)
def test_learned_positions_limit_sources_and_translations(
    of_70_positions, tokenizer, most, is_refused
):
    if is_refused:
        message = r"must be at most the model's 70 learned positions\. Received: .*\. Choose small"
        with pytest.raises(ValueError, match=message):
            Translator(of_70_positions, tokenizer, **most)
    else:
        assert Translator(of_70_positions, tokenizer, **most).most_target_tokens <= 70


def test_a_prefix_fits_within_learned_positions(of_70_positions, tokenizer):
    translator = Translator(of_70_positions, tokenizer, beam_size=1)
    longest, too_long = "\x01" * 69, "\x01" * 70  # a token for each byte
    for prefix in (longest, longest + " "):
        [found] = translator.translate(["snow"], prefixes=[prefix])
        assert found.startswith(prefix)
    with pytest.raises(
        InputError, match=r"the model's 70 learned positions\. Received: 70\. Short"
    ):
        translator.translate(["snow"], prefixes=[too_long])


@pytest.mark.parametrize("beam_size", [1, 2])
def test_a_translation_is_at_most_50_tokens_longer_than_its_source(tokenizer, beam_size):
    endless = Translator(Chatterbox(tokenizer.vocabulary_size), tokenizer)
    source = np.array([[9, 8, 7, 3, 0, 0], [5, 4, 9, 8, 7, 3]], "int32")
    found = endless.search(source, beam_size, 0.6)
    lengths = np.count_nonzero(numbers(found.token_ids)[:, 0], axis=1)
    np.testing.assert_array_equal(lengths, [3 + 50, 5 + 50])  # the end included


# Several translations and their scores


def test_n_best_are_sorted_and_begin_with_the_translation(translator):
    texts = [text for text in TEXTS if text]
    results = translator.n_best(texts, 3)
    assert [pairs[0][0] for pairs in results] == translator(texts)
    for pairs in results:
        scores = [score for _, score in pairs]
        assert scores == sorted(scores, reverse=True)
        assert len({text for text, _ in pairs}) == len(pairs)
        assert all(score < 0 for score in scores)


def test_n_best_texts_are_distinct_and_have_their_best_spellings_score(speller):
    expected = [("snow", 0.3), ("a dog", 0.25), ("", 0.2), ("dog", 0.1)]
    for n in range(1, 7):
        [found] = speller.n_best(["a man"], n)
        assert [text for text, _ in found] == [text for text, _ in expected[:n]]
        assert [np.exp(score) for _, score in found] == pytest.approx(
            [probability for _, probability in expected[:n]]
        )


def test_fewer_beams_find_fewer_texts(speller):
    [found] = speller.n_best(["a man"], 2, beam_size=2)
    assert [text for text, _ in found] == ["snow", "a dog"]
    [found] = speller.n_best(["a man"], 4, beam_size=4)
    assert [text for text, _ in found] == ["snow", "a dog", ""]  # and "snow" once more


def test_samples_of_a_text_may_be_equal(speller):
    [found] = speller.sample(["a man"], 30)
    assert len({text for text, _ in found}) < 30 == len(found)


@pytest.mark.parametrize("n", [0, 4])
def test_more_results_than_beams_are_refused_before_anything_is_translated(translator, n):
    with pytest.raises(ValueError, match=rf"Received: beam_size=3, num_results={n}\. Choose"):
        translator.n_best([], n)


def test_the_search_can_be_changed_for_one_call(random_model, tokenizer, translator):
    greedy = Translator(random_model, tokenizer, beam_size=1, length_penalty=0.9)
    changed = translator.n_best(TEXTS, 1, beam_size=1, length_penalty=0.9)
    assert changed == greedy.n_best(TEXTS, 1)
    assert changed != translator.n_best(TEXTS, 1)


# Prefixes


def test_a_translation_begins_with_its_prefix(translator, tokenizer):
    prefixes = ["the house", "", "a dog sees two men in the snow"]
    for beam_size in (1, 3):
        found = translator.translate(
            ["a man", "snow", "dogs"], beam_size=beam_size, prefixes=prefixes
        )
        for translation, prefix in zip(found, prefixes, strict=True):
            assert translation.startswith(prefix)
        assert found[1] == translator.translate(["snow"], beam_size=beam_size)[0]


@pytest.fixture(scope="module")
def writer(tokenizer):
    """Prefers "there" to "the house"."""
    house, there = (tuple(tokenizer.encode(text)) for text in ("the house and a dog", "the"))
    sentences = {(*there, *tokenizer.encode("re")): 0.75, house: 0.25}
    return Translator(
        Writer(tokenizer.vocabulary_size, sentences), tokenizer, beam_size=3, length_penalty=0.0
    )


SPACED = ["the ", "the  ", "the\t", "the\u3000", "the\u00a0 ", "the house ", "the house and a "]


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_prefix_that_ends_in_white_space_is_followed_by_the_next_word(writer, beam_size):
    texts = ["snow"] * len(SPACED)
    found = writer.translate(texts, beam_size=beam_size, prefixes=SPACED)
    rests = ["house and a dog"] * 5 + ["and a dog", "dog"]
    assert found == [prefix + rest for prefix, rest in zip(SPACED, rests, strict=True)]
    assert writer.translate(["snow"], beam_size=beam_size, prefixes=["the"]) == ["there"]


def test_texts_of_one_batch_may_have_different_kinds_of_prefixes(writer):
    prefixes = ["the ", "the", "", "the house"]
    found = writer.translate(["snow", "a dog", "A red bicycle!", "two"], prefixes=prefixes)
    assert found == ["the house and a dog", "there", "there", "the house and a dog"]


def test_the_next_word_keeps_its_probability_over_the_whole_vocabulary(writer):
    [[best, *_]] = writer.n_best(["snow"], 3, prefixes=["the "])
    assert best == ("the house and a dog", pytest.approx(np.log(0.25)))
    [draws] = writer.sample(["snow"], 5, prefixes=["the "])
    assert draws == [("the house and a dog", pytest.approx(np.log(0.25)))] * 5


@pytest.mark.parametrize("space", [" ", "\t", "\u3000"])
def test_a_complete_translation_and_a_space_may_be_a_prefix(writer, space):
    whole = f"the house and a dog{space}"
    assert writer.translate(["snow"], prefixes=[whole]) == [whole]


def test_a_prefix_of_white_space_comes_before_the_translation(writer):
    prefixes = [" ", "  ", "\u3000"]
    found = writer.translate(["snow"] * 3, prefixes=prefixes)
    assert found == [prefix + "there" for prefix in prefixes]


def test_line_breaks_in_a_prefix_become_spaces(writer):
    found = writer.translate(["snow"] * 2, prefixes=["the\n", "the\r\nhouse\n"])
    assert found == ["the house and a dog"] * 2


def test_all_results_of_any_model_begin_with_their_prefix(translator):
    prefixes = ["the ", "a dog sees ", " and ", "café\t"]
    results = translator.n_best(["snow"] * 4, 3, prefixes=prefixes)
    draws = translator.sample(["snow"] * 4, 3, prefixes=prefixes)
    for prefix, *found in zip(prefixes, results, draws, strict=True):
        for text, _ in itertools.chain(*found):
            assert text.startswith(prefix)


def test_scripts_without_spaces_may_continue_a_word_after_a_space():
    tokenizer = SubwordTokenizer.train_from_lines(["我们去学校", "GPS 我们"], 275)
    sentence = tuple(tokenizer.encode("我们去学校"))
    model = Writer(tokenizer.vocabulary_size, {sentence: 1.0})
    writer = Translator(model, tokenizer, beam_size=2)
    prefixes = ["我们 ", "我们\u3000", "我们", "我们去学校 "]
    found = writer.translate(["x"] * 4, prefixes=prefixes)
    assert found == ["我们 去学校", "我们\u3000去学校", "我们去学校", "我们去学校 "]


def test_each_text_needs_its_prefix(translator):
    with pytest.raises(ValueError, match=r"Received: 1 prefixes, 2 texts\. Give '' for"):
        translator.translate(["a man", "snow"], prefixes=["the"])


# Scores of given translations


def test_a_score_is_the_sum_over_the_tokens_and_the_end(random_model, translator, tokenizer):
    sources, targets = ["a man", "two dogs run through the snow"], ["the snow", "a house"]
    for source, target, found in zip(
        sources, targets, translator.score(sources, targets), strict=True
    ):
        source_ids = np.array([[*tokenizer.encode(source), 3]])
        target_ids = np.array([*tokenizer.encode(target), 3])
        begun = np.array([[2, *target_ids[:-1]]])
        [logits] = numbers(random_model({"source_ids": source_ids, "target_ids": begun}))
        of_tokens = logits[np.arange(len(target_ids)), target_ids]
        expected = np.sum(of_tokens - np.log(np.exp(logits).sum(axis=-1)))
        assert found == (pytest.approx(expected, rel=1e-4), len(target_ids))


def test_pairs_that_are_not_read_in_full_cannot_be_scored(random_model, tokenizer, translator):
    assert translator.score([], []) == []
    with pytest.raises(ValueError, match=r"Received: 2 sources, 1 targets\. Give one"):
        translator.score(["a", "b"], ["c"])
    short = Translator(random_model, tokenizer, max_source_tokens=6)
    with pytest.raises(InputError, match=r"at most 6 tokens.* Received: \d+\. Shorten it, or"):
        short.score([TEXTS[1]], ["snow"])


def test_targets_as_long_as_translations_have_scores_and_attention(random_model, tokenizer):
    short = Translator(random_model, tokenizer, max_source_tokens=3)  # translations of 3 - 1 + 50
    longest, too_long = "\x01" * 51, "\x01" * 52  # a token for each byte, and the end
    [(_, num_tokens)] = short.score(["a"], [longest])
    assert num_tokens == 52
    assert short.attention("a", longest).weights.shape[1] == 52
    for ask in (short.attention, short.attention_by_layer, lambda a, b: short.score([a], [b])):
        with pytest.raises(
            InputError, match=r"A target .* at most 52 tokens.* Received: 53\. Short"
        ):
            ask("a", too_long)


# Samples


def test_a_text_has_the_same_samples_in_any_batch(translator):
    samples = translator.sample(TEXTS, 2, seed=3)
    assert samples == translator.sample(TEXTS, 2, seed=3)
    assert samples != translator.sample(TEXTS, 2, seed=4)
    later = translator.sample(TEXTS[2:], 2, seed=3, first_place=2)
    assert [[text for text, _ in pairs] for pairs in later] == [
        [text for text, _ in pairs] for pairs in samples[2:]
    ]
    assert samples[TEXTS.index("")] == [("", 0.0)]


def test_near_temperature_0_a_sample_is_the_greedy_translation(translator):
    samples = translator.sample(TEXTS, 1, temperature=1e-4, seed=1)
    assert [pairs[0][0] for pairs in samples] == translator.translate(TEXTS, beam_size=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1. Received: n=0"),
        ({"temperature": 0.0}, "temperature must be more than 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 1.5}, "top_p must be more than 0 and at most 1"),
    ],
)
def test_sampling_options_out_of_range_are_refused(translator, options, message):
    with pytest.raises(ValueError, match=message):
        translator.sample(["snow"], **options)


# Any number of texts


def test_translating_a_stream_holds_few_texts_at_a_time(parrot):
    read = []

    def texts():
        for number in range(10):
            read.append(number)
            yield f"dog {number}"

    translations = parrot.stream(texts(), texts_at_once=3)
    assert next(translations) == "dog 0"
    assert len(read) == 3
    assert list(translations) == [f"dog {number}" for number in range(1, 10)]


# Compiled once


class Noted(Parrot):
    """Counts how often a search over it is compiled, and knows what for."""

    def __init__(self, vocabulary_size):
        super().__init__(vocabulary_size)
        self.compiled_for = []


@decoding_steps.register(Noted)
def _(model):
    encode, initial_state, step = decoding_steps.dispatch(Parrot)(model)

    def noted_state(encoded, num_beams=1, *, max_length):
        model.compiled_for.append(num_beams)
        return initial_state(encoded, num_beams, max_length=max_length)

    return encode, noted_state, step


@pytest.fixture
def noted(tokenizer):
    return Translator(Noted(tokenizer.vocabulary_size), tokenizer)


def test_a_search_is_not_recompiled_for_other_numbers(noted):
    for number in range(1, 11):
        assert noted.translate(["snow"], length_penalty=number / 10) == ["snow"]
        noted.sample(["snow"], temperature=number / 10)
        noted.sample(["snow"], temperature=number / 10, top_p=number / 11)
    assert noted.model.compiled_for == [4, 1, 1]  # with a top_p the vocabulary is sorted


def test_only_the_latest_compiled_searches_are_kept(noted):
    for beam_size in [*range(1, 13), 12, 11, 1]:
        noted.translate(["snow"], beam_size=beam_size)
    assert noted.model.compiled_for == [*range(1, 13), 1]


def test_threads_share_one_compiled_search(noted, monkeypatch):
    both, compilations, compile_search = threading.Barrier(2), [], CompiledFunctions._compile

    def compile_at_once(*arguments):
        compilations.append(arguments)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # gives the other thread time to compile, which it must not
        return compile_search(*arguments)

    monkeypatch.setattr(CompiledFunctions, "_compile", compile_at_once)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(noted.translate, [["snow"], ["dog"]])) == [["snow"], ["dog"]]
    assert len(compilations) == 1


def test_a_search_uses_the_numbers_it_was_given(translator):
    def greedy(alpha):
        return translator.n_best(["a red house"], 1, beam_size=1, length_penalty=alpha)[0][0]

    (text, score), (_, once), (same, twice) = greedy(0.0), greedy(1.0), greedy(2.0)
    assert same == text
    assert score / once > 1  # lp(Y) for alpha 1; for alpha 2 it is the square
    assert score / twice == pytest.approx((score / once) ** 2, rel=1e-4)
    # Leaves only the most probable token, as in greedy search.
    assert translator.sample(["a red house"], top_p=1e-6)[0][0][0] == text
    assert translator.sample(["a red house"], temperature=1e-6)[0][0][0] == text
    others = translator.sample(["a red house"], 5, temperature=1.5, top_p=0.99)
    assert any(other != text for other, _ in others[0])


def test_numbers_out_of_range_are_refused_even_if_a_search_is_compiled(translator):
    translator.translate(["snow"], length_penalty=0.5)
    translator.sample(["snow"], temperature=0.5, top_p=0.5)
    with pytest.raises(ValueError, match="length_penalty must be 0 or more"):
        translator.translate(["snow"], length_penalty=-0.5)
    with pytest.raises(ValueError, match="temperature must be more than 0"):
        translator.sample(["snow"], temperature=0.0, top_p=0.5)
    with pytest.raises(ValueError, match="top_p must be more than 0 and at most 1"):
        translator.sample(["snow"], temperature=0.5, top_p=1.5)


# Precision


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_translator_with_a_precision_uses_a_copy_of_the_model(random_model, tokenizer, precision):
    translator = Translator(random_model, tokenizer, beam_size=3, precision=precision)
    assert translator.model is random_model
    assert translator.fast_model is not random_model
    assert len(translator.n_best(TEXTS, 3)) == len(TEXTS)
    if precision == "float32":
        assert translator(TEXTS) == Translator(random_model, tokenizer, beam_size=3)(TEXTS)


@pytest.mark.parametrize(
    "precision",
    ["float32", *(pytest.param(other, marks=pytest.mark.slow) for other in PRECISIONS[1:])],
)
def test_the_model_of_a_loaded_run_can_be_saved_copied_and_trained(run, precision, tmp_path):
    model = Translator.load(run, precision=precision).model
    inputs = {"source_ids": random_ids(2, 5), "target_ids": random_ids(2, 7)}
    expected = numbers(model(inputs))
    model.save(tmp_path / "again.keras")
    model.save_weights(tmp_path / "again.weights.h5")
    again = keras.saving.load_model(tmp_path / "again.keras")
    same_shape = keras.models.clone_model(model)
    same_shape.load_weights(tmp_path / "again.weights.h5")
    for other in (again, same_shape, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(numbers(other(inputs)), expected)
    model.compile("adam", LabelSmoothedCrossentropy())
    model.fit(inputs, inputs["target_ids"], verbose=0)
    assert not np.allclose(numbers(model(inputs)), expected)


def test_an_unknown_precision_is_refused(random_model, tokenizer):
    with pytest.raises(ValueError, match=r"precision must be one of .* Received: precision='int4'"):
        Translator(random_model, tokenizer, precision="int4")


# Attention


def test_attention_rows_sum_to_1_and_name_their_tokens(translator, tokenizer):
    source_tokens, target_tokens, weights = translator.attention("a man", "the house")
    assert source_tokens == [*tokenizer.pieces(tokenizer.encode("a man")), "</s>"]
    assert target_tokens == [*tokenizer.pieces(tokenizer.encode("the house")), "</s>"]
    assert weights.shape == (3, len(target_tokens), len(source_tokens))
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_an_attention_row_belongs_to_the_prediction_of_its_token(translator):
    one = translator.attention("a man", "the house!")
    other = translator.attention("a man", "the house?")
    same = next(
        row
        for row, pair in enumerate(zip(one.target_tokens, other.target_tokens, strict=True))
        if pair[0] != pair[1]
    )
    # The row of the first different token was computed before that token was known.
    np.testing.assert_allclose(one.weights[:, : same + 1], other.weights[:, : same + 1], atol=1e-6)
    assert not np.allclose(one.weights[:, same + 1], other.weights[:, same + 1])


def test_attention_by_layer_names_the_tokens_read_and_written(translator):
    last = translator.attention("a man", "the house")
    layers = translator.attention_by_layer("a man", "the house")
    assert layers.source_tokens == last.source_tokens
    assert layers.target_tokens == last.target_tokens
    assert layers.read_tokens == ["<s>", *last.target_tokens[:-1]]
    source, target = len(last.source_tokens), len(last.target_tokens)
    assert layers.encoder.shape == (2, 3, source, source)
    assert layers.decoder.shape == (2, 3, target, target)
    np.testing.assert_allclose(layers.cross[-1], last.weights, atol=1e-6)
    assert not np.allclose(layers.cross[0], last.weights)


def test_attention_refuses_pairs_that_are_not_read_in_full(random_model, tokenizer):
    short = Translator(random_model, tokenizer, max_source_tokens=6)
    with pytest.raises(InputError, match=r"at most 6 tokens.* Received: \d+\. Shorten it, or"):
        short.attention(TEXTS[1], "snow")
    with pytest.raises(ValueError, match="list of strings"):
        short.attention(None, "snow")


# Options


def test_translations_obey_the_shortest_and_longest_length(tokenizer, random_model):
    source = np.array([[9, 8, 7, 3], [5, 3, 0, 0]], "int32")
    exact = Translator(random_model, tokenizer, min_target_tokens=6, max_target_tokens=6)
    for beam_size in (1, 3):
        found = numbers(exact.search(source, beam_size, 0.6).token_ids)
        assert found.shape[2] == 6
        assert np.all(found[:, 0, :5] > 3)
        assert np.all(found[:, 0, 5] == 3)


def test_a_length_normalization_is_used(random_model, tokenizer):
    means = Translator(
        random_model, tokenizer, length_penalty=1.0, length_normalization="length", beam_size=3
    )
    source = np.array([[9, 8, 7, 3]], "int32")
    found = means.search(source, 3, 1.0)
    target = numbers(found.token_ids)[:, 0]
    log_probability, num_tokens = score(random_model, source, target, start_id=2)
    mean = numbers(log_probability)[0] / numbers(num_tokens)[0]
    assert numbers(found.scores)[0, 0] == pytest.approx(mean, rel=1e-4)
    with pytest.raises(ValueError, match=r"Received: length_normalization='mean'\. Choose 'gnmt'"):
        Translator(random_model, tokenizer, length_normalization="mean")


@pytest.mark.parametrize(
    "name",
    ["beam_size", "max_source_tokens", "max_target_tokens", "min_target_tokens", "batch_tokens"],
)
def test_sizes_start_at_one(random_model, tokenizer, name):
    with pytest.raises(ValueError, match=rf"{name} must be at least 1\. Received: {name}=0\."):
        Translator(random_model, tokenizer, **{name: 0})


def test_a_model_with_a_different_vocabulary_is_refused(tokenizer):
    message = r"a model of 23 sub-words, a tokenizer of 300, on the source side"
    with pytest.raises(ValueError, match=message):
        Translator(Parrot(23), tokenizer)


def test_model_of_an_unknown_class_is_refused(tokenizer):
    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(tokenizer.vocabulary_size)])
    with pytest.raises(TypeError, match="registered class"):
        Translator(model, tokenizer)


# Run folders


@pytest.fixture
def run(random_model, tokenizer, tmp_path):
    """Writes the files of a run folder that Translator.load reads."""
    random_model.save(tmp_path / "model.keras")
    tokenizer.save(tmp_path / "tokenizer.model")
    settings = settings_of(
        random_model, beam_size=1, length_penalty=0.8, max_source_tokens=9, seed=5
    )
    (tmp_path / "config.yaml").write_text(settings)
    return tmp_path


def test_a_run_is_loaded_with_its_settings(run, random_model, tokenizer):
    loaded = Translator.load(run)
    assert (loaded.beam_size, loaded.length_penalty, loaded.max_source_tokens) == (1, 0.8, 9)
    settings = {"beam_size": 1, "length_penalty": 0.8, "max_source_tokens": 9}
    assert loaded(TEXTS) == Translator(random_model, tokenizer, **settings)(TEXTS)


def test_a_run_can_be_loaded_with_a_different_search(run):
    loaded = Translator.load(str(run), beam_size=2, length_penalty=0.0)
    assert (loaded.beam_size, loaded.length_penalty) == (2, 0.0)


WRONG_SETTINGS = [
    None,
    "[1, 2",
    "beam_size: 3\n",
    "text",
    b"\xff",
    "beam_size: many\nlength_penalty: 0.8\nmax_source_tokens: 9\n",
    "beam_size: true\nlength_penalty: 0.8\nmax_source_tokens: 9\n",
    "beam_size: 2\nlength_penalty: [0.8]\nmax_source_tokens: 9\n",
    "beam_size: 2\nlength_penalty: 0.8\nmax_source_tokens: 9.5\n",
]


@pytest.mark.parametrize("content", WRONG_SETTINGS)
def test_files_without_valid_settings_are_refused(run, content):
    path = run / "config.yaml"
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"config\.yaml: must hold the settings .*\. Check"):
        Translator.load(run)


def test_settings_out_of_range_name_the_run(run):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("beam_size: 1", "beam_size: 0"))
    with pytest.raises(InputError, match=rf"{run}: beam_size must be at least 1"):
        Translator.load(run)


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_length_penalty_out_of_range_is_refused(random_model, tokenizer, alpha):
    with pytest.raises(ValueError, match="length_penalty must be 0 or more, and finite"):
        Translator(random_model, tokenizer, length_penalty=alpha)


@pytest.mark.parametrize("file", ["model.keras", "tokenizer.model"])
@pytest.mark.parametrize("cut", [False, True], ids=["missing", "cut"])
def test_a_missing_or_truncated_file_is_named(run, file, cut):
    path = run / file
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    if cut:
        path.write_bytes(half)
    with pytest.raises(InputError, match=rf"{file}.* must be .*Received: .*\. \w+"):
        Translator.load(run)


def test_pre_norm_and_learned_positions_translate_too(tokenizer):
    config = small_config(
        vocabulary_size=tokenizer.vocabulary_size,
        normalize_first=True,
        position_encoding="learned",
        max_positions=120,
        max_source_tokens=70,
    )
    translator = Translator(random_transformer(config), tokenizer, beam_size=1)
    assert translator(TEXTS) == [translator([text])[0] for text in TEXTS]
