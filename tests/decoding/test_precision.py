import copy
import pickle
import platform

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.decoding.precision import (
    PRECISIONS,
    FewRowsProduct,
    FixedNormalization,
    Int8Product,
    PanelProduct,
    Product,
    inference_model,
)
from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.model import Transformer
from tests.random_models import (
    END,
    ON_TENSORFLOW,
    START,
    TENSORFLOW_ONLY,
    numbers,
    random_ids,
    random_transformer,
    random_vectors,
    small_config,
)

INPUTS, OUTPUTS, ROWS = 23, 17, 7

pytestmark = pytest.mark.skipif(
    ON_TENSORFLOW and platform.machine() not in ("x86_64", "AMD64"),
    reason="TensorFlow multiplies 8 bits on x86 processors only",
)


def with_policy(policy, **changes):
    keras.config.set_dtype_policy(policy)
    try:
        return random_transformer(small_config(**changes))
    finally:
        keras.config.set_dtype_policy("float32")


def ids():
    source, target = random_ids(2, 5), random_ids(2, 7, seed=8)
    source[:, -1], target[:, 0] = END, START
    source[0, 2:] = [END, 0, 0]
    return {"source_ids": source, "target_ids": target}


# float32


@pytest.mark.parametrize("normalize_first", [False, True], ids=["post", "pre"])
def test_the_float32_copy_of_a_model_trained_in_bfloat16_equals_the_float32_model(normalize_first):
    changes = {"normalize_first": normalize_first, "position_encoding": "learned"}
    trained = with_policy("mixed_bfloat16", **changes)
    model, expected = inference_model(trained, "float32"), with_policy("float32", **changes)
    for weight, same in zip(trained.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)
    np.testing.assert_allclose(numbers(model(ids())), numbers(expected(ids())), atol=1e-6)
    assert not np.allclose(numbers(trained(ids())), numbers(expected(ids())), atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_copy_can_search_and_leaves_the_model_unchanged(precision):
    model = with_policy("float32")
    before = numbers(model(ids()))
    copy = inference_model(model, precision)
    assert isinstance(copy, Transformer)
    assert not copy.trainable_weights
    assert model.trainable_weights
    encode, initial_state, step = decoding_steps(copy)
    state = initial_state(encode(ids()["source_ids"]), 3, max_length=2)
    logits, _ = step(np.full((2, 3), START), state)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    first = numbers(copy(ids()))[:, :1]
    # 8 bits and half precision round differently in rows on their own.
    tolerance = 1e-5 if precision == "float32" else 0.1 * np.std(first)
    np.testing.assert_allclose(numbers(logits), np.repeat(first, 3, axis=1), atol=tolerance)
    model.set_weights([0 * weight for weight in model.get_weights()])
    np.testing.assert_array_equal(numbers(copy(ids()))[:, :1], first)
    assert not np.allclose(numbers(model(ids())), before)


def test_unknown_precision_is_refused():
    message = r"one of \('float32', .*'int8_bfloat16'\)\. Received: precision='int4'\. Choose"
    with pytest.raises(ValueError, match=message):
        inference_model(with_policy("float32"), "int4")


@TENSORFLOW_ONLY
@pytest.mark.parametrize(
    ("outputs", "panels", "width"),
    [(64, 1, 64), (128, 2, 64), (160, 2, 80), (96, 1, 96), (100, 2, 64), (3, 1, 64)],
)
@pytest.mark.parametrize("shape", [(ROWS, INPUTS), (1, INPUTS), (0, INPUTS), (2, ROWS, INPUTS)])
def test_a_product_in_panels_is_the_product(shape, outputs, panels, width):
    generator = np.random.default_rng(3)
    kernel = generator.normal(size=(INPUTS, outputs)).astype("float32")
    bias = generator.normal(size=outputs).astype("float32")
    x = generator.normal(size=shape).astype("float32")
    product = PanelProduct(ops.convert_to_tensor(kernel), ops.convert_to_tensor(bias))
    assert product.kernel.shape == (panels, INPUTS, width)
    np.testing.assert_allclose(numbers(product(x)), x @ kernel + bias, atol=1e-5)
    product = PanelProduct(ops.convert_to_tensor(kernel), None, keras.activations.relu)
    np.testing.assert_allclose(numbers(product(x)), np.maximum(x @ kernel, 0), atol=1e-5)


@TENSORFLOW_ONLY
def test_a_product_in_panels_takes_any_number_of_rows():
    import tensorflow as tf

    generator = np.random.default_rng(3)
    kernel = generator.normal(size=(INPUTS, 100)).astype("float32")
    product = PanelProduct(ops.convert_to_tensor(kernel))
    spec = [tf.TensorSpec([None, INPUTS], tf.float32)]
    in_graph = tf.function(product, input_signature=spec, autograph=False)
    for rows in (0, 1, 2, 5):
        x = generator.normal(size=(rows, INPUTS)).astype("float32")
        np.testing.assert_allclose(numbers(in_graph(x)), x @ kernel, atol=1e-5)


@pytest.mark.parametrize("shape", [(ROWS, INPUTS), (1, INPUTS), (0, INPUTS), (2, ROWS, INPUTS)])
def test_a_product_of_few_rows_is_the_product(shape):
    generator = np.random.default_rng(3)
    kernel = keras.Variable(generator.normal(size=(INPUTS, 5)), dtype="float32")
    bias = keras.Variable(np.ones(5), dtype="float32")
    x = generator.normal(size=shape).astype("float32")
    product = FewRowsProduct(kernel, bias, keras.activations.relu)
    assert product.kernel is kernel  # no second one in memory
    np.testing.assert_allclose(
        numbers(product(x)), np.maximum(x @ numbers(kernel) + 1, 0), atol=1e-5
    )


@TENSORFLOW_ONLY
def test_float32_uses_panels_for_large_kernels_and_keeps_the_logits():
    changes = {"num_layers": 1, "model_dim": 256, "feed_forward_dim": 2048, "vocabulary_size": 2100}
    model = random_transformer(small_config(**changes))
    copy = inference_model(model, "float32")
    for block in (*copy.encoder_blocks, *copy.decoder_blocks):
        assert isinstance(block.feed_forward.inner, PanelProduct)
        assert isinstance(block.feed_forward.outer, PanelProduct)
        assert isinstance(block.self_attention.query_key_value, FewRowsProduct)
    assert isinstance(copy.embedding.logits.product, PanelProduct)
    np.testing.assert_allclose(numbers(copy(ids())), numbers(model(ids())), atol=1e-4)


@TENSORFLOW_ONLY
def test_float32_uses_the_usual_product_for_large_kernels_with_few_inputs():
    changes = {"num_layers": 1, "model_dim": 64, "feed_forward_dim": 8192, "vocabulary_size": 9000}
    copy = inference_model(random_transformer(small_config(**changes)), "float32")
    for block in copy.decoder_blocks:
        assert isinstance(block.feed_forward.inner, keras.layers.Dense)
        assert isinstance(block.feed_forward.outer, PanelProduct)
    assert type(copy.embedding.logits.product) is Product


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_normalization_with_constants_equals_the_layer(dtype):
    layer = LayerNormalization(epsilon=1e-6, dtype=dtype)
    layer.build((None, INPUTS))
    generator = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(generator.normal(size=INPUTS))
    x = ops.cast(generator.normal(size=(ROWS, INPUTS)), dtype)
    output, expected = FixedNormalization(layer)(x), layer(x)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    np.testing.assert_array_equal(*(numbers(ops.cast(y, "float32")) for y in (output, expected)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_normalizations_inside_blocks_become_constants(precision):
    copy = inference_model(with_policy("float32"), precision)
    for block in (*copy.encoder_blocks, *copy.decoder_blocks):
        assert isinstance(block.feed_forward_residual.normalization, FixedNormalization)


# bfloat16


def test_bfloat16_keeps_8_bits_of_each_weight_and_gives_float32_logits():
    model = with_policy("float32")
    copy = inference_model(model, "bfloat16")
    for weight, rounded in zip(model.get_weights(), copy.get_weights(), strict=True):
        if weight.dtype == np.float32:
            assert rounded.dtype.name == "bfloat16"
            # 8 bits, the first of which is always 1: rounding changes at most 1 part in 2 ** 8.
            assert np.all(np.abs(rounded.astype("float32") - weight) <= 2**-8 * np.abs(weight))
    logits = copy(ids())
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    expected = numbers(model(ids()))
    assert 0 < np.abs(numbers(logits) - expected).max() < 0.1 * np.abs(expected).max()


# 8 bits


def whole_numbers(*shape, limit, seed=7):
    return np.random.default_rng(seed).integers(-limit, limit + 1, shape).astype("float32")


def whole_rows_and_kernel():
    """Returns whole numbers with a maximum of 127 per row and column, so nothing is rounded.

    Processors without instructions for 8 bits add up two products in 16 bits: 255 * 127 and
    2 * 255 * 63 fit into them.
    """
    rows, kernel = whole_numbers(ROWS, INPUTS, limit=126), whole_numbers(INPUTS, OUTPUTS, limit=63)
    rows[np.arange(ROWS), np.arange(ROWS)] = np.where(np.arange(ROWS) % 2, 127, -127)
    kernel[0], kernel[1] = np.where(np.arange(OUTPUTS) % 3, -127, 127), 0
    return rows, kernel


def test_the_product_of_whole_numbers_is_exact():
    rows, kernel = whole_rows_and_kernel()
    np.testing.assert_array_equal(numbers(Int8Product(kernel)(rows)), rows @ kernel)


def test_each_row_and_each_output_has_a_scale_of_its_own():
    rows, kernel = whole_rows_and_kernel()
    row_scale = 2.0 ** np.arange(-3, ROWS - 3, dtype="float32")[:, None]
    output_scale = 2.0 ** np.arange(-8, OUTPUTS - 8, dtype="float32")
    product = Int8Product(kernel * output_scale)(rows * row_scale)
    expected = row_scale * (rows @ kernel) * output_scale
    np.testing.assert_allclose(numbers(product), expected, rtol=1e-6)


@pytest.mark.parametrize("inputs", [1, 2, 3, INPUTS, 512])
def test_the_error_is_within_the_bound_of_rounding_to_8_bits(inputs):
    """|x . w - x' . w'| <= c / 2 sum |x| + a / 2 sum |w'|, and |w'| <= |w| + c / 2.

    For each x_k is off by at most a / 2 = max |x| / 254, each w_k by at most c / 2 = max |w| / 254.
    """
    x = -np.abs(random_vectors(200, inputs))  # then two products fit into 16 bits: 2 * 128 * 127
    kernel = random_vectors(inputs, OUTPUTS, seed=8)
    a = np.abs(x).max(axis=1, keepdims=True) / 127
    c = np.abs(kernel).max(axis=0) / 127
    size_of_x = np.abs(x).sum(axis=1, keepdims=True)
    size_of_kernel = (np.abs(kernel) + c / 2).sum(axis=0)
    bound = c / 2 * size_of_x + a / 2 * size_of_kernel
    error = np.abs(numbers(Int8Product(kernel)(x)) - x.astype("float64") @ kernel)
    assert np.all(error <= bound * (1 + 1e-5) + 1e-6)
    # In large sums, errors of both signs cancel: about bound / sqrt(inputs) is left.
    assert np.mean(error / bound) < 2 / np.sqrt(inputs)


def test_a_row_does_not_depend_on_the_others_bit_for_bit():
    kernel, bias = random_vectors(INPUTS, OUTPUTS), random_vectors(OUTPUTS, seed=8)
    product = Int8Product(kernel, bias, keras.activations.gelu)
    x = random_vectors(ROWS, INPUTS, seed=9) * 10.0 ** np.arange(-3, ROWS - 3)[:, None]
    x = x.astype("float32")
    together = numbers(product(x))
    for row in range(ROWS):
        np.testing.assert_array_equal(numbers(product(x[row : row + 1]))[0], together[row])
    np.testing.assert_array_equal(numbers(product(x[::-1])), together[::-1])


def test_rows_and_columns_of_zeros_give_only_the_bias():
    kernel, bias = random_vectors(INPUTS, OUTPUTS), random_vectors(OUTPUTS, seed=8)
    kernel[:, 3] = 0
    x = random_vectors(ROWS, INPUTS, seed=9)
    x[2], x[4] = 0, 1e-38
    output = numbers(Int8Product(kernel, bias)(x))
    np.testing.assert_allclose(output[[2, 4]], [bias, bias], rtol=1e-6)
    np.testing.assert_array_equal(output[:, 3], np.full(ROWS, bias[3]))


def test_the_bias_is_added_before_the_activation():
    rows, kernel = whole_rows_and_kernel()
    bias = random_vectors(OUTPUTS, seed=8)
    output = numbers(Int8Product(kernel, bias, keras.activations.relu)(rows))
    np.testing.assert_allclose(output, np.maximum(rows @ kernel + bias, 0), rtol=1e-6, atol=1e-6)


def test_all_axes_except_the_last_are_kept():
    rows, kernel = whole_rows_and_kernel()
    x = np.stack([rows, -rows, rows[::-1]])
    np.testing.assert_array_equal(numbers(Int8Product(kernel)(x)), x @ kernel)


@TENSORFLOW_ONLY
def test_the_product_is_the_same_in_a_graph_of_unknown_shapes():
    import tensorflow as tf

    kernel = random_vectors(INPUTS, OUTPUTS)
    product = Int8Product(kernel)
    spec = [tf.TensorSpec([None, None, INPUTS], tf.float32)]
    in_graph = tf.function(product.__call__, input_signature=spec, autograph=False)
    x = random_vectors(2, ROWS, INPUTS, seed=8)
    together = numbers(in_graph(x))
    np.testing.assert_allclose(together, numbers(product(x)), rtol=1e-6, atol=1e-6)
    for row in range(ROWS):
        np.testing.assert_array_equal(
            numbers(in_graph(x[:, row : row + 1]))[:, 0], together[:, row]
        )


def test_large_maps_are_rounded_and_small_ones_are_not():
    # 64 * 1024 = 2 ** 16 weights in the feed-forward network, 64 * 192 in attention.
    model = random_transformer(
        small_config(
            vocabulary_size=1024,
            num_layers=1,
            model_dim=64,
            feed_forward_dim=1024,
            head_dim=None,
            value_dim=None,
            num_heads=4,
        )
    )
    copy = inference_model(model, "int8")
    for blocks in (copy.encoder_blocks, copy.decoder_blocks):
        [block] = blocks
        assert isinstance(block.feed_forward.inner, Int8Product)
        assert isinstance(block.feed_forward.outer, Int8Product)
        assert not isinstance(block.self_attention.query_key_value, Int8Product)
        assert not isinstance(block.self_attention.output_projection, Int8Product)
    assert isinstance(copy.embedding.logits.product, Int8Product)
    logits, expected = numbers(copy(ids())), numbers(model(ids()))
    assert 0 < np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()
    assert isinstance(model.decoder_blocks[0].feed_forward.inner, keras.layers.Dense)


def test_with_8_bits_and_bfloat16_only_attention_is_in_bfloat16():
    model = with_policy("float32")
    copy = inference_model(model, "int8_bfloat16")
    encode, initial_state, _ = decoding_steps(copy)
    state = initial_state(encode(ids()["source_ids"]), 3, max_length=2)
    for kept in (*state.cache.layers, *state.per_sentence.layers):
        assert [keras.backend.standardize_dtype(x.dtype) for x in kept] == ["bfloat16"] * 2
    # The linear maps are too small for 8 bits, so only attention is rounded.
    logits, same_maps = numbers(copy(ids())), numbers(inference_model(model, "int8")(ids()))
    np.testing.assert_allclose(same_maps, numbers(model(ids())), atol=1e-5)
    assert 1e-4 < np.abs(logits - same_maps).max() < 0.05 * np.abs(same_maps).max()
    output = numbers(model(ids()))
    np.testing.assert_allclose(output, numbers(with_policy("float32")(ids())), atol=1e-6)


# Files


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "write",
    [
        lambda model, folder: model.save(folder / "file.keras"),
        lambda model, folder: keras.saving.save_model(model, folder / "file.keras"),
        lambda model, folder: model.save_weights(folder / "file.weights.h5"),
        lambda model, folder: copy.deepcopy(model),
        lambda model, folder: pickle.dumps(model),
    ],
    ids=["save", "save_model", "save_weights", "deepcopy", "pickle"],
)
def test_a_copy_refuses_to_be_saved(precision, write, tmp_path):
    fast = inference_model(with_policy("float32", num_layers=1), precision)
    message = r"must not come from inference_model\. Received: .*\. Use the original model"
    with pytest.raises(TypeError, match=message):
        write(fast, tmp_path)


def test_a_refused_copy_leaves_an_existing_file_as_it_was(tmp_path):
    model = with_policy("float32", num_layers=1)
    model.save(tmp_path / "file.keras")
    before = (tmp_path / "file.keras").read_bytes()
    with pytest.raises(TypeError, match="must not come from inference_model"):
        inference_model(model, "float32").save(tmp_path / "file.keras")
    assert (tmp_path / "file.keras").read_bytes() == before


def test_a_subclass_of_the_embedding_stays_what_it_is():
    class Shifted(PositionalEmbedding):
        def __init__(self, shift, **kwargs):
            super().__init__(**kwargs)
            self.shift = shift

        def call(self, inputs, reverse=False, training=None):
            return super().call(inputs, reverse=reverse, training=training) + self.shift

        def get_config(self):
            return {**super().get_config(), "shift": self.shift}

    ids = keras.Input((None,), dtype="int32")
    embedding = Shifted(3.0, vocabulary_size=23, model_dim=12, name="embedding")
    model = keras.Model(ids, embedding(embedding(ids), reverse=True))
    fast = inference_model(model, "float32")
    assert type(fast.get_layer("embedding")) is Shifted
    tokens = random_ids(2, 5)
    np.testing.assert_allclose(numbers(fast(tokens)), numbers(model(tokens)), rtol=1e-5)
