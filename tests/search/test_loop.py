from typing import NamedTuple

import numpy as np
import pytest
from keras import ops

from keras_transformer.decoding.cache import KeyValues, empty_cache, next_position, write
from keras_transformer.search import loop
from keras_transformer.search.beam import beam_search
from keras_transformer.search.greedy import greedy_search
from keras_transformer.search.state import DecodingState
from tests.random_models import TENSORFLOW_ONLY, numbers
from tests.search import toy_languages as toy

# The longest sentence spans over two tidyings; two end before the first, one exactly at it.
LENGTHS = [3, 37, 16, 1, 20, 33, 37]
BEAMS = 2


class Sum(NamedTuple):
    """A search that sums the numbers of its positions, from 1 on."""

    position: object
    total: object  # Integer (batch,)
    length: object  # Integer (batch,)
    done: object
    state: DecodingState


def start(lengths):
    return Sum(
        position=ops.convert_to_tensor(0, dtype="int32"),
        total=ops.zeros_like(lengths),
        length=lengths,
        done=ops.equal(lengths, 0),
        state=DecodingState(
            position=ops.convert_to_tensor(0, dtype="int32"),
            per_beam=lengths[:, None] * np.array([[1, -1]], "int32"),
            per_sentence={"length": lengths},
            cache=empty_cache(ops.shape(lengths)[0], BEAMS, [(1, 1, 2)], max(LENGTHS), "float32"),
        ),
    )


def advance(search):
    """Writes the sentence's length and the position into the cache."""
    state = search.state
    cache, place = next_position(state.cache)
    here = ops.ones_like(state.per_beam)[:, None, :, None]  # (batch, heads, beams, width)
    length = state.per_sentence["length"][:, None, None, None] * here
    new = KeyValues(
        ops.cast(length, "float32"),
        ops.cast(ops.concatenate([length, here * search.position], axis=3), "float32"),
    )
    cache = cache._replace(layers=(write(cache.layers[0], new, place),))
    added = ops.where(search.done, 0, search.position + 1)
    return search._replace(
        position=search.position + 1,
        total=search.total + added,
        done=search.done | (search.position + 1 >= search.length),
        state=state._replace(position=state.position + 1, cache=cache),
    )


def results_of(search):
    """Returns the total, and the cache's number of visible positions and sum of their values."""
    seen = ops.cast(search.state.cache.visible, "float32")[..., None]  # (batch, beams, slots, 1)
    held = ops.sum(seen * search.state.cache.layers[0].value, axis=2)  # (batch, beams, 2)
    return {
        "total": search.total,
        "per_beam": search.state.per_beam,
        "seen": ops.sum(seen[..., 0], axis=2),
        "held": held,
    }


def run(lengths):
    return loop.run(advance, start(lengths), results_of)


def assert_adds_up(results):
    """Asserts 1 + 2 + ... + n = n (n + 1) / 2 for each sentence, in order."""
    lengths = np.array(LENGTHS)
    np.testing.assert_array_equal(numbers(results["total"]), lengths * (lengths + 1) // 2)
    np.testing.assert_array_equal(numbers(results["per_beam"]), lengths[:, None] * [1, -1])
    # A sentence may stay for some positions after it is done, and sees what it writes there.
    seen = numbers(results["seen"])
    assert np.all(seen >= lengths[:, None])
    held = numbers(results["held"])
    np.testing.assert_array_equal(held[..., 0], seen * lengths[:, None])
    np.testing.assert_array_equal(held[..., 1], seen * (seen - 1) / 2)


def test_each_sentence_gets_its_own_result_in_its_own_place():
    assert_adds_up(run(ops.convert_to_tensor(LENGTHS, dtype="int32")))


@TENSORFLOW_ONLY
def test_results_are_the_same_in_a_graph_of_unknown_shapes():
    import tensorflow as tf

    spec = [tf.TensorSpec([None], tf.int32)]
    in_graph = tf.function(run, input_signature=spec, autograph=False)
    assert_adds_up(in_graph(np.array(LENGTHS, "int32")))
    nobody = in_graph(np.zeros([0], "int32"))
    assert numbers(nobody["total"]).shape == (0,)


def test_sentences_that_are_done_from_the_start_stay_unchanged():
    results = run(ops.convert_to_tensor([0, 0], dtype="int32"))
    np.testing.assert_array_equal(numbers(results["total"]), [0, 0])


@TENSORFLOW_ONLY
def test_sentences_that_are_done_leave_the_batch():
    rows = []

    def counted(search):
        rows.append(int(ops.shape(search.done)[0]))
        return advance(search)

    loop.run(counted, start(ops.convert_to_tensor(LENGTHS, dtype="int32")), results_of)
    assert max(LENGTHS) > 2 * loop.POSITIONS_BETWEEN_TIDYING
    last_tidying = [p - p % loop.POSITIONS_BETWEEN_TIDYING for p in range(max(LENGTHS))]
    assert rows == [sum(length > tidied for length in LENGTHS) for tidied in last_tidying]


def last_word_speller(num_words):
    """Returns a step function that says 8 `num_words` times in each sentence, then the end."""
    ends = ops.convert_to_tensor(np.array(num_words, "int32"))

    def step(token_ids, state):
        over = ops.greater_equal(state.position, state.per_sentence)[:, None, None]
        token = ops.where(over, toy.END, 8)
        logits = ops.where(ops.equal(ops.arange(11), token), 0.0, -30.0)
        batch, beams = ops.shape(token_ids)
        logits = ops.broadcast_to(logits, (batch, beams, 11))
        return logits, state._replace(position=state.position + 1)

    return step, DecodingState(ops.convert_to_tensor(0, dtype="int32"), per_sentence=ends)


@pytest.mark.parametrize("search", [greedy_search, beam_search])
def test_long_and_short_sentences_come_back_in_their_order(search):
    num_words = [2, 40, 0, 17, 36]
    step, state = last_word_speller(num_words)
    found = search(
        step, state, start_id=2, end_id=toy.END, max_length=np.array([45, 45, 45, 45, 20])
    )
    best = numbers(found.token_ids)[:, 0]
    for row, words in enumerate([2, 40, 0, 17, 19]):  # the last is ended at its limit
        assert best[row].tolist() == [8] * words + [toy.END] + [0] * (44 - words)
