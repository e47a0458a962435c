import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.schedules import InverseSquareRootSchedule


def test_step_0_has_the_rate_of_step_1():
    schedule = InverseSquareRootSchedule(peak_learning_rate=0.005, warmup_steps=2000)
    assert np.isclose(float(schedule(0)), 0.005 / 2000, atol=0)
    assert np.isclose(float(schedule(1)), 0.005 / 2000, atol=0)


def test_the_rate_is_a_quarter_of_the_peak_at_a_quarter_and_at_16_times_the_warmup():
    schedule = InverseSquareRootSchedule(peak_learning_rate=0.8, warmup_steps=60)
    rates = [float(schedule(step)) for step in (15, 60, 60 * 16)]
    np.testing.assert_allclose(rates, [0.2, 0.8, 0.2], rtol=1e-6)


def test_optimizer_moves_a_weight_by_the_rates_of_the_first_updates():
    schedule = InverseSquareRootSchedule(peak_learning_rate=0.6, warmup_steps=3)
    optimizer = keras.optimizers.SGD(schedule)
    weight = keras.Variable([10.0])
    optimizer.build([weight])
    for _ in range(3):
        optimizer.apply([ops.ones((1,))])
    moved = 10.0 - float(ops.convert_to_numpy(weight.value)[0])
    assert np.isclose(moved, 0.2 + 0.2 + 0.4)  # steps 0, 1 and 2


def test_schedule_config_round_trip():
    schedule = InverseSquareRootSchedule(peak_learning_rate=0.005, warmup_steps=2000)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert isinstance(copy, InverseSquareRootSchedule)
    assert copy.get_config() == {"peak_learning_rate": 0.005, "warmup_steps": 2000}


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_peak_must_be_above_zero(rate):
    with pytest.raises(ValueError, match=r"above 0\. Received: peak_learning_rate="):
        InverseSquareRootSchedule(peak_learning_rate=rate, warmup_steps=4000)


def test_warmup_must_have_at_least_one_step():
    with pytest.raises(ValueError, match=r"at least 1\. Received: warmup_steps=0\. Choose"):
        InverseSquareRootSchedule(peak_learning_rate=0.1, warmup_steps=0)
