"""The compared stacks have equal sizes, and see exactly what they should see."""

import keras
import numpy as np
import pytest

from training.experiments.stacks import KINDS, reach, stack


def build(kind, length, model_dim, num_blocks):
    token_ids = keras.Input((length,), dtype="int32")
    return keras.Model(token_ids, stack(kind, token_ids, 11, model_dim, num_blocks))


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_has_twelve_squares_of_the_width(kind):
    one, two = [build(kind, 4, 64, num_blocks).count_params() for num_blocks in (1, 2)]
    assert two - one == pytest.approx(12 * 64**2, rel=0.03)  # biases and normalizations in addition
    assert one - (two - one) == 11 * 64  # the embedding


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_convolution_cannot_see_beyond_its_reach(seeded, kind):
    model = build(kind, 12, 8, 1)
    changes = []
    for distance in (reach(1), reach(1) + 1):
        tokens = np.ones((2, 12), "int32")
        tokens[1, -1 - distance] = 5
        one, other = keras.ops.convert_to_numpy(model(tokens))[:, -1]
        changes.append(bool(np.abs(one - other).max() > 0))
    assert changes == [True, kind != "convolution"]
