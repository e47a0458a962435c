import numpy as np
import pytest
from keras import ops

from keras_transformer.masks import (
    attend_to,
    attend_to_earlier,
    causal_mask,
    hide,
    padding_mask,
    to_add,
)
from tests.random_models import numbers

IDS = np.array([[5, 7, 3, 0, 0], [4, 9, 8, 6, 3]], "int32")
REAL = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


def test_id_0_is_padding():
    np.testing.assert_array_equal(numbers(padding_mask(IDS)), REAL)


def test_a_position_may_see_itself_and_earlier_ones():
    expected = [[[1, 0, 0], [1, 1, 0], [1, 1, 1]]]
    np.testing.assert_array_equal(numbers(causal_mask(3)), np.array(expected, bool))


def test_every_query_may_see_every_real_key():
    np.testing.assert_array_equal(numbers(attend_to(REAL)), REAL[:, None, :])


def test_a_query_may_see_real_keys_up_to_its_own_position():
    expected = [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]],
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
    ]
    np.testing.assert_array_equal(numbers(attend_to_earlier(REAL, 5)), np.array(expected, bool))


def test_without_padding_only_order_matters():
    assert attend_to(None) is None
    np.testing.assert_array_equal(numbers(attend_to_earlier(None, 5)), numbers(causal_mask(5)))


def test_masks_are_boolean():
    for mask in (padding_mask(IDS), causal_mask(3), attend_to_earlier(REAL, 5)):
        assert numbers(mask).dtype == bool


@pytest.mark.parametrize("form", [ops.convert_to_tensor, to_add], ids=["Boolean", "added"])
def test_softmax_after_masking_is_over_the_remaining_scores(form):
    scores = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    hidden = hide(ops.convert_to_tensor(scores), form(REAL[:, None, :]))
    weights = np.exp(scores) * REAL[:, None, :]
    expected = weights / weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(numbers(ops.softmax(hidden)), expected, rtol=1e-5)
    assert np.all(numbers(ops.softmax(hidden))[0, :, 3:] == 0)
