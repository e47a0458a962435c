"""Layer normalization with its own gradient equals Keras', forward and backward."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.layers.normalization import LayerNormalization
from tests.random_models import (
    ON_TENSORFLOW,
    TENSORFLOW_ONLY,
    numbers,
    random_ids,
    random_transformer,
    random_vectors,
    randomize,
    small_config,
)

SHAPE = (2, 5, 12)
ROWS, WIDTH = 10, 12

FLOAT64 = pytest.param(
    "float64", marks=pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX has none unless told to")
)
# The tolerance between two results: a few of the dtype's last digits.
TOLERANCE = {"float32": 1e-5, "float64": 1e-5, "float16": 1e-2}
TOLERANCE |= {"mixed_float16": 1e-2, "bfloat16": 5e-2, "mixed_bfloat16": 5e-2}


def layer_of(kind, shape=SHAPE, **options):
    layer = kind(**{"epsilon": 1e-6, **options})
    layer.build(shape)
    return randomize(layer)


def gradients(layer, x, upstream):
    """Returns the gradients of sum(upstream * layer(x)): the steps of descent with rate 1."""
    table = keras.layers.Embedding(ROWS, WIDTH)
    ids = keras.Input((SHAPE[1],), dtype="int32")
    model = keras.Model(ids, layer(table(ids)))
    table.set_weights([x.reshape(ROWS, WIDTH)])
    model.compile(keras.optimizers.SGD(1.0), loss=lambda up, y: ops.sum(up * y) / SHAPE[0])
    before = model.get_weights()
    # Keras' losses are means over the function's result, which is one number.
    model.train_on_batch(np.arange(ROWS).reshape(SHAPE[:2]), upstream)
    return [old - new for old, new in zip(before, model.get_weights(), strict=True)]


def test_the_gradient_equals_the_formula():
    x, upstream = random_vectors(*SHAPE), random_vectors(*SHAPE, seed=8) / 7
    layer = layer_of(LayerNormalization)
    gamma, _ = layer.get_weights()
    found = [gradient * SHAPE[0] for gradient in gradients(layer, x, upstream)]

    deviation = np.sqrt(x.var(-1) + 1e-6)[..., None]
    normalized = (x - x.mean(-1, keepdims=True)) / deviation
    # Each y[i] depends on each x[j]: gamma[i] * ((i == j) - 1 / n - n[i] * n[j] / n) / deviation.
    jacobian = np.eye(WIDTH) - 1 / WIDTH
    jacobian = jacobian - normalized[..., :, None] * normalized[..., None, :] / WIDTH
    jacobian *= gamma[:, None] / deviation[..., None]  # (batch, length, i, j)
    expected = [
        np.einsum("bli,blij->blj", upstream, jacobian).reshape(ROWS, WIDTH),
        (upstream * normalized).sum((0, 1)),
        upstream.sum((0, 1)),
    ]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", FLOAT64, "mixed_bfloat16", "mixed_float16"])
def test_values_and_gradients_equal_those_of_keras(policy):
    x, upstream = random_vectors(*SHAPE), random_vectors(*SHAPE, seed=8)
    ours = layer_of(LayerNormalization, dtype=policy)
    theirs = layer_of(keras.layers.LayerNormalization, dtype=policy)
    assert ours(x).dtype == theirs(x).dtype
    pairs = [(ours(x), theirs(x))]
    pairs += zip(gradients(ours, x, upstream), gradients(theirs, x, upstream), strict=True)
    for our, their in pairs:
        our, their = [numbers(ops.cast(value, "float32")) for value in (our, their)]
        np.testing.assert_allclose(our, their, rtol=TOLERANCE[policy], atol=TOLERANCE[policy])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    """The square of 600 overflows float16; 600 and 602 are the same in bfloat16."""
    layer = LayerNormalization(epsilon=1e-6, dtype=dtype)
    y = layer(ops.cast([[600.0, -600.0, 600.0, -600.0]], dtype))
    np.testing.assert_allclose(numbers(ops.cast(y, "float32")), [[1, -1, 1, -1]], rtol=1e-2)


def test_equal_numbers_give_the_shift_and_finite_gradients():
    layer = layer_of(LayerNormalization)
    _, beta = layer.get_weights()
    x = np.full(SHAPE, 3.0, "float32")
    np.testing.assert_allclose(numbers(layer(x)), np.broadcast_to(beta, SHAPE), atol=1e-5)
    for gradient in gradients(layer, x, random_vectors(*SHAPE)):
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    "options", [{"axis": 1}, {"axis": [1, 2]}, {"center": False}, {"scale": False}], ids=str
)
def test_rare_options_work_as_in_keras(options):
    x = random_vectors(*SHAPE)
    ours = layer_of(LayerNormalization, **options)
    theirs = layer_of(keras.layers.LayerNormalization, **options)
    np.testing.assert_allclose(numbers(ours(x)), numbers(theirs(x)), atol=1e-5)


def test_the_last_axis_may_be_counted_from_the_front():
    x = random_vectors(*SHAPE)
    last = layer_of(LayerNormalization, axis=2)
    np.testing.assert_array_equal(numbers(last(x)), numbers(layer_of(LayerNormalization)(x)))


@TENSORFLOW_ONLY
def test_it_compiles_with_xla():
    import tensorflow as tf

    layer, x = layer_of(LayerNormalization), tf.constant(random_vectors(*SHAPE))

    def value_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x, tf.sin(x))

    compiled = tf.function(value_and_gradient, jit_compile=True)
    for ours, theirs in zip(compiled(x), value_and_gradient(x), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_weights_have_the_names_that_keras_gives():
    names = [weight.name for weight in layer_of(LayerNormalization).weights]
    assert names == [weight.name for weight in layer_of(keras.layers.LayerNormalization).weights]


def test_config_round_trip():
    layer = LayerNormalization(epsilon=0.3, name="norm")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(copy, LayerNormalization)
    assert copy.get_config() == layer.get_config()


def test_a_model_saved_with_the_normalization_of_keras_loads(tmp_path, monkeypatch):
    """Covers the models saved before the layer had its own gradient."""
    for module in ("layers.residual", "model"):
        name = f"keras_transformer.{module}.LayerNormalization"
        monkeypatch.setattr(name, keras.layers.LayerNormalization)
    old = random_transformer(small_config(num_layers=1, normalize_first=True))
    old.save(tmp_path / "old.keras")
    monkeypatch.undo()
    inputs = {"source_ids": random_ids(2, 5), "target_ids": random_ids(2, 7)}
    read = keras.saving.load_model(tmp_path / "old.keras")
    np.testing.assert_allclose(numbers(read(inputs)), numbers(old(inputs)), atol=1e-4)
