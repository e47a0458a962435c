import numpy as np
import pytest

from keras_transformer.layers.residual import AddAndNorm
from tests.random_models import numbers, random_vectors, randomize

SHAPE = (2, 5, 12)
ALMOST_1 = 0.999999

pytestmark = pytest.mark.usefixtures("seeded")


def add_and_norm(**options):
    layer = AddAndNorm(**{"dropout": 0.0, **options})
    layer.build(SHAPE, SHAPE)
    return randomize(layer)


def normalized(x, layer):
    """Normalizes (Ba et al. 2016) with the layer's scale and shift."""
    scale, shift = layer.normalization.get_weights()
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return scale * (x - mean) / np.sqrt(variance + 1e-6) + shift


def test_1_and_3_are_normalized_to_minus_1_and_1():
    layer = AddAndNorm(dropout=0.0)
    output = layer(np.array([[[1.0, 3.0]]], "float32"), np.zeros((1, 1, 2), "float32"))
    np.testing.assert_allclose(numbers(output), [[[-1, 1]]], atol=1e-5)


def test_post_norm_normalizes_the_sum():
    layer, x, y = add_and_norm(), random_vectors(*SHAPE), random_vectors(*SHAPE, seed=8)
    np.testing.assert_allclose(numbers(layer(x, y)), normalized(x + y, layer), atol=1e-5)


def test_post_norm_passes_the_input_to_the_sublayer_unchanged():
    x = random_vectors(*SHAPE)
    np.testing.assert_array_equal(numbers(add_and_norm().sublayer_input(x)), x)


def test_pre_norm_only_adds():
    layer = add_and_norm(normalize_first=True)
    x, y = random_vectors(*SHAPE), random_vectors(*SHAPE, seed=8)
    np.testing.assert_allclose(numbers(layer(x, y)), x + y, rtol=1e-6)


def test_pre_norm_normalizes_the_sublayers_input():
    layer, x = add_and_norm(normalize_first=True), random_vectors(*SHAPE)
    np.testing.assert_allclose(numbers(layer.sublayer_input(x)), normalized(x, layer), atol=1e-5)


@pytest.mark.parametrize("normalize_first", [False, True])
def test_dropout_applies_to_the_sublayers_output_before_the_sum(normalize_first):
    layer = add_and_norm(dropout=ALMOST_1, normalize_first=normalize_first)
    x, y = random_vectors(*SHAPE), random_vectors(*SHAPE, seed=8)
    expected = x if normalize_first else normalized(x, layer)
    np.testing.assert_allclose(numbers(layer(x, y, training=True)), expected, atol=1e-5)


def test_dropout_is_off_outside_training():
    layer = add_and_norm(dropout=ALMOST_1)
    x, y = random_vectors(*SHAPE), random_vectors(*SHAPE, seed=8)
    np.testing.assert_allclose(numbers(layer(x, y)), normalized(x + y, layer), atol=1e-5)


def test_passes_keras_layer_test():
    testing = pytest.importorskip("keras.src.testing", exc_type=ImportError)
    testing.TestCase().run_layer_test(
        AddAndNorm,
        init_kwargs={"dropout": 0.2, "normalize_first": True, "epsilon": 1e-5},
        input_shape={"inputs_shape": SHAPE, "sublayer_output_shape": SHAPE},
        expected_output_shape=SHAPE,
        expected_num_trainable_weights=2,
        expected_num_seed_generators=1,
        run_training_check=False,
    )
