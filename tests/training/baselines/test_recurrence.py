"""The recurrent layers compute the same as Keras' own layers."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.random_models import TENSORFLOW_ONLY, numbers, random_vectors
from training.baselines.recurrence import CELLS, recur, recur_once
from training.baselines.recurrent import Recurrence, RecurrentEncoderBlock, Summary

BATCH, LENGTH, WIDTH, UNITS = 2, 5, 7, 3
KERAS_LAYERS = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


def random_recurrence(cell, inputs_shape=(None, None, WIDTH), **more):
    layer = Recurrence(cell, UNITS)
    layer.build(inputs_shape, **more)
    layer.set_weights(
        [
            random_vectors(*weight.shape, seed=seed)
            for seed, weight in enumerate(layer.get_weights())
        ]
    )
    return layer


def keras_layer(layer, **options):
    """Returns Keras' layer with the same weights."""
    kernel, bias = layer.input_projection.get_weights()
    recurrent_kernel, recurrent_bias = map(numbers, (layer.recurrent_kernel, layer.recurrent_bias))
    other = KERAS_LAYERS[layer.cell](UNITS, return_sequences=True, **options)
    other.build((None, None, kernel.shape[0]))
    biases = np.stack([bias, recurrent_bias]) if layer.cell == "gru" else bias + recurrent_bias
    other.set_weights([kernel, recurrent_kernel, biases])
    return other


def first_states(layer):
    return [random_vectors(BATCH, UNITS, seed=20 + number) for number in range(layer.num_states)]


def test_the_states_equal_those_of_keras(cell):
    layer = random_recurrence(cell)
    inputs, states = random_vectors(BATCH, LENGTH, WIDTH, seed=9), first_states(layer)
    expected = keras_layer(layer)(inputs, initial_state=[ops.array(state) for state in states])
    np.testing.assert_allclose(layer(inputs, states=states), expected, atol=1e-6)


def test_without_states_it_begins_at_zero(cell):
    layer = random_recurrence(cell)
    inputs = random_vectors(BATCH, LENGTH, WIDTH, seed=9)
    np.testing.assert_allclose(layer(inputs), keras_layer(layer)(inputs), atol=1e-6)


@TENSORFLOW_ONLY
def test_the_gradients_equal_those_of_keras(cell):
    import tensorflow as tf

    layer = random_recurrence(cell)
    other = keras_layer(layer)
    inputs = tf.constant(random_vectors(BATCH, LENGTH, WIDTH, seed=9))
    states = [tf.constant(state) for state in first_states(layer)]
    weights = random_vectors(LENGTH, UNITS, seed=10)  # each output has its own weight

    def gradients(output_of, variables):
        @tf.function(autograph=False)  # as in training, whose loop is in a graph
        def compute():
            with tf.GradientTape() as tape:
                tape.watch([inputs, *states])
                loss = tf.reduce_sum(output_of() ** 2 * weights)
            return tape.gradient(loss, [inputs, *states, *(v.value for v in variables)])

        return [numbers(tf.convert_to_tensor(gradient)) for gradient in compute()]

    *ours, kernel, bias, recurrent_kernel, recurrent_bias = gradients(
        lambda: layer(inputs, states=states, training=True),
        [*layer.input_projection.weights, layer.recurrent_kernel, layer.recurrent_bias],
    )
    *theirs, other_kernel, other_recurrent_kernel, other_bias = gradients(
        lambda: other(inputs, initial_state=states), other.weights
    )
    biases = np.stack([bias, recurrent_bias]) if cell == "gru" else bias
    pairs = [*zip(ours, theirs, strict=True), (kernel, other_kernel), (biases, other_bias)]
    for our, their in [*pairs, (recurrent_kernel, other_recurrent_kernel)]:
        assert np.abs(their).max() > 1e-3
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-5)


def test_a_step_equals_one_position_of_the_full_pass(cell):
    layer = random_recurrence(cell)
    inputs, states = random_vectors(BATCH, LENGTH, WIDTH, seed=9), first_states(layer)
    whole = numbers(layer(inputs, states=states))
    states = tuple(state[:, None] for state in states)  # (batch, beams, units) of one beam
    for position in range(LENGTH):
        output, states = layer.step(inputs[:, position : position + 1], states)
        np.testing.assert_allclose(numbers(output)[:, 0], whole[:, position], atol=1e-6)


