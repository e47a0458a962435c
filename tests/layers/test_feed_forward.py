import numpy as np
import pytest

from keras_transformer.layers.feed_forward import FeedForward
from tests.random_models import numbers, random_vectors, randomize

MODEL_DIM, FEED_FORWARD_DIM = 12, 17

pytestmark = pytest.mark.usefixtures("seeded")


def feed_forward(**options):
    layer = FeedForward(FEED_FORWARD_DIM, **options)
    layer.build((None, None, MODEL_DIM))
    return randomize(layer)


def test_equation_2():
    layer, x = feed_forward(), random_vectors(2, 5, MODEL_DIM)
    w_1, b_1, w_2, b_2 = layer.get_weights()
    expected = np.maximum(0, x @ w_1 + b_1) @ w_2 + b_2
    np.testing.assert_allclose(numbers(layer(x)), expected, atol=1e-5)


def test_activation_can_be_chosen():
    layer, x = feed_forward(activation="tanh"), random_vectors(2, 5, MODEL_DIM)
    w_1, b_1, w_2, b_2 = layer.get_weights()
    expected = np.tanh(x @ w_1 + b_1) @ w_2 + b_2
    np.testing.assert_allclose(numbers(layer(x)), expected, atol=1e-5)


def test_each_position_is_transformed_independently():
    layer, x = feed_forward(), random_vectors(2, 5, MODEL_DIM)
    alone = np.stack([numbers(layer(x[:, i : i + 1]))[:, 0] for i in range(5)], axis=1)
    np.testing.assert_allclose(numbers(layer(x)), alone, atol=1e-6)


def test_number_of_parameters():
    assert feed_forward().count_params() == 12 * 17 + 17 + 17 * 12 + 12


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_passes_keras_layer_test(activation):
    testing = pytest.importorskip("keras.src.testing", exc_type=ImportError)
    testing.TestCase().run_layer_test(
        FeedForward,
        init_kwargs={"feed_forward_dim": FEED_FORWARD_DIM, "activation": activation},
        input_shape=(2, 5, MODEL_DIM),
        expected_output_shape=(2, 5, MODEL_DIM),
        expected_num_trainable_weights=4,
        run_training_check=activation == "relu",
    )


def test_inner_width_starts_at_one():
    message = r"feed_forward_dim must be at least 1\. Received: feed_forward_dim=0\. Choose"
    with pytest.raises(ValueError, match=message):
        FeedForward(0)
