import weakref

import keras
import numpy as np
import pytest

from keras_transformer.averaging import average_weights, averaged_variables
from keras_transformer.optimizers import Adam


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
    # float32 has no number between 2**24 and 2**24 + 2, so it would lose the ones.
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


def test_integer_arrays_come_from_the_last_checkpoint():
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


def test_averaging_a_generator_keeps_at_most_two_checkpoints_in_memory():
    references = []

    def checkpoints():
        for value in (1.0, 2.0, 6.0, 7.0):
            array = np.full(3, value)
            references.append(weakref.ref(array))
            assert sum(reference() is not None for reference in references) <= 2
            yield [array]
            del array

    np.testing.assert_array_equal(average_weights(checkpoints())[0], [4.0, 4.0, 4.0])


def test_a_model_can_load_the_average_with_its_dropout_seeds():
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
    with pytest.raises(ValueError, match=r"at least one checkpoint\. Received: no checkpoints"):
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


def averaging_model(optimizer):
    """Trained and untrained weights alternate: gamma, beta; mean, variance; kernel, bias."""
    layers = [keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(optimizer=optimizer, loss="mse")
    return model


def test_each_trained_weight_has_its_average_and_other_weights_are_kept():
    model = averaging_model(Adam(0.1, ema_decay=0.5))
    model.fit(np.ones((4, 3)), np.ones((4, 2)), batch_size=4, epochs=3, verbose=0)
    averages = averaged_variables(model)
    assert len(averages) == len(model.weights) == 6
    for weight, average in zip(model.weights, averages, strict=True):
        assert average.shape == weight.shape
        if weight.trainable:
            assert average.path.endswith(f"/{weight.path.replace('/', '_')}_average")
        else:
            assert average is weight


@pytest.mark.parametrize("is_built", [False, True])
def test_before_the_first_update_the_weights_are_their_averages(is_built):
    model = averaging_model(Adam(0.1, ema_decay=0.5))
    if is_built:
        model.optimizer.build(model.trainable_variables)
    averages = averaged_variables(model)
    assert all(a is b for a, b in zip(averages, model.weights, strict=True))


@pytest.mark.parametrize("optimizer", [Adam(0.1), keras.optimizers.SGD()])
def test_averages_need_an_optimizer_that_keeps_them(optimizer):
    with pytest.raises(ValueError, match=r"keeps averages\. Received: optimizer=.*ema_decay=0.999"):
        averaged_variables(averaging_model(optimizer))
