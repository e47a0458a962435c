import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.schedules import InverseSquareRootSchedule, paper_adam


def equation_3(model_dim, warmup_steps, step):
    return model_dim**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)


def rate_at(optimizer, step):
    optimizer.iterations.assign(step)
    return float(ops.convert_to_numpy(optimizer.learning_rate))


def test_both_branches_of_equation_3_meet_at_the_peak():
    assert np.isclose(rate_at(paper_adam(512), 4000), 512**-0.5 * 4000**-0.5)


@pytest.mark.parametrize("step", [1, 2, 1999, 2000, 2001, 100_000, 300_000])
def test_rate_of_each_step_is_equation_3(step):
    optimizer = paper_adam(128, warmup_steps=2000)
    assert np.isclose(rate_at(optimizer, step), equation_3(128, 2000, step), atol=0)


def test_step_0_has_the_rate_of_step_1():
    schedule = InverseSquareRootSchedule(peak_learning_rate=0.005, warmup_steps=2000)
    assert np.isclose(float(schedule(0)), 0.005 / 2000, atol=0)
    assert np.isclose(float(schedule(1)), 0.005 / 2000, atol=0)


def test_rate_is_a_quarter_of_the_peak_a_quarter_up_and_sixteen_times_down():
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


def test_scale_multiplies_the_rate():
    ours, papers = paper_adam(512, scale=3.0), paper_adam(512)
    assert np.isclose(rate_at(ours, 17), 3 * rate_at(papers, 17), atol=0)


def test_paper_adam_has_the_constants_of_section_5_3():
    optimizer = paper_adam(512)
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.98, 1e-9)


def test_schedule_config_round_trip():
    schedule = InverseSquareRootSchedule(peak_learning_rate=0.005, warmup_steps=2000)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert isinstance(copy, InverseSquareRootSchedule)
    assert copy.get_config() == {"peak_learning_rate": 0.005, "warmup_steps": 2000}


def test_optimizer_config_round_trip_keeps_the_schedule():
    optimizer = paper_adam(128, warmup_steps=50)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert np.isclose(rate_at(copy, 50), 128**-0.5 * 50**-0.5)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_peak_must_be_above_zero(rate):
    with pytest.raises(ValueError, match=r"above 0\. Received: peak_learning_rate="):
        InverseSquareRootSchedule(peak_learning_rate=rate, warmup_steps=4000)


def test_warmup_must_have_a_step():
    with pytest.raises(ValueError, match=r"at least 1\. Received: warmup_steps=0\. The paper"):
        InverseSquareRootSchedule(peak_learning_rate=0.1, warmup_steps=0)
    with pytest.raises(ValueError, match=r"at least 1\. Received: warmup_steps=0\. The paper"):
        paper_adam(512, warmup_steps=0)


def test_model_dim_must_be_positive():
    with pytest.raises(ValueError, match=r"at least 1\. Received: model_dim=0\. Pass the width"):
        paper_adam(0)


@pytest.mark.parametrize("scale", [0.0, -2.0])
def test_scale_must_be_above_zero(scale):
    with pytest.raises(ValueError, match=r"above 0\. Received: scale="):
        paper_adam(512, scale=scale)
