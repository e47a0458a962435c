import numpy as np
import pytest
from keras import ops

from keras_transformer.decoding.attention import (
    cross_attention_step,
    project_memory,
    self_attention_step,
)
from keras_transformer.decoding.cache import empty_cache, next_position
from keras_transformer.decoding.head_order import head_order
from keras_transformer.layers.attention import MultiHeadCrossAttention, MultiHeadSelfAttention
from keras_transformer.masks import causal_mask
from tests.random_models import TENSORFLOW_ONLY, numbers, random_vectors, randomize

BATCH, LENGTH, SOURCE_LENGTH, MODEL_DIM, MEMORY_DIM = 2, 7, 5, 12, 10

pytestmark = pytest.mark.usefixtures("seeded")


def self_attention(value_dim=5):
    layer = MultiHeadSelfAttention(num_heads=3, head_dim=4, value_dim=value_dim)
    layer.build((BATCH, LENGTH, MODEL_DIM))
    return randomize(layer)


def cross_attention():
    layer = MultiHeadCrossAttention(num_heads=3, head_dim=4, value_dim=5)
    layer.build((BATCH, LENGTH, MODEL_DIM), (BATCH, SOURCE_LENGTH, MEMORY_DIM))
    return randomize(layer)


def step(layer, rows, cache):
    cache, place = next_position(cache)
    output, held = self_attention_step(layer, rows, cache.layers[0], place, cache.visible)
    return output, cache._replace(layers=(held,))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("value_dim", [4, 5])  # as wide as a key, or wider
def test_steps_of_self_attention_equal_the_causal_call(beams, value_dim):
    layer = self_attention(value_dim)
    x = random_vectors(BATCH * beams, LENGTH, MODEL_DIM)
    expected = numbers(layer(x, causal_mask(LENGTH)))
    cache = empty_cache(BATCH, beams, [(3, 4, value_dim)], LENGTH, "float32")
    for position in range(LENGTH):
        output, cache = step(layer, x[:, position], cache)
        np.testing.assert_allclose(numbers(output), expected[:, position], atol=1e-5)


def test_a_step_of_self_attention_sees_only_what_is_visible():
    layer = self_attention()
    x = random_vectors(BATCH, 2, 3, MODEL_DIM)  # two positions of three hypotheses
    cache = empty_cache(BATCH, 3, [(3, 4, 5)], 2, "float32")
    _, cache = step(layer, x[:, 0].reshape(-1, MODEL_DIM), cache)
    cache = cache.reorder(np.array([[1, 1, 0]] * BATCH, "int32"))
    output, _ = step(layer, x[:, 1].reshape(-1, MODEL_DIM), cache)
    parents = x[:, 0, [1, 1, 0]]
    rows = np.stack([parents, x[:, 1]], axis=2).reshape(BATCH * 3, 2, MODEL_DIM)
    np.testing.assert_allclose(numbers(output), numbers(layer(rows))[:, 1], atol=1e-5)


@pytest.mark.parametrize("beams", [1, LENGTH])
def test_a_step_of_cross_attention_equals_the_call(beams):
    layer = cross_attention()
    query = random_vectors(BATCH, beams, MODEL_DIM)
    memory = random_vectors(BATCH, SOURCE_LENGTH, MEMORY_DIM, seed=8)
    seen = np.array([[[1, 0, 1, 1, 0]], [[1, 1, 0, 0, 1]]], bool)  # by every hypothesis
    expected = numbers(layer(query, memory, seen)).reshape(BATCH * beams, MODEL_DIM)
    rows = query.reshape(BATCH * beams, MODEL_DIM)
    for order in (None, head_order(BATCH, layer.num_heads, beams)):
        projected = project_memory(layer, memory)
        output = cross_attention_step(layer, rows, beams, projected, seen, order)
        np.testing.assert_allclose(numbers(output), expected, atol=1e-6)


def test_heads_have_the_same_order_as_after_a_transposition():
    batch, heads, beams = 2, 3, 4
    order = head_order(batch, heads, beams)
    rows = np.arange(batch * beams * heads)
    by_beams = rows.reshape(batch, beams, heads)
    np.testing.assert_array_equal(numbers(order.heads_first), by_beams.transpose(0, 2, 1))
    by_heads = rows.reshape(batch, heads, beams)
    np.testing.assert_array_equal(numbers(order.beams_first), by_heads.transpose(0, 2, 1))
    parts = np.arange(3 * len(rows)).reshape(batch, beams, 3, heads)
    np.testing.assert_array_equal(numbers(order.parts_first), parts.transpose(2, 0, 3, 1))


@TENSORFLOW_ONLY
@pytest.mark.parametrize(("beams", "products"), [(1, "BatchMatMulV3"), (3, "BatchMatMulV2")])
def test_a_single_hypothesis_uses_the_product_for_few_rows(beams, products):
    import tensorflow as tf

    layer = cross_attention()

    def output(rows, memory, seen):
        return cross_attention_step(layer, rows, beams, project_memory(layer, memory), seen)

    specs = [
        tf.TensorSpec([None, MODEL_DIM]),
        tf.TensorSpec([None, None, MEMORY_DIM]),
        tf.TensorSpec([None, 1, None], "bool"),
    ]
    graph = tf.function(output, autograph=False).get_concrete_function(*specs).graph
    found = [op.type for op in graph.get_operations() if op.type.startswith("BatchMatMul")]
    assert found == [products] * 2


def test_the_only_slot_gets_all_the_weight():
    layer = self_attention()
    rows = random_vectors(BATCH, MODEL_DIM)
    output, _ = step(layer, rows, empty_cache(BATCH, 1, [(3, 4, 5)], 1, "float32"))
    value = numbers(layer.query_key_value(rows))[:, -15:]  # 3 heads of 5
    expected = numbers(layer.output_projection(ops.convert_to_tensor(value)))
    np.testing.assert_allclose(numbers(output), expected, atol=1e-6)
