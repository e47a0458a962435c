import keras
import numpy as np
import pytest

from keras_transformer.decoding.cache import (
    KeyValues,
    append,
    as_length,
    empty_cache,
    seen_so_far,
)
from keras_transformer.layers.attention import scaled_dot_product_attention
from tests.random_models import ON_TENSORFLOW, TENSORFLOW_ONLY, numbers, random_vectors

BATCH, BEAMS, HEADS, HEAD_DIM, VALUE_DIM, MAX_LENGTH = 2, 3, 4, 5, 6, 7


def empty():
    return empty_cache(BATCH, BEAMS, HEADS, HEAD_DIM, VALUE_DIM, MAX_LENGTH, "float32")


def positions(length):
    """Keys and values of `length` positions."""
    key = random_vectors(BATCH, BEAMS, HEADS, length, HEAD_DIM)
    value = random_vectors(BATCH, BEAMS, HEADS, length, VALUE_DIM, seed=8)
    return KeyValues(key, value)


def filled(length):
    """A cache that has been filled one position after the other."""
    cache, new = empty(), positions(length)
    for position in range(length):
        one = KeyValues(*(x[..., position : position + 1, :] for x in new))
        cache = append(cache, one, position)
    return cache


@pytest.mark.parametrize("length", [1, 4, MAX_LENGTH])
def test_what_is_appended_is_held_in_order(length):
    cache = filled(length)
    np.testing.assert_array_equal(numbers(cache.key)[..., :length, :], positions(length).key)
    np.testing.assert_array_equal(numbers(cache.value)[..., :length, :], positions(length).value)


@pytest.mark.parametrize("length", [1, 4, MAX_LENGTH])
def test_attention_sees_what_is_held_and_nothing_else(length):
    query = random_vectors(BATCH, BEAMS, HEADS, 1, HEAD_DIM, seed=9)
    cache = filled(length)
    attended = scaled_dot_product_attention(
        query, cache.key, cache.value, seen_so_far(cache, length - 1)
    )
    expected = scaled_dot_product_attention(query, *positions(length))
    np.testing.assert_allclose(numbers(attended), numbers(expected), atol=1e-6)


@TENSORFLOW_ONLY
def test_on_tensorflow_a_cache_is_as_long_as_what_it_holds():
    assert empty().key.shape == (BATCH, BEAMS, HEADS, 0, HEAD_DIM)
    assert filled(4).value.shape == (BATCH, BEAMS, HEADS, 4, VALUE_DIM)
    assert seen_so_far(filled(4), 3) is None


@TENSORFLOW_ONLY
def test_on_tensorflow_a_cache_grows_inside_a_loop_of_a_graph():
    import tensorflow as tf

    @tf.function(autograph=False)
    def fill(key, value):
        def advance(position, cache):
            one = KeyValues(*(x[..., position : position + 1, :] for x in (key, value)))
            return position + 1, append(cache, one, position)

        length = tf.shape(key)[3]
        _, cache = tf.while_loop(lambda position, _: position < length, advance, (0, empty()))
        return cache

    cache = fill(*positions(4))
    np.testing.assert_array_equal(numbers(cache.key), positions(4).key)
    np.testing.assert_array_equal(numbers(cache.value), positions(4).value)


@pytest.mark.skipif(ON_TENSORFLOW, reason="TensorFlow allocates nothing in advance")
def test_elsewhere_a_cache_has_its_full_length_from_the_start():
    assert empty().key.shape == filled(4).key.shape == (BATCH, BEAMS, HEADS, 7, HEAD_DIM)
    np.testing.assert_array_equal(
        numbers(seen_so_far(filled(4), 3)), [True, True, True, True, False, False, False]
    )


def test_a_length_to_allocate_by_is_a_number_where_shapes_are_fixed():
    length = as_length(keras.ops.convert_to_tensor(7))
    assert int(length) == 7
    assert isinstance(length, int) != ON_TENSORFLOW
