import numpy as np
import pytest

from keras_transformer.decoding.cache import KeyValues, empty_cache, next_position, write
from keras_transformer.layers.attention import scaled_dot_product_attention
from tests.random_models import ON_TENSORFLOW, TENSORFLOW_ONLY, numbers, random_vectors

BATCH, BEAMS, MAX_LENGTH = 2, 3, 7
WIDTHS = [(4, 5, 6), (4, 8, 9)]  # (heads, head_dim, value_dim) of two layers
# The beam that each continues, after each position; in the first sentence one soon leads all.
PARENTS = np.array(
    [
        [[0, 1, 2], [2, 0, 1]],
        [[1, 1, 0], [1, 2, 0]],
        [[0, 1, 1], [0, 0, 2]],
        [[2, 2, 2], [2, 1, 0]],
        [[0, 2, 1], [1, 1, 2]],
        [[1, 0, 0], [0, 2, 2]],
        [[0, 1, 2], [1, 0, 1]],
    ],
    "int32",
)


def empty():
    return empty_cache(BATCH, BEAMS, WIDTHS, MAX_LENGTH, "float32")


def new(position, layer):
    """Returns the entries of a position: KeyValues of Float (batch, heads, beams, width)."""
    heads, *widths = WIDTHS[layer]
    return KeyValues(
        *(
            random_vectors(BATCH, heads, BEAMS, width, seed=100 * position + 10 * layer + number)
            for number, width in enumerate(widths)
        )
    )


def advanced(cache, position):
    """Returns the cache with one more position, without reordering beams."""
    cache, place = next_position(cache)
    layers = (write(layer, new(position, i), place) for i, layer in enumerate(cache.layers))
    return cache._replace(layers=tuple(layers))


def grown(length, cache=None, first=0):
    """Returns the cache after some positions, with the beams reordered after each."""
    cache = empty() if cache is None else cache
    for position in range(first, first + length):
        cache = advanced(cache, position).reorder(PARENTS[position])
    return cache


def ancestors(length):
    """Returns, for each sentence and beam, the beams of its ancestors, the first position first."""
    lines = [[[] for _ in range(BEAMS)] for _ in range(BATCH)]
    for parents in PARENTS[:length]:
        for sentence in range(BATCH):
            longer = [[*line, beam] for beam, line in enumerate(lines[sentence])]
            lines[sentence] = [longer[parent] for parent in parents[sentence]]
    return lines


def own(length, layer, sentence, beam):
    """Returns the keys and values of a hypothesis: KeyValues of (heads, length, width)."""
    line = ancestors(length)[sentence][beam]
    positions = [new(position, layer) for position in range(length)]
    return KeyValues(
        *(
            np.stack([p[part][sentence, :, b] for p, b in zip(positions, line, strict=True)], 1)
            for part in range(2)
        )
    )


def query(layer):
    heads, head_dim, _ = WIDTHS[layer]
    return random_vectors(BATCH, heads, BEAMS, head_dim, seed=layer)


def attended(cache, layer, sentences=slice(None)):
    visible = cache.visible[:, None]
    asked = query(layer)[sentences]
    return numbers(scaled_dot_product_attention(asked, *cache.layers[layer], visible))


def assert_holds(cache, length, sentences=range(BATCH)):
    """Asserts that each hypothesis sees all its ancestors, in order, and nothing else."""
    for row, sentence in enumerate(sentences):
        for beam in range(BEAMS):
            sees = numbers(cache.visible)[row, beam]
            for layer, held in enumerate(cache.layers):
                expected = own(length, layer, sentence, beam)
                np.testing.assert_array_equal(numbers(held.key)[row][:, sees], expected.key)
                np.testing.assert_array_equal(numbers(held.value)[row][:, sees], expected.value)


# Positions


@pytest.mark.parametrize("length", [1, 4, MAX_LENGTH])
def test_each_hypothesis_sees_its_own_ancestors_in_their_order(length):
    cache = grown(length)
    assert_holds(cache, length)
    assert int(cache.num_filled) == length * BEAMS


@pytest.mark.parametrize("length", [1, 4, MAX_LENGTH])
def test_attention_sees_the_ancestors_and_nothing_else(length):
    cache = grown(length)
    for layer in range(2):
        outputs = attended(cache, layer)
        for sentence in range(BATCH):
            for beam in range(BEAMS):
                expected = scaled_dot_product_attention(
                    query(layer)[sentence][:, beam : beam + 1], *own(length, layer, sentence, beam)
                )
                np.testing.assert_allclose(
                    outputs[sentence][:, beam], numbers(expected)[:, 0], atol=1e-6
                )


def test_a_new_position_is_seen_by_its_own_hypothesis_only():
    before = grown(3)
    after, _ = next_position(before)
    seen = numbers(after.visible)[:, :, 9:12]
    np.testing.assert_array_equal(seen, np.stack([np.eye(3, dtype=bool)] * BATCH))
    earlier = numbers(before.visible)[:, :, :9]
    np.testing.assert_array_equal(numbers(after.visible)[:, :, :9], earlier)


def test_writing_changes_nothing_that_was_there():
    before, after = grown(3), advanced(grown(3), 3)
    for old, held in zip(before.layers, after.layers, strict=True):
        np.testing.assert_array_equal(numbers(held.key)[:, :, :9], numbers(old.key)[:, :, :9])
        np.testing.assert_array_equal(numbers(held.value)[:, :, :9], numbers(old.value)[:, :, :9])


def test_reordering_moves_only_what_each_beam_sees_not_keys_or_values():
    before = advanced(empty(), 0)
    after = before.reorder(np.array([[2, 2, 0], [1, 0, 1]], "int32"))
    assert all(a is b for a, b in zip(after.layers, before.layers, strict=True))
    seen = np.argmax(numbers(after.visible)[:, :, :3], axis=2)  # each sees one
    np.testing.assert_array_equal(seen, [[2, 2, 0], [1, 0, 1]])


