import math

import numpy as np
import pytest

from keras_transformer.search.choice import best_tokens, log_normalizer, top_logits
from keras_transformer.search.constraints import constraints
from keras_transformer.search.hypotheses import IMPOSSIBLE
from tests.random_models import END, SLOW_TO_COMPILE, numbers

BATCH, BEAMS, VOCABULARY = 2, 3, 23


def random_logits(vocabulary=VOCABULARY, seed=7):
    return np.random.default_rng(seed).normal(size=(BATCH, BEAMS, vocabulary)).astype("float32")


def sorted_by_hand(logits, num_tokens):
    """Returns the largest logits by a full stable sort: ties in the order of tokens."""
    token = np.argsort(-logits, axis=-1, kind="stable")[..., :num_tokens]
    return np.take_along_axis(logits, token, axis=-1), token


# The largest logits


@SLOW_TO_COMPILE
@pytest.mark.parametrize("num_tokens", [1, 2, 5, 40])
@pytest.mark.parametrize("vocabulary", [1, 2, 3, 23, 121, 151, 144, 1009])  # primes and squares
@pytest.mark.parametrize("kind", ["different", "ties", "few", "equal"])
def test_top_logits_are_those_of_a_full_sort(kind, vocabulary, num_tokens):
    logits = random_logits(vocabulary)
    if kind == "ties":
        logits = np.round(logits)  # -3 to 3
    elif kind == "few":
        logits = np.where(np.arange(vocabulary) % 7 == 5, logits, -np.inf).astype("float32")
    elif kind == "equal":
        logits = np.full_like(logits, -2.5)
    expected_logit, expected_token = sorted_by_hand(logits, num_tokens)
    logit, token = top_logits(logits, num_tokens)
    np.testing.assert_array_equal(numbers(logit), expected_logit)
    np.testing.assert_array_equal(numbers(token), expected_token)


def test_the_largest_may_be_neighbors():
    logits = random_logits(1009)
    logits[0, 1, [1006, 1007, 1008]] = [50.0, 49.0, 51.0]
    _, token = top_logits(logits, 3)
    np.testing.assert_array_equal(numbers(token)[0, 1], [1008, 1006, 1007])


def test_of_equal_logits_in_several_blocks_the_lowest_token_comes_first():
    logits = np.zeros((1, 1, 144), "float32")  # 18 blocks of 8
    logits[0, 0, [3, 100]] = 1.0
    logits[0, 0, 101] = 2.0
    logit, token = top_logits(logits, 2)
    np.testing.assert_array_equal(numbers(logit)[0, 0], [2.0, 1.0])
    np.testing.assert_array_equal(numbers(token)[0, 0], [101, 3])


# Probabilities


def test_log_normalizer_of_equal_logits_is_the_logarithm_of_their_number():
    logits = np.full((2, 3, 23), 1000.0, "float32")
    normalizer = numbers(log_normalizer(logits, logits[..., :1]))
    np.testing.assert_allclose(normalizer, np.full((2, 3, 1), 1000 + np.log(23)), rtol=1e-6)


def test_impossible_tokens_add_nothing_to_log_normalizer():
    logits = np.array([[[0.0, -math.inf, 0.0, -math.inf]]], "float32")
    normalizer = numbers(log_normalizer(logits, logits[..., :1]))
    np.testing.assert_allclose(normalizer, [[[np.log(2)]]], rtol=1e-6)


