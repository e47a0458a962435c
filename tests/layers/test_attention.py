import keras
import numpy as np
import pytest

from keras_transformer.layers.attention import (
    MultiHeadCrossAttention,
    MultiHeadSelfAttention,
    attention_weights,
    scaled_dot_product_attention,
)
from keras_transformer.layers.initializers import SideBySide
from keras_transformer.masks import causal_mask
from tests.random_models import (
    numbers,
    random_vectors,
    randomize,
    with_the_same_dropout,
)

E = np.e
BATCH, QUERY_LENGTH, KEY_LENGTH, MODEL_DIM, MEMORY_DIM = 2, 7, 5, 12, 10
SQUARE = 4  # as many heads as positions, where a mask's axes could be confused
WIDTHS = {"num_heads": 3, "head_dim": 4, "value_dim": 5}

pytestmark = pytest.mark.usefixtures("seeded")


def self_attention(**changes):
    layer = MultiHeadSelfAttention(**{**WIDTHS, **changes})
    layer.build((BATCH, QUERY_LENGTH, MODEL_DIM))
    return randomize(layer)


def cross_attention(**changes):
    layer = MultiHeadCrossAttention(**{**WIDTHS, **changes})
    layer.build((BATCH, QUERY_LENGTH, MODEL_DIM), (BATCH, KEY_LENGTH, MEMORY_DIM))
    return randomize(layer)


def inputs():
    return random_vectors(BATCH, QUERY_LENGTH, MODEL_DIM)


def memory():
    return random_vectors(BATCH, KEY_LENGTH, MEMORY_DIM, seed=8)


def mask(key_length=KEY_LENGTH):
    """Returns a random mask; each query may attend to the first key."""
    some = np.random.default_rng(9).random((BATCH, QUERY_LENGTH, key_length)) < 0.5
    some[:, :, 0] = True
    return some


# Equation 1


def test_scores_0_and_1_give_weights_1_and_e():
    query, key = np.array([[[1.0]]], "float32"), np.array([[[0.0], [1.0]]], "float32")
    weights = numbers(attention_weights(query, key))
    np.testing.assert_allclose(weights, [[[1 / (1 + E), E / (1 + E)]]], rtol=1e-6)


def test_scores_are_divided_by_the_root_of_head_dim():
    query = np.ones((1, 1, 4), "float32")
    key = np.stack([np.zeros(4), np.full(4, 0.5)])[None].astype("float32")
    # The products are 0 and 4 * 0.5 = 2; divided by sqrt(4) they are 0 and 1.
    weights = numbers(attention_weights(query, key))
    np.testing.assert_allclose(weights, [[[1 / (1 + E), E / (1 + E)]]], rtol=1e-6)


def test_equal_keys_share_the_weight():
    key = np.ones((BATCH, KEY_LENGTH, 4), "float32")
    weights = numbers(attention_weights(random_vectors(BATCH, QUERY_LENGTH, 4), key))
    np.testing.assert_allclose(weights, np.full((BATCH, QUERY_LENGTH, KEY_LENGTH), 1 / KEY_LENGTH))


def test_equal_keys_give_the_mean_of_the_values():
    key = np.ones((BATCH, KEY_LENGTH, 4), "float32")
    value = random_vectors(BATCH, KEY_LENGTH, 6)
    query = random_vectors(BATCH, QUERY_LENGTH, 4, seed=8)
    attended = numbers(scaled_dot_product_attention(query, key, value))
    expected = np.repeat(value.mean(axis=1, keepdims=True), QUERY_LENGTH, axis=1)
    np.testing.assert_allclose(attended, expected, atol=1e-6)


def test_the_only_key_gets_all_the_weight():
    weights = attention_weights(random_vectors(BATCH, QUERY_LENGTH, 4), np.ones((BATCH, 1, 4)))
    np.testing.assert_array_equal(numbers(weights), np.ones((BATCH, QUERY_LENGTH, 1)))


def test_weights_of_a_query_sum_to_1():
    query, key = random_vectors(BATCH, QUERY_LENGTH, 4), random_vectors(BATCH, KEY_LENGTH, 4)
    weights = numbers(attention_weights(query, key, mask()))
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)