def test_a_cache_can_be_continued_in_two_ways():
    cache = grown(2)
    advanced(cache, 5)
    other, expected = advanced(cache, 3), advanced(grown(2), 3)
    for layer in range(2):
        np.testing.assert_array_equal(attended(other, layer), attended(expected, layer))


@TENSORFLOW_ONLY
def test_on_tensorflow_a_cache_has_only_the_slots_in_use():
    assert empty().layers[0].key.shape == (BATCH, 4, 0, 5)
    assert grown(4).layers[1].value.shape == (BATCH, 4, 4 * BEAMS, 9)


@TENSORFLOW_ONLY
def test_on_tensorflow_a_cache_grows_inside_a_loop_of_a_graph():
    import tensorflow as tf

    written = [
        KeyValues(*(np.stack(x) for x in zip(*(new(p, i) for p in range(4)), strict=True)))
        for i in range(2)
    ]

    @tf.function(autograph=False)
    def fill(parents):
        def advance(position, cache):
            cache, place = next_position(cache)
            layers = tuple(
                write(layer, KeyValues(*(tf.gather(x, position) for x in w)), place)
                for layer, w in zip(cache.layers, written, strict=True)
            )
            return position + 1, cache._replace(layers=layers).reorder(parents[position])

        return tf.while_loop(lambda p, _: p < tf.shape(parents)[0], advance, (0, empty()))[1]

    assert_holds(fill(PARENTS[:4]), 4)


@pytest.mark.skipif(ON_TENSORFLOW, reason="TensorFlow allocates nothing in advance")
def test_on_other_backends_a_cache_has_all_its_slots_from_the_start():
    for cache in (empty(), grown(4)):
        assert cache.layers[0].key.shape == (BATCH, 4, MAX_LENGTH * BEAMS, 5)
        assert cache.visible.shape == (BATCH, BEAMS, MAX_LENGTH * BEAMS)
    assert not np.any(numbers(grown(4).visible)[:, :, 4 * BEAMS :])


# Tidying up


def most_seen(length, sentences):
    """By hand from the lines of ancestors: slots that some hypothesis of a sentence sees."""
    return max(
        len({place for line in ancestors(length)[s] for place in enumerate(line)})
        for s in sentences
    )


@TENSORFLOW_ONLY
@pytest.mark.parametrize("sentences", [[0, 1], [1], [0], [1, 0]], ids=str)
@pytest.mark.parametrize("length", [1, 4, MAX_LENGTH])
def test_tidying_keeps_all_visible_slots_in_order(length, sentences):
    tidy = grown(length).with_room(np.array(sentences, "int32"), 2)
    assert_holds(tidy, length, sentences)


@TENSORFLOW_ONLY
@pytest.mark.parametrize("sentences", [[0, 1], [1], [0]], ids=str)
def test_tidying_drops_slots_that_no_hypothesis_sees_and_makes_room(sentences):
    tidy = grown(MAX_LENGTH).with_room(np.array(sentences, "int32"), 5)
    kept = int(tidy.num_filled)
    assert kept % BEAMS == 0
    # Full positions of the sentence that sees most; after 7 positions all share a beginning.
    assert 0 <= kept - most_seen(MAX_LENGTH, sentences) < BEAMS
    assert kept < MAX_LENGTH * BEAMS
    for layer in tidy.layers:
        assert layer.key.shape[2] == layer.value.shape[2] == kept + 5 * BEAMS
    assert tidy.visible.shape == (len(sentences), BEAMS, kept + 5 * BEAMS)
    assert not np.any(numbers(tidy.visible)[:, :, kept:])


@TENSORFLOW_ONLY
@pytest.mark.parametrize("sentences", [[0, 1], [1]], ids=str)
def test_attention_is_the_same_before_and_after_tidying(sentences):
    cache = grown(5)
    tidy = cache.with_room(np.array(sentences, "int32"), 2)
    for layer in range(2):
        np.testing.assert_allclose(
            attended(tidy, layer, sentences), attended(cache, layer)[sentences], atol=1e-6
        )


@TENSORFLOW_ONLY
def test_in_a_graph_tidying_an_empty_cache_makes_room():
    import tensorflow as tf

    cache = tf.function(lambda: empty().with_room(tf.range(BATCH), 2), autograph=False)()
    assert cache.layers[0].key.shape == (BATCH, 4, 2 * BEAMS, 5)
    assert int(cache.num_filled) == 0


@TENSORFLOW_ONLY
def test_a_tidied_cache_can_be_continued():
    tidy = grown(3).with_room(np.array([0, 1], "int32"), 0)
    assert_holds(grown(4, tidy, first=3), 7)


@TENSORFLOW_ONLY
def test_a_search_fills_the_free_slots_and_tidies_again():
    import tensorflow as tf

    @tf.function(autograph=False)
    def fill():
        everyone = tf.range(BATCH)
        cache = grown(4, empty().used_once().with_room(everyone, 4))
        cache = cache.with_room(everyone, 3)
        return grown(3, cache, first=4), tf.shape(cache.visible)[2]

    cache, num_slots = fill()
    assert_holds(cache, 7)
    assert cache.layers[0].key.shape[2] == num_slots  # it did not grow


# Writing in place


def test_nothing_is_written_in_place_unless_states_are_used_once():
    cache = empty()
    assert cache.grows == ON_TENSORFLOW
    assert not cache.used_once().grows
    after, _ = next_position(cache.used_once())
    assert not after.reorder(PARENTS[0]).grows  # it stays so in all later states
