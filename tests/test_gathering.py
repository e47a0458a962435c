import numpy as np
import pytest

from keras_transformer.gathering import gather_for_all_beams, gather_rows, take
from tests.random_models import numbers

# Each number names its sentence and its beam.
NAMES = np.array([[0, 1, 2], [10, 11, 12]])
CHOSEN = np.array([[2, 2, 0], [1, 0, 1]], "int32")


def test_each_sentence_picks_among_its_own_beams():
    np.testing.assert_array_equal(numbers(gather_rows(NAMES, CHOSEN)), [[2, 2, 0], [11, 10, 11]])


def test_more_or_fewer_may_be_picked():
    np.testing.assert_array_equal(numbers(gather_rows(NAMES, CHOSEN[:, :1])), [[2], [11]])
    picked = gather_rows(NAMES, np.concatenate([CHOSEN, CHOSEN], axis=1))
    np.testing.assert_array_equal(numbers(picked), [[2, 2, 0, 2, 2, 0], [11, 10, 11, 11, 10, 11]])


def test_all_state_of_a_beam_moves_with_it():
    x = np.random.default_rng(7).normal(size=(2, 3, 4, 5))
    picked = numbers(gather_rows(x, CHOSEN))
    np.testing.assert_allclose(picked[1, 2], x[1, 1], rtol=1e-6)
    np.testing.assert_allclose(picked[0, 1], x[0, 2], rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 5, 1), (1, 1, 7), (0, 5, 7)])
def test_an_index_may_have_more_axes_before_its_last(shape):
    generator = np.random.default_rng(5)
    x = generator.normal(size=shape).astype("float32")
    index = generator.integers(0, shape[-1], (*shape[:-1], 3)).astype("int32")
    expected = np.take_along_axis(x, index, axis=-1)
    np.testing.assert_array_equal(numbers(gather_rows(x, index)), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_take_picks_along_one_axis(axis):
    x = np.arange(2 * 5 * 7, dtype="float32").reshape(2, 5, 7)
    index = np.array([[1, 0], [1, 1]], "int32")
    np.testing.assert_array_equal(numbers(take(x, index, axis=axis)), np.take(x, index, axis=axis))


def test_take_with_a_scalar_index_drops_the_axis():
    x = np.arange(2 * 5, dtype="float32").reshape(2, 5)
    np.testing.assert_array_equal(numbers(take(x, np.int32(3), axis=1)), x[:, 3])


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 1, 7), (0, 5, 7)])
def test_all_beams_of_a_sentence_get_the_same_picks(shape):
    generator = np.random.default_rng(3)
    x = generator.normal(size=shape).astype("float32")
    index = generator.integers(0, shape[-1], (shape[0], 3)).astype("int32")
    picked = numbers(gather_for_all_beams(x, index))
    assert picked.shape == (*shape[:2], 3)
    for sentence, places in enumerate(index):
        np.testing.assert_array_equal(picked[sentence], x[sentence][:, places])