def test_log_normalizer_is_the_same_where_the_most_probable_token_is_known():
    logits = random_logits()
    logit, token = sorted_by_hand(logits, 1)
    normalizer = numbers(log_normalizer(logits, logit, token))
    np.testing.assert_allclose(normalizer, numbers(log_normalizer(logits, logit)), rtol=1e-6)
    expected = np.log(np.exp(logits.astype("float64")).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(normalizer, expected, rtol=1e-6)


def choose(logits, num_tokens=4, position=1, max_length=9, min_length=0, prefix=None, barred=()):
    """Returns {token: log-probability} of the allowed tokens, for each sentence and beam."""
    held_to = constraints(np.array([max_length] * BATCH), min_length, prefix)
    log_probability, token = (
        numbers(x) for x in best_tokens(logits, num_tokens, held_to, position, END, barred)
    )
    return [
        [
            {int(t): p for t, p in zip(*pair, strict=True) if p > IMPOSSIBLE / 2}
            for pair in zip(token[row], log_probability[row], strict=True)
        ]
        for row in range(BATCH)
    ]


def of_whole_vocabulary(logits):
    """Returns log-probabilities in float64."""
    logits = logits.astype("float64")
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def assert_best(chosen, logits, num_tokens, forbidden=()):
    """Asserts that the best allowed tokens are chosen, with their probabilities."""
    expected = of_whole_vocabulary(logits)
    for row in range(BATCH):
        for beam in range(BEAMS):
            allowed = [t for t in range(logits.shape[-1]) if t not in forbidden]
            best = sorted(allowed, key=lambda t: -logits[row, beam, t])[:num_tokens]
            assert set(best) <= set(chosen[row][beam])
            assert not set(forbidden) & set(chosen[row][beam])
            for token, log_probability in chosen[row][beam].items():
                assert np.isclose(log_probability, expected[row, beam, token], rtol=1e-5)


@pytest.mark.parametrize("vocabulary", [5, VOCABULARY, 1009])
def test_probabilities_are_those_of_the_whole_vocabulary(vocabulary):
    logits = 3 * random_logits(vocabulary)
    assert_best(choose(logits), logits, num_tokens=4)


@pytest.mark.parametrize("vocabulary", [7, VOCABULARY, 1009])
def test_barred_tokens_are_not_chosen_and_the_others_keep_their_probabilities(vocabulary):
    logits = random_logits(vocabulary)
    logits[:, :, [4, 6]] = 5.0  # the likeliest
    chosen = choose(logits, num_tokens=3, barred=(4, 6))
    assert_best(chosen, logits, num_tokens=3, forbidden=(4, 6))


@pytest.mark.parametrize(("position", "may_end"), [(0, False), (2, False), (3, True), (4, True)])
def test_the_end_is_barred_before_the_shortest_length(position, may_end):
    logits = random_logits()
    logits[:, :, END] = 5.0
    chosen = choose(logits, position=position, min_length=4)  # at position 3 it is the fourth
    assert_best(chosen, logits, num_tokens=4, forbidden=() if may_end else (END,))
    assert (END in chosen[0][0]) == may_end


def test_each_sentence_has_its_own_shortest_length():
    logits = random_logits()
    logits[:, :, END] = 5.0
    chosen = choose(logits, position=1, min_length=np.array([2, 3]))
    assert END in chosen[0][0]
    assert END not in chosen[1][0]


def test_a_forced_token_is_the_only_one_and_keeps_its_probability():
    logits = random_logits()
    logits[:, :, 9] = -20.0
    prefix = np.array([[5, 9, 6], [7, 0, 0]])
    chosen = choose(logits, position=1, prefix=prefix, barred=(9,))
    expected = of_whole_vocabulary(logits)
    for beam in range(BEAMS):
        assert set(chosen[0][beam]) == {9}  # although it is barred
        assert np.isclose(chosen[0][beam][9], expected[0, beam, 9], rtol=1e-5)
        assert len(chosen[1][beam]) >= 4  # nothing is forced in the other sentence


def test_at_its_longest_length_a_sentence_can_only_end():
    logits = random_logits()
    chosen = choose(logits, position=8)
    expected = of_whole_vocabulary(logits)
    for row in range(BATCH):
        for beam in range(BEAMS):
            assert set(chosen[row][beam]) == {END}
            assert np.isclose(chosen[row][beam][END], expected[row, beam, END], rtol=1e-5)


def test_requesting_more_tokens_than_exist_gives_all_tokens():
    logits = random_logits(3)
    assert_best(choose(logits, num_tokens=8), logits, num_tokens=3)


def test_a_new_word_keeps_its_probability_within_the_whole_vocabulary():
    logits = random_logits()
    logits[:, :, 9] = 60.0  # far more probable than all others
    held_to = constraints(np.array([9] * BATCH), 0, np.array([[5], [6]]), np.array([True, False]))
    log_probability, token = (
        numbers(x) for x in best_tokens(logits, 2, held_to, 1, END, (), [7, 11])
    )
    expected = of_whole_vocabulary(logits)
    for beam in range(BEAMS):
        chosen = dict(zip(token[0, beam].tolist(), log_probability[0, beam], strict=True))
        for new in (7, 11, END):
            assert np.isclose(chosen[new], expected[0, beam, new], rtol=1e-5)
        assert 9 in token[1, beam]  # the other sentence needs no new word
        assert 9 not in token[0, beam]
