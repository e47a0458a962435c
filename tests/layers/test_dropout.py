"""Dropout with few random bits is like Keras' own: it drops a random share, unbiased."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.layers.dropout import Dropout
from tests.random_models import ON_TENSORFLOW


def dropped(rate, shape=(100, 999), dtype="float32", **options):
    layer = Dropout(rate, seed=3, dtype=dtype, **options)
    return ops.convert_to_numpy(ops.cast(layer(ops.ones(shape, dtype), training=True), "float32"))


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_the_share_and_the_expected_value_are_right(rate):
    y = dropped(rate)
    deviation = np.sqrt(rate * (1 - rate) / y.size)
    assert np.mean(y == 0) == pytest.approx(rate, abs=4 * deviation)
    kept = y[y != 0]
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-4)
    assert y.mean() == pytest.approx(1, abs=4 * deviation / (1 - rate))


def test_every_element_is_dropped_independently():
    """Neither rows, nor columns, nor the two halves of a random word are correlated."""
    y = dropped(0.5) != 0
    for one, other in ((y[:-1], y[1:]), (y[:, :-1], y[:, 1:])):
        assert np.mean(one == other) == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(y.mean(axis=0), 0.5, atol=0.3)
    np.testing.assert_allclose(y.mean(axis=1), 0.5, atol=0.1)


def test_each_call_drops_different_elements():
    layer = Dropout(0.5, seed=3)
    x = ops.ones((100, 100))
    first, second = [ops.convert_to_numpy(layer(x, training=True)) for _ in range(2)]
    assert np.mean(first == second) == pytest.approx(0.5, abs=0.05)


def test_the_same_seed_drops_the_same_elements():
    np.testing.assert_array_equal(dropped(0.3), dropped(0.3))


@pytest.mark.parametrize("rate", [0.0, 1.0, 1e-6])
def test_rates_0_and_1_drop_nothing_and_everything(rate):
    np.testing.assert_allclose(dropped(rate), 0.0 if rate == 1 else 1.0, rtol=1e-5)


def test_nothing_is_dropped_outside_training():
    x = ops.ones((3, 4))
    np.testing.assert_array_equal(Dropout(0.5)(x), x)
    np.testing.assert_array_equal(Dropout(0.5)(x, training=False), x)


FLOAT64 = pytest.param(
    "float64", marks=pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX has none unless told to")
)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", FLOAT64])
def test_other_dtypes_are_kept(dtype):
    layer = Dropout(0.25, dtype=dtype)
    y = layer(ops.ones((64, 64), dtype), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    values = np.unique(ops.convert_to_numpy(ops.cast(y, "float32")))
    np.testing.assert_allclose(values, [0, 4 / 3], rtol=0.005)


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 1, 1), (0, 5), (2, 3, 4, 5)])
def test_any_shape_is_accepted(shape):
    assert dropped(0.5, shape).shape == shape


def test_a_noise_shape_drops_whole_rows():
    y = dropped(0.5, (50, 20), noise_shape=(50, 1))
    assert {len(set(row)) for row in y.tolist()} == {1}
    assert set(np.unique(y)) == {0, 2}


@pytest.mark.skipif(not ON_TENSORFLOW, reason="tf.GradientTape is TensorFlow's")
def test_the_gradient_reaches_only_the_kept_elements():
    import tensorflow as tf

    layer, x = Dropout(0.5, seed=1), tf.random.normal((30, 30))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    np.testing.assert_allclose(tape.gradient(y, x), np.where(y == 0, 0, 2.0))


def test_a_loaded_model_still_has_this_dropout(tmp_path):
    model = keras.Sequential([keras.Input((4,)), Dropout(0.3)])
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").layers[-1].rate == 0.3
