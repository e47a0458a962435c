import weakref

import keras
import numpy as np
import pytest

from keras_transformer.averaging import average_weights


def test_mean_of_each_array():
    average = average_weights(
        [
            [np.array([[1.0, 2.0]], "float32"), np.array(4.0, "float32")],
            [np.array([[3.0, 2.0]], "float32"), np.array(6.0, "float32")],
            [np.array([[8.0, 2.0]], "float32"), np.array(-1.0, "float32")],
        ]
    )
    np.testing.assert_array_equal(average[0], [[4.0, 2.0]])
    assert average[1] == 3.0
    assert [array.dtype for array in average] == ["float32", "float32"]
    assert [array.shape for array in average] == [(1, 2), ()]


def test_one_checkpoint_is_its_own_average():
    weights = [np.array([0.1, 0.7], "float32"), np.array([3, 4], "uint32")]
    for array, expected in zip(average_weights([weights]), weights, strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype


def test_sums_in_float64():
    # float32 has no number between 2**24 and 2**24 + 2: there the ones would be lost.
    ones = [[np.array([1.0], "float32")]] * 4
    average = average_weights([[np.array([2.0**24], "float32")], *ones])
    assert average[0][0] == np.float32((2.0**24 + 4) / 5)
    assert average[0][0] != np.float32(2.0**24 / 5)


def test_bfloat16_arrays_are_averaged_and_stay_bfloat16():
    def weights(value):
        return [keras.ops.convert_to_numpy(keras.ops.cast(np.array([value]), "bfloat16"))]

    average = average_weights([weights(1.0), weights(4.0)])[0]
    assert average.dtype.name == "bfloat16"
    assert average[0] == 2.5


def test_arrays_that_are_not_floats_are_those_of_the_last_checkpoint():
    average = average_weights(
        [
            [np.array([7, 1], "uint32"), np.array([1.0]), np.array(3, "int64"), np.array(True)],
            [np.array([7, 4], "uint32"), np.array([2.0]), np.array(9, "int64"), np.array(False)],
        ]
    )
    np.testing.assert_array_equal(average[0], [7, 4])
    assert average[0].dtype == "uint32"
    assert average[1][0] == 1.5
    assert average[2] == 9
    assert not average[3]


def test_checkpoints_are_not_changed():
    first, second = [np.array([1.0, 5.0])], [np.array([3.0, 7.0])]
    average_weights([first, second])
    np.testing.assert_array_equal(first[0], [1.0, 5.0])
    np.testing.assert_array_equal(second[0], [3.0, 7.0])


def test_a_generator_needs_at_most_two_checkpoints_in_memory():
    references = []

    def checkpoints():
        for value in (1.0, 2.0, 6.0, 7.0):
            array = np.full(3, value)
            references.append(weakref.ref(array))
            assert sum(reference() is not None for reference in references) <= 2
            yield [array]
            del array

    np.testing.assert_array_equal(average_weights(checkpoints())[0], [4.0, 4.0, 4.0])


def test_a_model_takes_the_average_with_its_dropout_seeds():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dropout(0.5)(keras.layers.Dense(3)(inputs)))
    first = model.get_weights()
    second = [array + array.dtype.type(2) for array in first]
    model.set_weights(average_weights([first, second]))
    for array, before, after in zip(model.get_weights(), first, second, strict=True):
        expected = before + 1 if array.dtype == "float32" else after
        np.testing.assert_allclose(array, expected, rtol=1e-6)


@pytest.mark.parametrize("nothing", [[], iter(())])
def test_no_checkpoint_is_refused(nothing):
    with pytest.raises(ValueError, match=r"at least one checkpoint\. Received: none\. Keep"):
        average_weights(nothing)


def test_different_numbers_of_arrays_are_refused():
    two, three = [np.zeros(3)] * 2, [np.zeros(3)] * 3
    with pytest.raises(
        ValueError, match=r"same number of arrays\. Received: 2 .* checkpoint 1, 3 in checkpoint 2"
    ):
        average_weights([two, two, three])


@pytest.mark.parametrize("other", [np.zeros((3, 2)), np.zeros((2, 3), "float32"), np.zeros(3)])
def test_different_shapes_or_dtypes_are_refused(other):
    first = [np.zeros(1), np.zeros((2, 3))]
    with pytest.raises(
        ValueError, match=r"shapes and dtypes\. Received: array 1 is float64 \(2, 3"
    ):
        average_weights([first, [np.zeros(1), other]])