def test_a_context_acts_as_additional_input(cell):
    """The product with [input, context] is a sum of two; all positions share one context."""
    context_dim = 4
    layer = random_recurrence(cell, context_shape=(None, None, context_dim))
    inputs = random_vectors(BATCH, LENGTH, WIDTH, seed=9)
    context = random_vectors(BATCH, 1, context_dim, seed=11)
    both = np.concatenate([inputs, np.repeat(context, LENGTH, axis=1)], axis=-1)
    wide = random_recurrence(cell, (None, None, WIDTH + context_dim))
    kernel, bias = layer.input_projection.get_weights()
    [context_kernel] = layer.context_projection.get_weights()
    wide.input_projection.set_weights([np.concatenate([kernel, context_kernel]), bias])
    wide.recurrent_kernel.assign(layer.recurrent_kernel)
    wide.recurrent_bias.assign(layer.recurrent_bias)
    np.testing.assert_allclose(layer(inputs, context=context), wide(both), atol=1e-5)


def test_a_new_lstm_keeps_its_state():
    layer = Recurrence("lstm", UNITS)
    layer.build((None, None, WIDTH))
    read, keep, new, write = np.split(numbers(layer.recurrent_bias), 4)
    np.testing.assert_array_equal(keep, 1)
    np.testing.assert_array_equal([read, new, write], 0)


def test_the_state_is_kept_in_float32_while_products_are_in_half_precision(cell):
    """Each step changes the state too little for bfloat16."""
    units, num_gates = 1, CELLS[cell].num_gates
    kernel = ops.zeros((units, num_gates * units), "bfloat16")
    if cell == "gru":  # update gate about 1: h' = z h + (1 - z) n
        x, states = np.array([[[7.0, 0.0, 20.0]]] * 2), [np.full((2, 1), 0.25)]
    else:
        x, states = np.array([[[-7.0, 20.0, 20.0, 20.0]]] * 2), [np.zeros((2, 1)), np.ones((2, 1))]
    x = np.repeat(x, 50, axis=1).astype("float32")
    bias = np.zeros(num_gates * units, "float32")
    outputs = numbers(recur(CELLS[cell], x, states, kernel, bias))[0, :, 0]
    assert outputs.dtype == np.float32
    assert np.all(np.diff(outputs) > 0)
    once = recur_once(CELLS[cell], x[:, :1], [s[:, None] for s in states], kernel, bias)
    assert numbers(once[0]).dtype == np.float32


def test_the_encoder_equals_keras_in_both_directions(cell):
    """With a mask, Keras' backward direction also begins at the last real token."""
    block = RecurrentEncoderBlock(cell, 2 * UNITS, dropout=0.5)
    inputs = random_vectors(BATCH, LENGTH, WIDTH, seed=9)
    mask = np.array([[True] * 3 + [False] * 2, [True] * LENGTH])
    outputs = numbers(block(inputs, padding_mask=mask))
    forwards = keras_layer(block.forwards)(inputs, mask=ops.array(mask))
    backwards = keras_layer(block.backwards, go_backwards=True)(inputs, mask=ops.array(mask))
    expected = np.concatenate([numbers(forwards), numbers(backwards)[:, ::-1]], axis=-1)
    np.testing.assert_allclose(outputs[mask], expected[mask], atol=1e-6)


def test_the_input_is_added_if_the_widths_are_equal():
    block = RecurrentEncoderBlock("gru", 6, dropout=0.0)
    inputs, mask = random_vectors(BATCH, LENGTH, 6), np.ones((BATCH, LENGTH), bool)
    block.build(inputs.shape)
    for weight in block.weights:
        weight.assign(np.zeros(weight.shape))  # a state that stays 0
    np.testing.assert_array_equal(block(inputs, padding_mask=mask), inputs)


def test_dropout_applies_to_the_output_of_a_layer():
    block = RecurrentEncoderBlock("gru", 8, dropout=0.9999)
    inputs, mask = random_vectors(BATCH, LENGTH, WIDTH), np.ones((BATCH, LENGTH), bool)
    assert np.abs(numbers(block(inputs, padding_mask=mask, training=False))).max() > 0.01
    assert np.mean(numbers(block(inputs, padding_mask=mask, training=True)) == 0) > 0.9


def test_the_summary_is_each_directions_final_state():
    memory = random_vectors(BATCH, LENGTH, 6)
    mask = np.array([[True] * 3 + [False] * 2, [True] * LENGTH])
    summary = numbers(Summary()(memory, padding_mask=mask))
    np.testing.assert_array_equal(summary[:, :3], [memory[0, 2, :3], memory[1, 4, :3]])
    np.testing.assert_array_equal(summary[:, 3:], memory[:, 0, 3:])


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="recurrent_dim must be even.*=7. Choose 8"):
        RecurrentEncoderBlock("gru", 7)
