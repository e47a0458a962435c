import numpy as np

from keras_transformer.decoding.state import DecodingState, gather_beams, reorder_beams
from tests.random_models import numbers

# Each number names its sentence and its beam.
NAMES = np.array([[0, 1, 2], [10, 11, 12]])
CHOSEN = np.array([[2, 2, 0], [1, 0, 1]], "int32")


def test_each_sentence_picks_among_its_own_beams():
    picked = numbers(gather_beams(NAMES, CHOSEN))
    np.testing.assert_array_equal(picked, [[2, 2, 0], [11, 10, 11]])


def test_more_or_fewer_beams_may_be_picked():
    np.testing.assert_array_equal(numbers(gather_beams(NAMES, CHOSEN[:, :1])), [[2], [11]])
    picked = gather_beams(NAMES, np.concatenate([CHOSEN, CHOSEN], axis=1))
    np.testing.assert_array_equal(numbers(picked), [[2, 2, 0, 2, 2, 0], [11, 10, 11, 11, 10, 11]])


def test_all_that_belongs_to_a_beam_moves_with_it():
    x = np.random.default_rng(7).normal(size=(2, 3, 4, 5))
    picked = numbers(gather_beams(x, CHOSEN))
    np.testing.assert_allclose(picked[1, 2], x[1, 1], rtol=1e-6)
    np.testing.assert_allclose(picked[0, 1], x[0, 2], rtol=1e-6)


def test_reordering_moves_what_is_per_beam_and_nothing_else():
    per_sentence = {"memory": np.arange(2)}
    state = DecodingState(5, {"a": NAMES, "b": (NAMES[..., None],)}, per_sentence)
    state = reorder_beams(state, CHOSEN)
    np.testing.assert_array_equal(numbers(state.per_beam["a"]), [[2, 2, 0], [11, 10, 11]])
    np.testing.assert_array_equal(
        numbers(state.per_beam["b"][0])[..., 0], [[2, 2, 0], [11, 10, 11]]
    )
    assert state.position == 5
    assert state.per_sentence is per_sentence
