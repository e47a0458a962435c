import numpy as np
import pytest

from keras_transformer.search.hypotheses import check_length_penalty, length_penalty_of, write_token
from tests.random_models import numbers


def test_length_penalty_of_one_token_is_1_and_of_seven_is_2_to_the_alpha():
    penalties = numbers(length_penalty_of(np.array([1, 7]), 0.6))
    np.testing.assert_allclose(penalties, [1, 2**0.6], rtol=1e-6)
    np.testing.assert_array_equal(numbers(length_penalty_of(np.array([1, 7]), 0.0)), [1, 1])


def test_normalized_by_length_the_penalty_is_a_power_of_the_length():
    penalties = numbers(length_penalty_of(np.array([1, 7]), 1.0, "length"))
    np.testing.assert_allclose(penalties, [1, 7], rtol=1e-6)
    penalties = numbers(length_penalty_of(np.array([4, 9]), 0.5, "length"))
    np.testing.assert_allclose(penalties, [2, 3], rtol=1e-6)


def test_unknown_normalization_is_refused():
    message = r"one of \('gnmt', 'length'\)\. Received: length_normalization='mean'\. Choose 'gnmt'"
    with pytest.raises(ValueError, match=message):
        check_length_penalty(0.6, "mean")


@pytest.mark.parametrize("alpha", [-0.5, float("inf"), float("nan")])
def test_an_invalid_length_penalty_is_refused(alpha):
    message = rf"0 or more, and finite\. Received: length_penalty={alpha}\. Choose 0"
    with pytest.raises(ValueError, match=message):
        check_length_penalty(alpha)


def test_a_token_is_written_at_its_position_and_nowhere_else():
    ids = np.array([[[5, 6, 7], [8, 9, 10]]])
    written = numbers(write_token(ids, np.array([[1, 2]]), 1))
    np.testing.assert_array_equal(written, [[[5, 1, 7], [8, 2, 10]]])
