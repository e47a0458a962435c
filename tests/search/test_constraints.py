import numpy as np

from keras_transformer.search.constraints import (
    constraints,
    end_is_too_early,
    forced_token,
    without_rest_of_word,
)
from tests.random_models import END, numbers


def forced_tokens(held_to, num_positions):
    """Returns the forced token at each position: Integer (batch, positions), 0 for none."""
    at = [numbers(forced_token(held_to, position, END)) for position in range(num_positions)]
    return np.stack(at, axis=1)


def test_a_prefix_is_forced_and_then_nothing_until_the_last_position():
    held_to = constraints(np.array([6, 5, 4]), prefix=np.array([[7, 8], [9, 0], [0, 0]]))
    np.testing.assert_array_equal(
        forced_tokens(held_to, 6),
        [[7, 8, 0, 0, 0, END], [9, 0, 0, 0, END, END], [0, 0, 0, END, END, END]],
    )


def test_without_a_prefix_only_the_last_token_is_forced():
    np.testing.assert_array_equal(
        forced_tokens(constraints(np.array([1, 3])), 3), [[END, END, END], [0, 0, END]]
    )


def test_a_prefix_always_leaves_room_for_the_end():
    held_to = constraints(np.array([2, 2, 7]), prefix=np.array([[7, 8, 9], [7, 0, 0], [5, 6, 0]]))
    np.testing.assert_array_equal(numbers(held_to.max_length), [4, 2, 7])
    np.testing.assert_array_equal(forced_tokens(held_to, 4)[0], [7, 8, 9, END])


def test_an_empty_prefix_forces_nothing():
    held_to = constraints(np.array([3, 3]), prefix=np.zeros((2, 0), "int32"))
    np.testing.assert_array_equal(forced_tokens(held_to, 3), [[0, 0, END]] * 2)


def test_the_end_is_too_early_until_the_shortest_length_is_reached():
    held_to = constraints(np.array([9, 9, 9]), np.array([0, 1, 3]))
    early = [numbers(end_is_too_early(held_to, position)) for position in range(3)]
    np.testing.assert_array_equal(
        early, [[False, False, True], [False, False, True], [False, False, False]]
    )


def test_one_shortest_length_holds_for_all_sentences():
    held_to = constraints(np.array([9, 8]), 2)
    np.testing.assert_array_equal(numbers(held_to.min_length), [2, 2])


def test_a_new_word_or_the_end_must_follow_a_prefix():
    prefix, new_word = np.array([[7, 8], [9, 0], [5, 6]]), np.array([True, True, False])
    held_to = constraints(np.array([9, 9, 9]), prefix=prefix, new_word=new_word)
    logits = np.arange(3 * 2 * 6, dtype="float32").reshape(3, 2, 6)
    for position, rows in enumerate([[], [1], [0], []]):
        found = numbers(without_rest_of_word(logits, held_to, position, END, [4]))
        expected = logits.copy()
        for row in rows:
            expected[row][:, [0, 1, 2, 5]] = -1e9
        np.testing.assert_array_equal(found, expected)


def test_without_new_words_the_logits_are_returned_untouched():
    logits = np.zeros((1, 1, 6), "float32")
    assert without_rest_of_word(logits, constraints(np.array([3])), 0, END, [4]) is logits
