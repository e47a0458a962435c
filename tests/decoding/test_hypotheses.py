import numpy as np

from keras_transformer.decoding.hypotheses import length_penalty_of, log_normalizer, write_token
from tests.random_models import numbers


def test_length_penalty_of_one_token_is_1_and_of_seven_is_2_to_the_alpha():
    penalties = numbers(length_penalty_of(np.array([1, 7]), 0.6))
    np.testing.assert_allclose(penalties, [1, 2**0.6], rtol=1e-6)
    np.testing.assert_array_equal(numbers(length_penalty_of(np.array([1, 7]), 0.0)), [1, 1])


def test_log_normalizer_of_equal_logits_is_the_logarithm_of_their_number():
    normalizer = numbers(log_normalizer(np.full((2, 3, 23), 1000.0, "float32")))
    np.testing.assert_allclose(normalizer, np.full((2, 3, 1), 1000 + np.log(23)), rtol=1e-6)


def test_a_token_is_written_at_its_position_and_nowhere_else():
    ids = np.array([[[5, 6, 7], [8, 9, 10]]])
    written = numbers(write_token(ids, np.array([[1, 2]]), 1))
    np.testing.assert_array_equal(written, [[[5, 1, 7], [8, 2, 10]]])
