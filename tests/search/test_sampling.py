import collections
import itertools

import numpy as np
import pytest

from keras_transformer.search.greedy import greedy_search
from keras_transformer.search.sampling import distribution, noise_of, sample
from tests.random_models import SLOW_TO_COMPILE, numbers
from tests.search import toy_languages as toy

ALMOST_1 = 1 - 2**-24  # the largest number that float32 has below 1
TRUNCATIONS = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0, "top_k": 3},
    {"top_k": 2},
    {"top_p": 0.7},
    {"temperature": 1.5, "top_k": 3, "top_p": 0.6},
]


def draw(language, noise, max_length, step=toy.step, **options):
    noise = np.asarray(noise, "float32")
    return sample(
        step,
        toy.initial_state(language, noise.shape[1]),
        start_id=toy.START,
        end_id=toy.END,
        max_length=np.array(max_length),
        noise=noise,
        **options,
    )


def sentences(found, row=0):
    """Returns the tokens of each sample of one sentence, up to the end."""
    ids = [list(tokens) for tokens in numbers(found.token_ids)[row].tolist()]
    return [tuple(tokens[: tokens.index(toy.END) + 1]) for tokens in ids]


def one_word_language(probabilities):
    """Returns a language: the first token has these probabilities, and the end follows."""
    language = np.full((1, 1 + toy.VOCABULARY, toy.VOCABULARY), -np.inf, "float32")
    language[:, :, toy.END] = 0.0
    with np.errstate(divide="ignore"):
        language[0, 0] = np.log(probabilities)
    return language


def first_tokens(probabilities, numbers_drawn, **options):
    """Returns the first token drawn by each random number."""
    noise = [[[number, 0.5] for number in numbers_drawn]]
    found = draw(one_word_language(probabilities), noise, [2], **options)
    return numbers(found.token_ids)[0, :, 0].tolist()


# The distribution


def probabilities_by_hand(logits, temperature=1.0, top_k=None, top_p=1.0):
    """Returns {token: probability} in float64, by applying each definition in turn."""
    weights = {t: np.exp(float(x) / temperature) for t, x in enumerate(logits)}
    ranked = sorted(weights, key=lambda t: (-weights[t], t))[:top_k]
    total = sum(weights[t] for t in ranked)
    kept, mass = [], 0.0
    while mass < top_p * (1 - 1e-9) and len(kept) < len(ranked):
        kept.append(ranked[len(kept)])
        mass += weights[kept[-1]] / total
    total = sum(weights[t] for t in kept)
    return {t: weights[t] / total for t in kept}


def distribution_of(probabilities, **options):
    """Returns {token: probability} of the remaining tokens."""
    logits = np.log(np.array(probabilities, "float32"))[None, None]
    probability, token = (numbers(x)[0, 0] for x in distribution(logits, **options))
    return {int(t): float(p) for t, p in zip(token, probability, strict=True) if p > 0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0: 0.2, 1: 0.4, 2: 0.1, 3: 0.3}),
        ({"top_k": 2}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_k": 9}, {0: 0.2, 1: 0.4, 2: 0.1, 3: 0.3}),
        ({"top_p": 0.3}, {1: 1.0}),  # at least one
        ({"top_p": 0.65}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_p": 0.75}, {1: 4 / 9, 3: 3 / 9, 0: 2 / 9}),
        ({"top_p": 1}, {0: 0.2, 1: 0.4, 2: 0.1, 3: 0.3}),
        # Of the two that top_k leaves, the first has 4/7; of all four, 4/10.
        ({"top_k": 2, "top_p": 0.5}, {1: 1.0}),
        ({"top_p": 0.5}, {1: 4 / 7, 3: 3 / 7}),
        # Temperature 1/2 squares: 4, 16, 1, 9 of 30.
        ({"temperature": 0.5}, {0: 4 / 30, 1: 16 / 30, 2: 1 / 30, 3: 9 / 30}),
        ({"temperature": 0.5, "top_p": 0.5}, {1: 1.0}),
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.9}, {1: 16 / 29, 3: 9 / 29, 0: 4 / 29}),
    ],
    ids=str,
)
def test_temperature_top_k_and_top_p_leave_the_right_tokens_and_probabilities(options, expected):
    found = distribution_of([0.2, 0.4, 0.1, 0.3], **options)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "left"), [({"top_k": 3}, {0, 1, 2}), ({"top_p": 0.5}, {0, 1})], ids=str
)
def test_ties_are_broken_in_favor_of_lower_tokens(options, left):
    found = distribution_of([0.25] * 4, **options)
    assert found == pytest.approx(dict.fromkeys(left, 1 / len(left)))


