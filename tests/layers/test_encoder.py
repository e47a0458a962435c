import numpy as np
import pytest

from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.layers.encoder import EncoderBlock
from tests.random_models import ON_TENSORFLOW, numbers, random_ids, random_vectors, randomize

BATCH, LENGTH, MODEL_DIM = 2, 5, 12
OPTIONS = {"num_heads": 3, "feed_forward_dim": 17, "head_dim": 4, "value_dim": 5}
ORDERS = pytest.mark.parametrize("normalize_first", [False, True], ids=["post", "pre"])

pytestmark = pytest.mark.usefixtures("seeded")


def encoder_block(**changes):
    layer = EncoderBlock(**{**OPTIONS, "dropout": 0.0, **changes})
    layer.build((BATCH, LENGTH, MODEL_DIM))
    return randomize(layer)


def inputs(length=LENGTH):
    return random_vectors(BATCH, length, MODEL_DIM)


@ORDERS
def test_padding_changes_nothing(normalize_first):
    block = encoder_block(normalize_first=normalize_first)
    expected = numbers(block(inputs()))
    padded = np.pad(inputs(), ((0, 0), (0, 4), (0, 0)), constant_values=9.0)
    real = np.arange(LENGTH + 4) < LENGTH
    output = numbers(block(padded, np.stack([real] * BATCH)))
    np.testing.assert_allclose(output[:, :LENGTH], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_in_a_numeric_mask_0_is_padding(dtype):
    block = encoder_block()
    real = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    of_numbers = real.astype(dtype)
    for ask in (block, block.attention_weights):
        expected = numbers(ask(inputs(), padding_mask=real))
        np.testing.assert_array_equal(numbers(ask(inputs(), padding_mask=of_numbers)), expected)


@ORDERS
def test_a_sentence_does_not_depend_on_its_batch(normalize_first):
    block = encoder_block(normalize_first=normalize_first)
    real = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    together = numbers(block(inputs(), real))
    alone = numbers(block(inputs()[:1, :3]))
    np.testing.assert_allclose(together[:1, :3], alone, atol=1e-5)


@ORDERS
def test_without_positions_permuted_tokens_are_encoded_as_permuted_vectors(normalize_first):
    embedding = PositionalEmbedding(23, MODEL_DIM, position_encoding=None)
    blocks = [encoder_block(normalize_first=normalize_first) for _ in range(2)]

    def encode(ids):
        x = embedding(ids)
        for block in blocks:
            x = block(x)
        return numbers(x)

    ids, order = random_ids(BATCH, LENGTH), np.array([3, 0, 2, 4, 1])
    np.testing.assert_allclose(encode(ids[:, order]), encode(ids)[:, order], atol=1e-5)


def test_every_position_sees_every_other():
    block, x = encoder_block(), inputs()
    expected = numbers(block(x))
    for changed in range(LENGTH):
        other = inputs()
        other[:, changed] += 1
        assert np.all(np.any(np.abs(numbers(block(other)) - expected) > 1e-4, axis=-1))


def test_dropout_on_each_sublayer_leaves_two_normalizations():
    block = EncoderBlock(**OPTIONS, dropout=0.999999)
    output = numbers(block(3 * inputs() + 1, training=True))
    x = inputs()
    expected = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_dropout_on_each_sublayer_leaves_the_input_in_pre_norm():
    block = EncoderBlock(**OPTIONS, dropout=0.999999, normalize_first=True)
    np.testing.assert_array_equal(numbers(block(inputs(), training=True)), inputs())


def test_dropout_is_off_outside_training():
    np.testing.assert_array_equal(
        numbers(encoder_block(dropout=0.5)(inputs(), training=False)),
        numbers(encoder_block()(inputs())),
    )


def test_number_of_parameters():
    query_key_value = 12 * 3 * (4 + 4 + 5) + 3 * (4 + 4 + 5)
    output = 3 * 5 * 12 + 12
    feed_forward = 12 * 17 + 17 + 17 * 12 + 12
    normalizations = 2 * (12 + 12)
    expected = query_key_value + output + feed_forward + normalizations
    assert encoder_block().count_params() == expected


@ORDERS
def test_passes_keras_layer_test(normalize_first):
    testing = pytest.importorskip("keras.src.testing", exc_type=ImportError)
    testing.TestCase().run_layer_test(
        EncoderBlock,
        init_kwargs={
            **OPTIONS,
            "dropout": 0.2,
            "activation": "gelu",
            "normalize_first": normalize_first,
            "kernel_initializer": "he_normal",
        },
        input_shape=(BATCH, LENGTH, MODEL_DIM),
        expected_output_shape=(BATCH, LENGTH, MODEL_DIM),
        expected_num_trainable_weights=4 + 4 + 4,
        run_training_check=ON_TENSORFLOW
        and not normalize_first,  # slow, and the same for every kind
    )


def test_config_keeps_every_option():
    options = {**OPTIONS, "dropout": 0.25, "activation": "gelu", "normalize_first": True}
    config = EncoderBlock.from_config(EncoderBlock(**options).get_config()).get_config()
    assert {name: config[name] for name in options} == options
