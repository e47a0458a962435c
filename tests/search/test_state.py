import numpy as np
import pytest

from keras_transformer.decoding.cache import KeyValues, empty_cache, next_position, write
from keras_transformer.search.state import (
    DecodingState,
    keep_sentences,
    reorder_beams,
    take_sentences,
)
from tests.random_models import TENSORFLOW_ONLY, numbers

# Each number names its sentence and its beam.
NAMES = np.array([[0, 1, 2], [10, 11, 12]])
CHOSEN = np.array([[2, 2, 0], [1, 0, 1]], "int32")


def one_position():
    cache, place = next_position(empty_cache(2, 3, [(4, 5, 6)], 7, "float32"))
    new = KeyValues(np.ones((2, 4, 3, 5), "float32"), np.ones((2, 4, 3, 6), "float32"))
    return cache._replace(layers=(write(cache.layers[0], new, place),))


def test_reordering_moves_per_beam_state_and_visibility_and_nothing_else():
    per_sentence = {"memory": np.arange(2)}
    state = DecodingState(5, {"a": NAMES, "b": (NAMES[..., None],)}, per_sentence, one_position())
    reordered = reorder_beams(state, CHOSEN)
    np.testing.assert_array_equal(numbers(reordered.per_beam["a"]), [[2, 2, 0], [11, 10, 11]])
    np.testing.assert_array_equal(
        numbers(reordered.per_beam["b"][0])[..., 0], [[2, 2, 0], [11, 10, 11]]
    )
    seen = np.argmax(numbers(reordered.cache.visible), axis=2)  # each sees the slot of one beam
    np.testing.assert_array_equal(seen, CHOSEN)
    assert reordered.cache.layers is state.cache.layers
    assert reordered.position == 5
    assert reordered.per_sentence is per_sentence


def test_a_state_without_a_cache_is_reordered_too():
    state = reorder_beams(DecodingState(5, NAMES), CHOSEN)
    np.testing.assert_array_equal(numbers(state.per_beam), [[2, 2, 0], [11, 10, 11]])
    assert state.cache == ()


@TENSORFLOW_ONLY
@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("sentences", [[], [0], [1], [0, 1]], ids=str)
def test_taking_sentences_takes_all_of_their_state(sentences, in_graph):
    import tensorflow as tf

    take = tf.function(take_sentences) if in_graph else take_sentences
    nest = {"a": tf.constant(NAMES), "b": (tf.constant([5, 6]),), "c": (), "d": tf.constant(7)}
    taken = take(nest, tf.constant(sentences, "int32"))
    np.testing.assert_array_equal(numbers(taken["a"]), NAMES[sentences])
    np.testing.assert_array_equal(numbers(taken["b"][0]), np.array([5, 6])[sentences])
    assert taken["c"] == ()
    assert numbers(taken["d"]) == 7


@TENSORFLOW_ONLY
def test_nothing_is_copied_if_all_sentences_stay():
    import tensorflow as tf

    names = tf.constant(NAMES)
    assert take_sentences((names,), tf.constant([0, 1]))[0] is names
    assert take_sentences((), tf.constant([0, 1])) == ()


@TENSORFLOW_ONLY
def test_kept_sentences_keep_their_beams_their_memory_and_their_cache():
    state = DecodingState(5, NAMES, np.array([[7], [8]]), one_position())
    kept = keep_sentences(state, np.array([1], "int32"), num_positions=2)
    np.testing.assert_array_equal(numbers(kept.per_beam), [[10, 11, 12]])
    np.testing.assert_array_equal(numbers(kept.per_sentence), [[8]])
    assert kept.cache.visible.shape == (1, 3, (1 + 2) * 3)
    assert kept.position == 5
    assert keep_sentences(state._replace(cache=()), np.array([1], "int32"), 2).cache == ()