@pytest.mark.parametrize("options", TRUNCATIONS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_probabilities_sum_to_1(options, scale):
    logits = scale * np.random.default_rng(7).normal(size=(2, 3, 151)).astype("float32")
    probability, token = (numbers(x) for x in distribution(logits, **options))
    assert np.all(probability >= 0)
    np.testing.assert_allclose(probability.sum(axis=-1), 1, rtol=1e-5)
    for row in token.reshape(6, -1):
        assert len(set(row)) == len(row)


# Draws


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, [0, 0, 1, 1, 2, 3, 3]),  # sums 0.1, 0.5, 0.8, 1
        ({"top_k": 2}, [1, 1, 1, 1, 2, 2, 2]),  # the likeliest first: sums 4/7, 1
        ({"barred_ids": (0, 2)}, [1, 1, 1, 1, 1, 3, 3]),  # sums 0, 2/3, 2/3, 1
        ({"min_length": 2}, [0, 0, 1, 1, 2, 2, 2]),  # sums 1/8, 5/8, 1
    ],
    ids=["all", "top", "barred", "early"],
)
def test_the_token_where_the_sum_exceeds_the_number_is_drawn(options, tokens):
    drawn = first_tokens([0.1, 0.4, 0.3, 0.2], [0, 0.09, 0.3, 0.4, 0.64, 0.9, ALMOST_1], **options)
    assert drawn == tokens


def test_impossible_tokens_are_never_drawn_even_at_the_edges():
    assert first_tokens([0, 0.5, 0.5, 0], [0, 0.49, 0.51, ALMOST_1]) == [1, 1, 2, 2]
    hot = first_tokens([0, 0.5, 0.5, 0], [0, ALMOST_1], temperature=1e30)
    assert hot == [1, 2]


def test_every_position_has_its_own_number():
    uniform = np.zeros((1, 21, toy.VOCABULARY), "float32")
    found = draw(uniform, [[[0.3, 0.6, 0.8], [0.9, 0.1, 0.1], [0.1, 0.8, 0.0]]], [3])
    assert sentences(found) == [(1, 2, toy.END), (toy.END,), (0, toy.END)]


@SLOW_TO_COMPILE
@pytest.mark.parametrize("options", TRUNCATIONS, ids=str)
def test_sentences_are_drawn_in_proportion_to_their_probability(options):
    num_samples, max_length = 4_000, 3
    language = toy.random_language(1, max_length)
    found = draw(language, noise_of(3, [0], num_samples, max_length), [max_length], **options)
    counts = collections.Counter(sentences(found))

    def probability(tokens):
        """Returns a sentence's probability; the end at the last position is forced."""
        product = 1.0
        for position, token in enumerate(tokens[: max_length - 1]):
            logits = language[0, toy.number_of(tokens[:position])]
            product *= probabilities_by_hand(logits, **options).get(token, 0.0)
        return product

    expected = {
        (*words, toy.END): num_samples * probability((*words, toy.END))
        for n in range(max_length)
        for words in itertools.product(toy.WORDS, repeat=n)
    }
    assert sum(expected.values()) == pytest.approx(num_samples)
    possible = {tokens: number for tokens, number in expected.items() if number > 0}
    assert set(counts) <= set(possible)
    chi_square = sum((counts[tokens] - n) ** 2 / n for tokens, n in possible.items())
    degrees = len(possible) - 1
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5  # mean, and 5 standard deviations


@pytest.mark.parametrize("temperature", [1e-3, 1e-300])
def test_near_temperature_0_each_sample_equals_greedy_search(temperature):
    language = toy.random_language(5, 4)
    lengths, options = np.array([4, 3, 4, 1, 4]), {"length_penalty": 0.7, "min_length": 2}
    noise = noise_of(7, range(5), 3, 4)
    found = draw(language, noise, lengths, temperature=temperature, **options)
    greedy = greedy_search(
        toy.step,
        toy.initial_state(language, 1),
        start_id=toy.START,
        end_id=toy.END,
        max_length=lengths,
        **options,
    )
    for beam in range(3):
        np.testing.assert_array_equal(
            numbers(found.token_ids)[:, beam], numbers(greedy.token_ids)[:, 0]
        )
        np.testing.assert_allclose(
            numbers(found.scores)[:, beam], numbers(greedy.scores)[:, 0], rtol=1e-6
        )