def test_masked_keys_get_no_weight_and_the_others_share_it():
    key = np.ones((1, 4, 3), "float32")
    seen = np.array([[[True, False, True, False]]])
    weights = numbers(attention_weights(np.ones((1, 1, 3), "float32"), key, seen))
    np.testing.assert_allclose(weights, [[[0.5, 0, 0.5, 0]]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_query_with_every_key_masked_gets_equal_weights(dtype):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX computes float64 only where it is switched on for the whole process")
    query = keras.ops.cast(30 * random_vectors(1, 1, 4), dtype)
    key = keras.ops.cast(30 * random_vectors(1, KEY_LENGTH, 4, seed=8), dtype)
    weights = attention_weights(query, key, np.zeros((1, 1, KEY_LENGTH), bool))
    assert keras.backend.standardize_dtype(weights.dtype) == dtype
    weights = numbers(keras.ops.cast(weights, "float32"))
    np.testing.assert_allclose(weights, np.full((1, 1, KEY_LENGTH), 1 / KEY_LENGTH), rtol=4e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_masked_keys_no_weight(dtype):
    query = keras.ops.cast(np.full((1, 1, 4), 20.0), dtype)
    key = keras.ops.cast(np.array([[[0.0] * 4, [100.0] * 4, [0.0] * 4]]), dtype)
    weights = attention_weights(query, key, np.array([[[True, False, True]]]))
    np.testing.assert_array_equal(numbers(keras.ops.cast(weights, "float32")), [[[0.5, 0, 0.5]]])


def test_dropout_applies_between_the_weights_and_the_values():
    query, key, value = (random_vectors(BATCH, KEY_LENGTH, 4, seed=seed) for seed in (7, 8, 9))
    expected = 2 * numbers(scaled_dot_product_attention(query, key, value))
    doubled = scaled_dot_product_attention(query, key, value, dropout=lambda weights: 2 * weights)
    np.testing.assert_allclose(numbers(doubled), expected, rtol=1e-6)


def test_a_functional_model_can_use_it():
    query, key = keras.Input((2, 1, 4)), keras.Input((2, 7, 4))
    model = keras.Model([query, key], scaled_dot_product_attention(query, key, key))
    inputs = [random_vectors(3, 2, 1, 4), random_vectors(3, 2, 7, 4, seed=8)]
    expected = numbers(scaled_dot_product_attention(*inputs, inputs[1]))
    np.testing.assert_allclose(numbers(model(inputs)), expected, atol=1e-6)


# Masks of other ranks and dtypes


def layers_and_calls():
    """Yields layers and inputs with as many positions as heads, where masks are ambiguous."""
    x = random_vectors(BATCH, SQUARE, MODEL_DIM)
    yield randomized(MultiHeadSelfAttention(num_heads=SQUARE), x), (x,)
    yield randomized(MultiHeadCrossAttention(num_heads=SQUARE), x, x), (x, x[:, ::-1])


def randomized(layer, *inputs):
    layer.build(*(x.shape for x in inputs))
    return randomize(layer)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_mask_without_a_batch_axis_applies_to_every_sentence_and_head(rank):
    few_axes = np.tril(np.ones((SQUARE, SQUARE), bool))[(SQUARE - 2,) * (2 - rank)]
    all_axes = np.broadcast_to(few_axes, (BATCH, SQUARE, SQUARE))
    for layer, x in layers_and_calls():
        for ask in (layer, layer.attention_weights):
            expected = numbers(ask(*x, attention_mask=all_axes))
            found = numbers(ask(*x, attention_mask=few_axes))
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_in_a_numeric_mask_0_is_false(dtype):
    some = np.random.default_rng(9).random((BATCH, 1, SQUARE)) < 0.5
    some[:, :, 0] = True
    for layer, x in layers_and_calls():
        for ask in (layer, layer.attention_weights):
            expected = numbers(ask(*x, attention_mask=some))
            found = numbers(ask(*x, attention_mask=some.astype(dtype)))
            np.testing.assert_allclose(found, expected, atol=1e-6)


# Multi-head attention against Keras' own


def keras_attention(ours, query_key_value):
    """Returns keras.layers.MultiHeadAttention with the weights of one of our layers."""
    theirs = keras.layers.MultiHeadAttention(
        ours.num_heads,
        ours.key_width,
        ours.value_width,
        dropout=0.1,  # keeps Keras from using JAX's fused attention, which allows only one width
        use_bias=ours.use_bias,
    )
    query, key, value = query_key_value
    theirs.build(query.shape, value.shape, key.shape)
    heads, widths = ours.num_heads, (ours.key_width, ours.key_width, ours.value_width)
    projections = _separate(ours, [heads * width for width in widths])
    weights = []
    for (kernel, *bias), width in zip(projections, widths, strict=True):
        weights.append(kernel.reshape(-1, heads, width))
        weights += [b.reshape(heads, width) for b in bias]
    kernel, *bias = ours.output_projection.get_weights()
    weights += [kernel.reshape(heads, ours.value_width, -1), *bias]
    theirs.set_weights(weights)
    return theirs


def _separate(layer, widths):
    """Returns the kernels and biases of query, key and value, which our layers keep fused."""
    if isinstance(layer, MultiHeadSelfAttention):
        parts = [layer.query_key_value.get_weights()]
    else:
        parts = [layer.query_projection.get_weights(), layer.key_value.get_weights()]
    columns = [np.split(w, np.cumsum(widths)[:2], axis=-1) for w in parts[0]]
    if len(parts) == 1:
        return list(zip(*columns, strict=True))
    key_value = [np.split(w, [widths[1]], axis=-1) for w in parts[1]]
    return [parts[0], *zip(*key_value, strict=True)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("changes", [{}, {"value_dim": None}, {"use_bias": False}])
def test_self_attention_equals_keras_multi_head_attention(changes, masked):
    ours, x = self_attention(**changes), inputs()
    theirs = keras_attention(ours, (x, x, x))
    attention_mask = mask(QUERY_LENGTH) if masked else None
    expected = numbers(theirs(x, x, attention_mask=attention_mask))
    np.testing.assert_allclose(numbers(ours(x, attention_mask)), expected, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_equals_keras_multi_head_attention(masked):
    ours, query = cross_attention(), inputs()
    theirs = keras_attention(ours, (query, memory(), memory()))
    attention_mask = mask() if masked else None
    expected = numbers(theirs(query, memory(), attention_mask=attention_mask))
    output = ours(query, memory(), attention_mask)
    np.testing.assert_allclose(numbers(output), expected, atol=1e-5)


def test_the_width_of_a_head_follows_from_the_input():
    layer = MultiHeadSelfAttention(3)
    layer.build((None, None, MODEL_DIM))
    assert (layer.key_width, layer.value_width) == (MODEL_DIM // 3, MODEL_DIM // 3)


def test_value_dim_follows_head_dim():
    layer = MultiHeadSelfAttention(3, head_dim=7)
    layer.build((None, None, MODEL_DIM))
    assert (layer.key_width, layer.value_width) == (7, 7)


# What attention can and cannot see


def test_self_attention_ignores_the_order_of_keys():
    layer, x = self_attention(), inputs()
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    permuted = numbers(layer(x[:, order]))
    np.testing.assert_allclose(permuted, numbers(layer(x))[:, order], atol=1e-5)


def test_masked_keys_change_nothing():
    layer, seen = cross_attention(), mask()
    seen[:, :, 2:] = False
    changed = memory()
    changed[:, 2:] = 1e4
    output = numbers(layer(inputs(), memory(), seen))
    np.testing.assert_array_equal(numbers(layer(inputs(), changed, seen)), output)


def test_attention_weights_are_the_weights_of_the_sum_over_values():
    layer, x = self_attention(), inputs()
    weights = numbers(layer.attention_weights(x, mask(QUERY_LENGTH)))
    kernel, bias = (w[..., -15:] for w in layer.query_key_value.get_weights())  # 3 heads of 5
    value = (x @ kernel + bias).reshape(BATCH, QUERY_LENGTH, 3, 5)
    attended = np.einsum("bhqk,bkhv->bqhv", weights, value).reshape(BATCH, QUERY_LENGTH, 15)
    kernel, bias = layer.output_projection.get_weights()
    output = numbers(layer(x, mask(QUERY_LENGTH)))
    np.testing.assert_allclose(output, attended @ kernel + bias, atol=1e-5)


def test_cross_attention_weights_are_zero_at_masked_keys():
    weights = numbers(cross_attention().attention_weights(inputs(), memory(), mask()))
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    unseen = np.repeat(~mask()[:, None], 3, axis=1)
    assert np.all(weights[unseen] == 0)
    assert np.all(weights[~unseen] > 0)


# Dropout and weights


def test_dropout_applies_to_the_weights():
    layer = self_attention(dropout=0.999999)
    _, bias = layer.output_projection.get_weights()
    dropped = numbers(layer(inputs(), training=True))
    np.testing.assert_allclose(dropped, np.broadcast_to(bias, dropped.shape), atol=1e-6)


def test_dropout_applies_where_call_is_called_directly():
    layer = self_attention(dropout=0.999999)
    _, bias = layer.output_projection.get_weights()
    dropped = numbers(layer.call(inputs(), training=True))
    np.testing.assert_allclose(dropped, np.broadcast_to(bias, dropped.shape), atol=1e-6)


def test_dropout_is_off_outside_training():
    with_dropout, without = self_attention(dropout=0.5), self_attention()
    np.testing.assert_array_equal(
        numbers(with_dropout(inputs(), training=False)), numbers(without(inputs()))
    )


def test_later_positions_change_no_earlier_output_while_dropout_is_on():
    layer = self_attention(dropout=0.5)
    changed = inputs()
    changed[:, 4:] = 3.0
    seen = causal_mask(QUERY_LENGTH)
    first, second, without_mask = with_the_same_dropout(
        layer,
        [
            lambda: layer(inputs(), seen, training=True),
            lambda: layer(changed, seen, training=True),
            lambda: layer(changed, training=True),
        ],
    )
    np.testing.assert_array_equal(first[:, :4], second[:, :4])
    assert not np.allclose(first[:, 4:], second[:, 4:])
    assert not np.allclose(first[:, :4], without_mask[:, :4])


def fused_parts(initializer):
    layer = MultiHeadSelfAttention(4, kernel_initializer=initializer)
    layer.build((None, None, 48))
    return np.split(numbers(layer.query_key_value.kernel), 3, axis=-1)


def test_each_fused_part_has_the_glorot_limit_of_its_own_matrix():
    limit = np.sqrt(6 / (48 + 48))  # the fused matrix would have sqrt(6 / (48 + 144))
    for part in fused_parts("glorot_uniform"):
        # The largest of 48 * 48 uniform numbers is below 0.98 of the limit once in 10**20 times.
        assert 0.98 * limit < np.abs(part).max() <= limit


@pytest.mark.parametrize(
    "initializer", ["glorot_uniform", keras.initializers.GlorotUniform(seed=3)], ids=["", "seed"]
)
def test_fused_parts_are_initialized_one_by_one(initializer):
    query, key, value = fused_parts(initializer)
    for one, other in [(query, key), (query, value), (key, value)]:
        assert not np.any(one == other)


def test_same_seed_gives_the_same_weights():
    first = fused_parts(keras.initializers.GlorotUniform(seed=3))
    second = fused_parts(keras.initializers.GlorotUniform(seed=3))
    np.testing.assert_array_equal(first, second)


def test_side_by_side_keeps_its_options():
    initializer = SideBySide(keras.initializers.Constant(2.5), [3, 4])
    copy = SideBySide.from_config(initializer.get_config())
    np.testing.assert_array_equal(numbers(copy((5, 7))), np.full((5, 7), 2.5))
    assert copy.widths == (3, 4)


# As a Keras layer


def test_self_attention_passes_keras_layer_test():
    testing = pytest.importorskip("keras.src.testing", exc_type=ImportError)
    testing.TestCase().run_layer_test(
        MultiHeadSelfAttention,
        init_kwargs={**WIDTHS, "dropout": 0.2},
        input_shape=(BATCH, QUERY_LENGTH, MODEL_DIM),
        expected_output_shape=(BATCH, QUERY_LENGTH, MODEL_DIM),
        expected_num_trainable_weights=4,
        expected_num_seed_generators=1,
    )


def test_cross_attention_passes_keras_layer_test():
    testing = pytest.importorskip("keras.src.testing", exc_type=ImportError)
    testing.TestCase().run_layer_test(
        MultiHeadCrossAttention,
        init_kwargs={**WIDTHS, "use_bias": False},
        input_shape={
            "query_shape": (BATCH, QUERY_LENGTH, MODEL_DIM),
            "memory_shape": (BATCH, KEY_LENGTH, MEMORY_DIM),
        },
        expected_output_shape=(BATCH, QUERY_LENGTH, MODEL_DIM),
        expected_num_trainable_weights=3,
        run_training_check=False,
    )


@pytest.mark.parametrize("layer_class", [MultiHeadSelfAttention, MultiHeadCrossAttention])
@pytest.mark.parametrize("name", ["num_heads", "head_dim", "value_dim"])
def test_sizes_start_at_one(layer_class, name):
    with pytest.raises(ValueError, match=rf"{name} must be at least 1\. Received: {name}=0\."):
        layer_class(**{**WIDTHS, name: 0})


def test_an_input_width_that_heads_do_not_divide_is_refused():
    message = r"multiple of num_heads.* Received: last axis 10, num_heads=3\. .* 9 or 12, or give"
    with pytest.raises(ValueError, match=message):
        MultiHeadSelfAttention(3)(np.ones((2, 5, 10), "float32"))
    with pytest.raises(ValueError, match=message):
        MultiHeadCrossAttention(3)(np.ones((2, 7, 10), "float32"), np.ones((2, 5, 12), "float32"))
