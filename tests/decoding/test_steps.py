import keras
import numpy as np
import pytest

from keras_transformer.decoding.steps import decoding_steps, embedding_step
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.model import attention_of_layers, cross_attention_weights
from tests.random_models import numbers, random_ids, random_transformer, small_config

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("position_encoding", [None, "sinusoidal", "learned"])
def test_an_embedding_step_equals_the_call_at_each_position(position_encoding):
    layer = PositionalEmbedding(23, 16, dropout=0.0, position_encoding=position_encoding)
    ids = random_ids(2, 5)
    expected = numbers(layer(ids))
    for position in range(5):
        beams = np.stack([ids[:, position]] * 3, axis=1)
        output = numbers(embedding_step(layer, beams, position))
        rows = np.repeat(expected[:, position], 3, axis=0)  # the beams of a sentence side by side
        np.testing.assert_allclose(output, rows, rtol=1e-6)


@pytest.mark.parametrize(
    "looks_at",
    [
        lambda model, ids: decoding_steps(model)[0](ids).memory,
        lambda model, ids: cross_attention_weights(model, ids, ids),
        lambda model, ids: attention_of_layers(model, ids, ids).decoder[-1],
    ],
    ids=["encode", "cross_attention_weights", "attention_of_layers"],
)
def test_inference_drops_nothing_inside_a_layer_that_trains(looks_at):
    model = random_transformer(small_config(dropout=0.9))

    class Teacher(keras.Layer):
        def call(self, inputs, training=None):
            return looks_at(model, inputs)

    ids, teacher = random_ids(2, 5), Teacher()
    np.testing.assert_array_equal(
        numbers(teacher(ids, training=True)), numbers(teacher(ids, training=False))
    )


def test_decoding_steps_refuses_an_unknown_model():
    message = r"registered class\. Received: model of class Sequential\. Build it with"
    with pytest.raises(TypeError, match=message):
        decoding_steps(keras.Sequential())


def test_an_architecture_of_your_own_can_be_registered():
    class Parrot(keras.Model):
        pass

    decoding_steps.register(Parrot)(lambda model: ("encode", "initial_state", "step"))
    assert decoding_steps(Parrot()) == ("encode", "initial_state", "step")
