import numpy as np
import pytest

from keras_transformer.layers.position import sinusoidal_encoding
from tests.random_models import numbers

MODEL_DIM = 12


def encoding(positions, model_dim=MODEL_DIM):
    return numbers(sinusoidal_encoding(np.array(positions), model_dim))


def test_position_0_encodes_as_0_1_0_1():
    np.testing.assert_array_equal(encoding([0]), [[0, 1] * (MODEL_DIM // 2)])


def test_the_first_two_columns_are_sine_and_cosine_of_the_position():
    expected = [[np.sin(1), np.cos(1)], [np.sin(2), np.cos(2)], [np.sin(30), np.cos(30)]]
    np.testing.assert_allclose(encoding([1, 2, 30])[:, :2], expected, atol=1e-6)


def test_width_2_has_one_wavelength():
    np.testing.assert_allclose(encoding([0.0, np.pi / 2], 2), [[0, 1], [1, 0]], atol=1e-6)


@pytest.mark.parametrize("pair", range(MODEL_DIM // 2))
def test_pair_i_turns_10000_to_the_2i_by_model_dim_times_slower(pair):
    position = 17
    angle = position / 10_000 ** (2 * pair / MODEL_DIM)
    columns = encoding([position])[0, 2 * pair : 2 * pair + 2]
    np.testing.assert_allclose(columns, [np.sin(angle), np.cos(angle)], atol=1e-6)


def test_every_pair_is_a_point_on_the_unit_circle():
    pairs = encoding(range(300)).reshape(300, MODEL_DIM // 2, 2)
    np.testing.assert_allclose(np.linalg.norm(pairs, axis=-1), 1, atol=1e-6)


def test_a_fixed_offset_is_the_same_rotation_everywhere():
    # Section 3.5: "for any fixed offset k, PE(pos + k) can be represented as a linear function".
    offset = 4
    here, there = (
        encoding(np.arange(50) + shift).reshape(50, MODEL_DIM // 2, 2) for shift in (0, offset)
    )
    angles = offset / 10_000 ** (np.arange(0, MODEL_DIM, 2) / MODEL_DIM)
    sine, cosine = here[..., 0], here[..., 1]
    turned = np.stack(
        [
            sine * np.cos(angles) + cosine * np.sin(angles),
            cosine * np.cos(angles) - sine * np.sin(angles),
        ],
        axis=-1,
    )
    np.testing.assert_allclose(there, turned, atol=1e-5)


def test_positions_come_in_any_order():
    np.testing.assert_array_equal(encoding([8, 0, 3]), encoding(range(9))[[8, 0, 3]])
