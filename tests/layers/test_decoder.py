import numpy as np
import pytest

from keras_transformer.layers.decoder import DecoderBlock
from tests.random_models import numbers, random_vectors, randomize, with_the_same_dropout

BATCH, SOURCE_LENGTH, TARGET_LENGTH, MODEL_DIM, MEMORY_DIM = 2, 5, 7, 12, 10
OPTIONS = {"num_heads": 3, "feed_forward_dim": 17, "head_dim": 4, "value_dim": 5}
ORDERS = pytest.mark.parametrize("normalize_first", [False, True], ids=["post", "pre"])

pytestmark = pytest.mark.usefixtures("seeded")


def decoder_block(**changes):
    layer = DecoderBlock(**{**OPTIONS, "dropout": 0.0, **changes})
    layer.build((BATCH, TARGET_LENGTH, MODEL_DIM), (BATCH, SOURCE_LENGTH, MEMORY_DIM))
    return randomize(layer)


def inputs():
    return random_vectors(BATCH, TARGET_LENGTH, MODEL_DIM)


def memory():
    return random_vectors(BATCH, SOURCE_LENGTH, MEMORY_DIM, seed=8)


@ORDERS
def test_later_positions_change_no_earlier_output_while_dropout_is_on(normalize_first):
    block = decoder_block(dropout=0.3, normalize_first=normalize_first)
    changed = inputs()
    changed[:, 4:] += 3.0
    first, second = with_the_same_dropout(
        block,
        [
            lambda: block(inputs(), memory(), training=True),
            lambda: block(changed, memory(), training=True),
        ],
    )
    np.testing.assert_array_equal(first[:, :4], second[:, :4])
    assert not np.allclose(first[:, 4:], second[:, 4:])
    assert not np.allclose(first, numbers(block(inputs(), memory())))  # dropout was on


def test_each_position_sees_itself_and_all_earlier_ones():
    block = decoder_block()
    expected = numbers(block(inputs(), memory()))
    for changed in range(TARGET_LENGTH):
        other = inputs()
        other[:, changed] += 1
        difference = np.abs(numbers(block(other, memory())) - expected).max(axis=-1)
        assert np.all(difference[:, :changed] == 0)
        assert np.all(difference[:, changed:] > 1e-4)


@ORDERS
def test_padding_in_the_memory_changes_nothing(normalize_first):
    block = decoder_block(normalize_first=normalize_first)
    expected = numbers(block(inputs(), memory()))
    padded = np.pad(memory(), ((0, 0), (0, 3), (0, 0)), constant_values=9.0)
    real = np.stack([np.arange(SOURCE_LENGTH + 3) < SOURCE_LENGTH] * BATCH)
    output = numbers(block(inputs(), padded, memory_padding_mask=real))
    np.testing.assert_allclose(output, expected, atol=1e-5)


def test_padding_in_the_target_changes_nothing():
    block = decoder_block()
    expected = numbers(block(inputs(), memory()))
    padded = np.pad(inputs(), ((0, 0), (3, 0), (0, 0)), constant_values=9.0)  # on the left
    real = np.stack([np.arange(TARGET_LENGTH + 3) >= 3] * BATCH)
    output = numbers(block(padded, memory(), padding_mask=real))
    np.testing.assert_allclose(output[:, 3:], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_in_numeric_masks_0_is_padding(dtype):
    block = decoder_block()
    masks = {
        "padding_mask": np.arange(TARGET_LENGTH) < [[4], [TARGET_LENGTH]],
        "memory_padding_mask": np.arange(SOURCE_LENGTH) < [[SOURCE_LENGTH], [3]],
    }
    of_numbers = {name: mask.astype(dtype) for name, mask in masks.items()}
    for ask in (block, block.attention_weights):
        expected = numbers(ask(inputs(), memory(), **masks))
        found = numbers(ask(inputs(), memory(), **of_numbers))
        np.testing.assert_array_equal(found, expected)


def test_padding_gets_no_attention_weight():
    real = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    weights = numbers(
        decoder_block().attention_weights(inputs(), memory(), memory_padding_mask=real)
    )
    assert weights.shape == (BATCH, 3, TARGET_LENGTH, SOURCE_LENGTH)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    assert np.all(weights[0, :, :, 3:] == 0)


def test_attention_weights_are_the_weights_used_in_the_call():
    # In pre-norm, with a feed-forward network that adds 0, cross-attention comes last: its share of
    # the output is the weighted sum of the values, projected.
    block = decoder_block(normalize_first=True)
    block.feed_forward.outer.set_weights([np.zeros((17, 12)), np.zeros(12)])
    kernel, _ = block.cross_attention.output_projection.get_weights()

    def weighted_sum(memory):
        weights = numbers(block.attention_weights(inputs(), memory))
        value = numbers(block.cross_attention.keys_and_values(memory)[1])
        attended = np.einsum("bhqk,bhkv->bqhv", weights, value)
        return attended.reshape(BATCH, TARGET_LENGTH, 3 * 5) @ kernel

    nothing = 0 * memory()
    difference = numbers(block(inputs(), memory())) - numbers(block(inputs(), nothing))
    expected = weighted_sum(memory()) - weighted_sum(nothing)
    np.testing.assert_allclose(difference, expected, atol=1e-5)


def test_dropout_on_each_sublayer_leaves_three_normalizations():
    block = DecoderBlock(**OPTIONS, dropout=0.999999)
    output = numbers(block(3 * inputs() + 1, memory(), training=True))
    x = inputs()
    expected = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_dropout_on_each_sublayer_leaves_the_input_in_pre_norm():
    block = DecoderBlock(**OPTIONS, dropout=0.999999, normalize_first=True)
    np.testing.assert_array_equal(numbers(block(inputs(), memory(), training=True)), inputs())


def test_number_of_parameters():
    self_attention = 12 * 3 * (4 + 4 + 5) + 3 * (4 + 4 + 5) + 3 * 5 * 12 + 12
    query = 12 * 3 * 4 + 3 * 4
    key_value = 10 * 3 * (4 + 5) + 3 * (4 + 5)
    output = 3 * 5 * 12 + 12
    feed_forward = 12 * 17 + 17 + 17 * 12 + 12
    normalizations = 3 * (12 + 12)
    expected = self_attention + query + key_value + output + feed_forward + normalizations
    assert decoder_block().count_params() == expected


def test_passes_keras_layer_test():
    testing = pytest.importorskip("keras.src.testing", exc_type=ImportError)
    testing.TestCase().run_layer_test(
        DecoderBlock,
        init_kwargs={**OPTIONS, "dropout": 0.2, "normalize_first": True},
        input_shape={
            "inputs_shape": (BATCH, TARGET_LENGTH, MODEL_DIM),
            "memory_shape": (BATCH, SOURCE_LENGTH, MEMORY_DIM),
        },
        expected_output_shape=(BATCH, TARGET_LENGTH, MODEL_DIM),
        expected_num_trainable_weights=4 + 6 + 4 + 6,
        run_training_check=False,
    )


def test_config_keeps_every_option():
    options = {**OPTIONS, "dropout": 0.25, "activation": "gelu", "normalize_first": True}
    config = DecoderBlock.from_config(DecoderBlock(**options).get_config()).get_config()
    assert {name: config[name] for name in options} == options
