"""Properties of the searches that hold for every model, batch and setting.

Models and batches are random; `hypothesis` chooses the same ones in each run.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from keras_transformer.decoding.precision import PRECISIONS, inference_model
from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.search.beam import beam_search
from keras_transformer.search.greedy import greedy_search
from keras_transformer.search.hypotheses import IMPOSSIBLE, length_penalty_of
from keras_transformer.search.sampling import noise_of, sample
from keras_transformer.search.scoring import score
from keras_transformer.search.state import keep_sentences, reorder_beams
from tests.random_models import (
    END,
    ON_TENSORFLOW,
    PADDING,
    START,
    numbers,
    random_transformer,
    small_config,
)

# JAX spends seconds compiling each search of each model.
pytestmark = pytest.mark.skipif(not ON_TENSORFLOW, reason="says the same on each backend")

MODELS = {
    "post": {"num_layers": 1},
    "pre": {"normalize_first": True, "num_layers": 1},
    "one head": {"num_heads": 1, "head_dim": 6, "value_dim": None, "num_layers": 1},
    "learned": {  # of two layers
        "position_encoding": "learned",
        "max_positions": 60,
        "max_source_tokens": 10,
        "normalize_first": True,
        "num_heads": 2,
        "value_dim": 3,
    },
}
WORDS = (1, 4, 5)  # of the tiny vocabulary; its other tokens are padding, start and end


@functools.cache
def model_of(kind, precision="float32", vocabulary=23):
    model = random_transformer(small_config(vocabulary_size=vocabulary, **MODELS[kind]))
    return model if precision == "float32" else inference_model(model, precision)


class Batch(NamedTuple):
    sources: list[list[int]]
    lengths: list[int]  # the longest target of each sentence, in tokens

    def rows(self, rows):
        return Batch([self.sources[row] for row in rows], [self.lengths[row] for row in rows])

    def source_ids(self, extra_padding=0):
        return padded(self.sources, extra_padding)


def padded(rows, extra_padding=0):
    length = max(map(len, rows)) + extra_padding
    return np.array([[*row] + [PADDING] * (length - len(row)) for row in rows], "int32")


def batches(vocabulary=23, min_size=1, shortest=1, longest=6):
    source = st.lists(st.integers(4, vocabulary - 1), max_size=4).map(lambda ids: [*ids, END])
    sentence = st.tuples(source, st.integers(shortest, longest))
    sentences = st.lists(sentence, min_size=min_size, max_size=3)
    return sentences.map(lambda rows: Batch(*(list(x) for x in zip(*rows, strict=True))))


KINDS = st.sampled_from(list(MODELS))
ALPHAS = st.sampled_from([0.0, 0.6, 1.0])


def examples(number):
    """Returns settings for `num_examples`, without shrinking, since an example takes a second."""
    phases = (Phase.explicit, Phase.generate)
    return settings(
        max_examples=number, phases=phases, deadline=None, derandomize=True, database=None
    )


def search(method, model, batch, beams=1, extra_padding=0, **options):
    """Returns the results of a batch, by `greedy_search`, `beam_search` or `sample`."""
    encode, initial_state, step = decoding_steps(model)
    state = initial_state(
        encode(batch.source_ids(extra_padding)), beams, max_length=max(batch.lengths)
    )
    if method is beam_search:
        options = {"beam_size": beams, "num_results": beams, **options}
    return method(
        step, state, start_id=START, end_id=END, max_length=np.array(batch.lengths), **options
    )


def results(found, row):
    """Returns each result of a sentence: (tokens up to the end, score)."""
    pairs = []
    for ids, value in zip(numbers(found.token_ids)[row], numbers(found.scores)[row], strict=True):
        if value > IMPOSSIBLE / 2:
            ids = ids.tolist()
            end = ids.index(END)
            assert not any(ids[end + 1 :])  # nothing after the end
            pairs.append((tuple(ids[: end + 1]), float(value)))
    return pairs


def scores_by_the_full_pass(model, source, sentences, alpha, length_normalization="gnmt"):
    """Returns the score of each given sentence for one source."""
    source_ids = np.repeat(np.array([source], "int32"), len(sentences), axis=0)
    log_probability, num_tokens = score(model, source_ids, padded(sentences), start_id=START)
    return numbers(log_probability / length_penalty_of(num_tokens, alpha, length_normalization))


def assert_same_results(found, expected, tolerance=1e-4):
    """Asserts equal sentences in equal order, except where rounding swaps near ties."""
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=tolerance)
    expected = dict(expected)
    for tokens, value in found:
        assert np.isclose(expected[tokens], value, atol=tolerance)


# Steps


@examples(6)
@given(st.data(), KINDS, batches(), st.integers(1, 3))
def test_steps_equal_the_full_pass_however_beams_branch_and_sentences_leave(
    data, kind, batch, beams
):
    model, length = model_of(kind), 5
    source_ids, generator = batch.source_ids(), np.random.default_rng(len(batch.sources))
    encode, initial_state, step = decoding_steps(model)
    state = initial_state(encode(source_ids), beams, max_length=length)
    said = np.zeros((len(source_ids), beams, 0), "int32")  # the tokens of each hypothesis
    for position in range(length):
        token = generator.integers(4, 23, (*said.shape[:2], 1))
        said = np.concatenate([said, np.full_like(token, START) if not position else token], 2)
        logits, state = step(said[:, :, -1], state)
        rows = said.reshape(-1, position + 1)
        inputs = {"source_ids": np.repeat(source_ids, beams, axis=0), "target_ids": rows}
        expected = numbers(model(inputs))[:, -1].reshape(logits.shape)
        np.testing.assert_allclose(numbers(logits), expected, atol=1e-4)

        parents = generator.integers(0, beams, said.shape[:2]).astype("int32")
        state = reorder_beams(state, parents)
        said = np.take_along_axis(said, parents[:, :, None], axis=1)
        if data.draw(st.booleans(), "tidy up"):
            kept = sorted(data.draw(st.sets(st.integers(0, len(said) - 1), min_size=1), "kept"))
            state = keep_sentences(state, np.array(kept, "int32"), 0)
            said, source_ids = said[kept], source_ids[kept]


# Searches


@examples(6)
@given(KINDS, batches(min_size=2, shortest=3), st.integers(1, 4), ALPHAS, st.integers(0, 4))
def test_beam_search_finds_for_each_sentence_what_it_finds_alone(
    kind, batch, beams, alpha, min_length
):
    model = model_of(kind)
    options = {"length_penalty": alpha, "min_length": min_length}
    together = search(beam_search, model, batch, beams, extra_padding=2, **options)
    row = np.argmin([len(source) for source in batch.sources])  # the one with most padding
    alone = search(beam_search, model, batch.rows([row]), beams, **options)
    assert_same_results(results(together, row), results(alone, 0))


@examples(4)
@given(KINDS, batches(min_size=2, shortest=4))
def test_greedy_search_and_samples_do_not_depend_on_batch_mates(kind, batch):
    model, length = model_of(kind), max(batch.lengths)
    noise = noise_of(7, range(len(batch.sources)), 2, length)
    greedy = search(greedy_search, model, batch, extra_padding=2)
    sampled = search(sample, model, batch, 2, 2, noise=noise, top_p=0.9)
    row = np.argmin([len(source) for source in batch.sources])
    alone = search(greedy_search, model, batch.rows([row]))
    assert_same_results(results(greedy, row), results(alone, 0))
    alone = search(sample, model, batch.rows([row]), 2, noise=noise[[row]], top_p=0.9)
    assert_same_results(results(sampled, row), results(alone, 0))


@pytest.mark.parametrize("precision", PRECISIONS)
@examples(3)
@given(KINDS, batches(), ALPHAS, st.sampled_from(["gnmt", "length"]), st.integers(0, 4))
def test_results_obey_all_limits_and_have_the_score_of_their_tokens(
    precision, kind, batch, alpha, length_normalization, min_length
):
    model, beams, barred = model_of(kind, precision), 3, (START, 7, 11)
    options = {
        "length_penalty": alpha,
        "length_normalization": length_normalization,
        "min_length": min_length,
        "barred_ids": (PADDING, *barred),
    }
    noise = noise_of(1, range(len(batch.sources)), beams, max(batch.lengths))
    for method in (beam_search, sample):
        own = {"noise": noise} if method is sample else {}
        found = search(method, model, batch, beams, **own, **options)
        for row, longest in enumerate(batch.lengths):
            sentences, values = zip(*results(found, row), strict=True)
            if method is beam_search:
                assert len(set(sentences)) == len(sentences)
                assert list(values) == sorted(values, reverse=True)
            for tokens in sentences:
                assert min(min_length, longest) <= len(tokens) <= longest
                assert not {PADDING, *barred} & set(tokens)
            # A different order of sums changes 8-bit numbers by at most 1 in 2 ** 8.
            tolerance = 1e-4 if precision == "float32" else 0.1
            expected = scores_by_the_full_pass(
                model, batch.sources[row], sentences, alpha, length_normalization
            )
            np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)


# Enumeration


def all_sentences(model, source, longest, alpha, *, shortest=1, prefix=()):
    """Returns every sentence of the tiny vocabulary with its score, best first."""
    sentences = [
        (*prefix, *words, END)
        for n in range(max(1, longest - len(prefix)))
        for words in itertools.product(WORDS, repeat=n)
    ]
    sentences = [tokens for tokens in sentences if len(tokens) >= shortest]
    scores = scores_by_the_full_pass(model, source, sentences, alpha)
    return sorted(zip(sentences, scores, strict=True), key=lambda pair: -pair[1])


@examples(6)
@given(KINDS, batches(vocabulary=6, longest=4), ALPHAS, st.integers(0, 4))
def test_a_wide_beam_finds_all_sentences_in_their_order(kind, batch, alpha, min_length):
    model, width = model_of(kind, vocabulary=6), 1 + 3 + 9 + 27
    options = {"length_penalty": alpha, "min_length": min_length, "barred_ids": (PADDING, START)}
    found = search(beam_search, model, batch, width, **options)
    for row, (source, longest) in enumerate(zip(*batch, strict=True)):
        shortest = min(min_length, longest)
        expected = all_sentences(model, source, longest, alpha, shortest=shortest)
        assert_same_results(results(found, row), expected)


@examples(6)
@given(
    st.data(), KINDS, batches(vocabulary=6, longest=4), st.lists(st.sampled_from(WORDS), max_size=4)
)
def test_with_a_prefix_a_wide_beam_finds_all_sentences_that_begin_with_it(
    data, kind, batch, prefix
):
    model, width = model_of(kind, vocabulary=6), 1 + 3 + 9 + 27
    # The prefixes have several lengths.
    prefixes = [prefix[: data.draw(st.integers(0, 4), "length")] for _ in batch.sources]
    found = search(
        beam_search,
        model,
        batch,
        width,
        prefix=padded(prefixes),
        barred_ids=(PADDING, START),
    )
    for row, (source, longest) in enumerate(zip(*batch, strict=True)):
        expected = all_sentences(model, source, longest, 0.6, prefix=prefixes[row])
        assert_same_results(results(found, row), expected)


# Samples


@examples(4)
@given(KINDS, batches(), st.integers(0, 2**31))
def test_samples_are_repeatable_and_greedy_near_temperature_0(kind, batch, seed):
    model = model_of(kind)
    noise = noise_of(seed, range(len(batch.sources)), 3, max(batch.lengths))
    first, second = (search(sample, model, batch, 3, noise=noise, top_k=9) for _ in range(2))
    np.testing.assert_array_equal(numbers(first.token_ids), numbers(second.token_ids))
    np.testing.assert_array_equal(numbers(first.scores), numbers(second.scores))
    cold = search(sample, model, batch, 3, noise=noise, temperature=1e-5)
    greedy = search(greedy_search, model, batch)
    for row in range(len(batch.sources)):
        assert_same_results(results(cold, row), 3 * results(greedy, row))


# Graphs

LONG = Batch([[5, 9, 6, END], [7, END], [8, 8, 9, 10, END], [4, END]], [50, 7, 45, 50])
AT_LEAST = np.array([44, 0, 45, 20], "int32")


@functools.cache
def in_graph(method, kind, precision, beams):
    """Returns the search as a graph function with unknown shapes."""
    import tensorflow as tf

    encode, initial_state, step = decoding_steps(model_of(kind, precision))
    ids, of_sentences = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)
    noise_spec = tf.TensorSpec([None, beams, None], tf.float32)

    @tf.function(input_signature=[ids, of_sentences, of_sentences, noise_spec], autograph=False)
    def found(source_ids, max_length, min_length, noise):
        options = {
            beam_search: {"beam_size": beams, "num_results": beams},
            sample: {"noise": noise, "top_p": 0.9},
        }
        state = initial_state(encode(source_ids), beams, max_length=tf.reduce_max(max_length))
        return method(
            step,
            state,
            start_id=START,
            end_id=END,
            max_length=max_length,
            min_length=min_length,
            **options.get(method, {}),
        )

    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kind", "precision", "beams"),
    [
        (greedy_search, "post", "int8", 1),
        (beam_search, "learned", "float32", 3),
        (sample, "pre", "float32", 2),
    ],
    ids=["greedy", "beam", "sample"],
)
def test_a_long_search_in_a_graph_equals_the_search_outside_and_the_full_pass(
    method, kind, precision, beams
):
    model = model_of(kind, precision)
    tolerance = 1e-4 if precision == "float32" else 0.1
    for rows in ([0, 1, 2, 3], [2]):
        batch, at_least = LONG.rows(rows), AT_LEAST[rows]
        noise = noise_of(7, rows, beams, max(batch.lengths))
        own = {"noise": noise, "top_p": 0.9} if method is sample else {}
        inside = in_graph(method, kind, precision, beams)(
            batch.source_ids(), np.array(batch.lengths, "int32"), at_least, noise
        )
        outside = search(method, model, batch, beams, min_length=at_least, **own)
        for row, source in enumerate(batch.sources):
            assert_same_results(results(inside, row), results(outside, row), tolerance)
            sentences, values = zip(*results(inside, row), strict=True)
            expected = scores_by_the_full_pass(model, source, sentences, 0.6)
            np.testing.assert_allclose(values, expected, rtol=tolerance)
        assert max(len(tokens) for tokens, _ in results(inside, rows.index(2))) == 45
