import keras
import numpy as np
import pytest

from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.layers.position import sinusoidal_encoding
from tests.random_models import numbers, random_ids, random_vectors

VOCABULARY, MODEL_DIM = 23, 16  # the square root of the width is 4

pytestmark = pytest.mark.usefixtures("seeded")


def embedding(**changes):
    settings = {"dropout": 0.0, "position_encoding": None, **changes}
    layer = PositionalEmbedding(VOCABULARY, MODEL_DIM, **settings)
    layer.build((None, None))
    return layer


def test_tokens_are_scaled_by_the_root_of_the_width():
    layer = embedding(embeddings_initializer="ones")
    np.testing.assert_array_equal(numbers(layer(random_ids(2, 5))), np.full((2, 5, MODEL_DIM), 4.0))


def test_each_token_has_its_own_row():
    layer, ids = embedding(), random_ids(2, 5)
    expected = 4 * numbers(layer.embeddings)[ids]
    np.testing.assert_allclose(numbers(layer(ids)), expected, rtol=1e-6)


def test_positions_are_added_unscaled():
    layer = embedding(embeddings_initializer="ones", position_encoding="sinusoidal")
    output = numbers(layer(random_ids(2, 5)))
    np.testing.assert_allclose(output[:, 0], np.tile([4.0, 5.0], (2, MODEL_DIM // 2)))
    encoding = numbers(sinusoidal_encoding(np.arange(5), MODEL_DIM))
    np.testing.assert_allclose(output, np.tile(4 + encoding, (2, 1, 1)), rtol=1e-6)


def test_learned_positions_are_rows_of_a_table():
    layer = embedding(embeddings_initializer="zeros", position_encoding="learned", max_positions=7)
    table = numbers(layer.position_table)
    assert table.shape == (7, MODEL_DIM)
    np.testing.assert_array_equal(numbers(layer(random_ids(2, 5))), np.stack([table[:5]] * 2))


def test_in_reverse_logits_are_products_with_the_rows():
    layer, x = embedding(), random_vectors(2, 5, MODEL_DIM)
    expected = x @ numbers(layer.embeddings).T
    np.testing.assert_allclose(numbers(layer(x, reverse=True)), expected, atol=1e-5)


def test_both_directions_share_one_matrix():
    layer = embedding(position_encoding="sinusoidal")
    assert [tuple(weight.shape) for weight in layer.weights] == [(VOCABULARY, MODEL_DIM)]


def test_embeddings_start_with_variance_1_by_width():
    layer = PositionalEmbedding(1000, MODEL_DIM)
    layer.build((None, None))
    # The standard deviation of 16,000 numbers is known to 0.6%.
    assert np.isclose(numbers(layer.embeddings).std(), MODEL_DIM**-0.5, rtol=0.03)


def test_dropout_applies_to_the_sum():
    layer = embedding(dropout=0.999999, position_encoding="sinusoidal")
    output = numbers(layer(random_ids(2, 5), training=True))
    np.testing.assert_array_equal(output, np.zeros((2, 5, MODEL_DIM)))


def test_dropout_is_off_outside_training_and_in_reverse():
    layer = embedding(dropout=0.999999)
    assert np.all(numbers(layer(random_ids(2, 5))) != 0)
    x = random_vectors(2, 5, MODEL_DIM)
    assert np.all(numbers(layer(x, reverse=True, training=True)) != 0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_are_float32_under_mixed_precision(policy):
    layer = embedding(dtype=policy)
    vectors = layer(random_ids(2, 5))
    assert keras.backend.standardize_dtype(vectors.dtype) == policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(layer(vectors, reverse=True).dtype) == "float32"


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_ids_may_come_as_floats(policy):
    # float16 has no 2049: the cast would turn id 2049 into 2048.
    layer = PositionalEmbedding(2050, 2, position_encoding=None, dropout=0.0, dtype=policy)
    ids = np.array([[2049, 4]])
    np.testing.assert_array_equal(
        numbers(layer(ids.astype("float32"))), numbers(layer(ids.astype("int32")))
    )
    assert not np.array_equal(numbers(layer(ids)), numbers(layer(ids - 1)))


@pytest.mark.parametrize("position_encoding", ["sinusoidal", "learned"])
def test_passes_keras_layer_test(position_encoding):
    testing = pytest.importorskip("keras.src.testing", exc_type=ImportError)
    learned = position_encoding == "learned"
    testing.TestCase().run_layer_test(
        PositionalEmbedding,
        init_kwargs={
            "vocabulary_size": VOCABULARY,
            "model_dim": MODEL_DIM,
            "position_encoding": position_encoding,
            "max_positions": 7,
        },
        input_shape=(2, 5),
        input_dtype="int32",
        expected_output_shape=(2, 5, MODEL_DIM),
        expected_num_trainable_weights=2 if learned else 1,
        expected_num_seed_generators=1,
    )


def test_config_keeps_every_option():
    layer = embedding(position_encoding="learned", max_positions=7, dropout=0.25)
    copy = PositionalEmbedding.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert (copy.max_positions, copy.dropout, copy.position_encoding) == (7, 0.25, "learned")


def test_unknown_position_encoding_is_refused():
    with pytest.raises(ValueError, match=r"one of \(.*, None\)\. Received: .*='rotary'\. Choose"):
        PositionalEmbedding(VOCABULARY, MODEL_DIM, position_encoding="rotary")


def test_odd_width_with_sinusoids_is_refused():
    with pytest.raises(ValueError, match=r"must be even.* Received: model_dim=15\. .*model_dim=16"):
        PositionalEmbedding(VOCABULARY, 15)


def test_sequence_longer_than_the_learned_positions_is_refused():
    layer = embedding(position_encoding="learned", max_positions=7)
    with pytest.raises(ValueError, match=r"Received: length 8, max_positions=7\. Choose a larger"):
        layer(random_ids(2, 8))