@SLOW_TO_COMPILE
@pytest.mark.parametrize("options", TRUNCATIONS, ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_scores_use_the_models_unmodified_probabilities(alpha, options):
    language = toy.random_language(2, 4)
    noise = noise_of(7, range(2), 5, 4)
    found = draw(language, noise, [4, 3], length_penalty=alpha, **options)
    for row in range(2):
        expected = [toy.score_of(tokens, language[row], alpha) for tokens in sentences(found, row)]
        np.testing.assert_allclose(numbers(found.scores)[row], expected, rtol=1e-5)


@SLOW_TO_COMPILE
def test_a_sentence_has_the_same_samples_in_any_batch():
    language, lengths = toy.random_language(5, 4), [2, 4, 3, 4, 1]
    together = draw(language, noise_of(7, range(5), 3, 9), lengths, top_p=0.9)
    order = [3, 1, 4]
    others = draw(
        language[order], noise_of(7, order, 5, 4), [lengths[row] for row in order], top_p=0.9
    )
    for new_row, row in enumerate(order):
        assert sentences(others, new_row)[:3] == sentences(together, row)
        np.testing.assert_allclose(
            numbers(others.scores)[new_row, :3], numbers(together.scores)[row], rtol=1e-6
        )


@SLOW_TO_COMPILE
def test_a_prefix_is_kept_and_scored():
    language = toy.random_language(2, 4)
    prefix, noise = np.array([[1, 2], [2, 0]]), noise_of(7, range(2), 7, 4)
    found = draw(language, noise, [4, 4], prefix=prefix, barred_ids=(2,), length_penalty=0.0)
    assert all(tokens[:2] == (1, 2) for tokens in sentences(found, 0))
    for tokens in sentences(found, 1):
        assert tokens[0] == 2
        assert 2 not in tokens[1:]
    expected = [toy.score_of(tokens, language[0], 0.0) for tokens in sentences(found, 0)]
    np.testing.assert_allclose(numbers(found.scores)[0], expected, rtol=1e-5)


def test_no_sample_has_more_tokens_than_numbers():
    never_ends = np.full((1, 85, toy.VOCABULARY), 0.0, "float32")
    never_ends[:, :, toy.END] = toy.NEVER
    found = draw(never_ends, np.full((1, 2, 3), 0.1), [9])
    assert numbers(found.token_ids).tolist() == [[[0, 0, toy.END]] * 2]


def test_results_have_the_requested_length():
    found = draw(toy.random_language(1, 2), np.zeros((1, 3, 2)), [2], longest=5)
    assert tuple(found.token_ids.shape) == (1, 3, 5)
    assert np.all(numbers(found.token_ids)[0, :, 2:] == 0)


def test_an_empty_batch_gives_an_empty_result():
    language = toy.random_language(1, 2)[:0]
    found = draw(language, np.zeros((0, 3, 2)), np.zeros([0], "int32"))
    assert tuple(found.token_ids.shape)[:2] == (0, 3)
    assert tuple(found.scores.shape) == (0, 3)


# Numbers


def test_noise_depends_only_on_the_sentence_the_sample_and_the_token():
    noise = noise_of(7, [0, 5, 2], 3, 11)
    assert noise.shape == (3, 3, 11)
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(noise_of(7, [5, 2], 2, 4), noise[1:, :2, :4])
    np.testing.assert_array_equal(noise_of(7, [0, 5, 2], 4, 12)[:, :3, :11], noise)
    assert len(np.unique(noise)) == 99  # by chance, two of 99 are equal once in 3,000 times
    assert not np.any(noise_of(8, [0, 5, 2], 3, 11) == noise)


def test_noise_is_uniform_over_0_to_1():
    noise = noise_of(7, range(20), 5, 100)
    assert np.all((noise >= 0) & (noise < 1))
    counts, _ = np.histogram(noise, bins=10, range=(0, 1))
    assert np.sum((counts - 1000) ** 2 / 1000) < 9 + 5 * 18**0.5  # chi-square of 9 degrees


# Errors


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf"), float("nan")])
def test_an_invalid_temperature_is_refused(temperature):
    message = rf"more than 0, and finite\. Received: temperature={temperature}\. .*greedy search"
    with pytest.raises(ValueError, match=message):
        draw(toy.random_language(1, 2), np.zeros((1, 1, 2)), [2], temperature=temperature)


def test_top_k_below_1_is_refused():
    with pytest.raises(ValueError, match=r"at least 1\. Received: top_k=0\. Choose None"):
        draw(toy.random_language(1, 2), np.zeros((1, 1, 2)), [2], top_k=0)


@pytest.mark.parametrize("top_p", [0.0, 1.5, float("nan")])
def test_an_invalid_top_p_is_refused(top_p):
    with pytest.raises(ValueError, match=rf"at most 1\. Received: top_p={top_p}\. Choose None"):
        draw(toy.random_language(1, 2), np.zeros((1, 1, 2)), [2], top_p=top_p)


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 0), (1, 0, 2)])
def test_noise_with_a_wrong_shape_is_refused(shape):
    message = rf"\(batch, beams, length\).* Received: shape \({shape[0]}, {shape[1]}.*noise_of"
    language = toy.random_language(1, 2)
    with pytest.raises(ValueError, match=message):
        sample(
            toy.step,
            toy.initial_state(language, 1),
            start_id=toy.START,
            end_id=toy.END,
            max_length=np.array([2]),
            noise=np.zeros(shape, "float32"),
        )


def test_negative_length_penalty_is_refused():
    with pytest.raises(ValueError, match=r"0 or more, and finite\. Received: length_penalty=-0.5"):
        draw(toy.random_language(1, 2), np.zeros((1, 1, 2)), [2], length_penalty=-0.5)


@pytest.mark.parametrize(("seed", "sentences"), [(-1, [0, 3]), (7, [3, -2])])
def test_negative_noise_is_refused(seed, sentences):
    message = rf"0 or more\. Received: seed={seed}, lowest index {min(sentences)}\. Count from 0"
    with pytest.raises(ValueError, match=message):
        noise_of(seed, sentences, 2, 3)
