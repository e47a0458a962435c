"""Attention in a neighborhood equals attention with a mask, at a different cost."""

import keras
import numpy as np
import pytest

from keras_transformer.layers.attention import MultiHeadSelfAttention
from training.experiments.restricted import RestrictedSelfAttention


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_restricted_attention_equals_self_attention_with_a_neighborhood_mask(seeded, blocks):
    length = 4 * blocks
    inputs = keras.random.normal((2, length, 6))
    restricted, full = RestrictedSelfAttention(3, radius=4), MultiHeadSelfAttention(3)
    for layer in (restricted, full):
        layer(inputs)
    full.set_weights([keras.random.normal(weight.shape) for weight in full.weights])
    restricted.set_weights(full.get_weights())
    places = np.arange(length)
    near = np.abs(places[:, None] - places) <= 4
    np.testing.assert_allclose(
        restricted(inputs), full(inputs, attention_mask=near[None]), rtol=1e-4, atol=1e-5
    )
