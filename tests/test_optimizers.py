"""Adam as one operation equals Keras' Adam; paper_adam follows section 5.3."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.optimizers import Adam, paper_adam
from keras_transformer.schedules import InverseSquareRootSchedule
from tests.random_models import ON_TENSORFLOW, numbers

ROOT = Path(__file__).parents[1]


def equation_3(model_dim, warmup_steps, step):
    return model_dim**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)


def rate_at(optimizer, step):
    optimizer.iterations.assign(step)
    return float(ops.convert_to_numpy(optimizer.learning_rate))


@pytest.fixture
def gradients():
    """Returns the gradients of 5 updates, for variables of shapes (3, 4) and (4,)."""
    generator = np.random.default_rng(7)
    return [
        [generator.normal(size=shape).astype("float32") for shape in ((3, 4), (4,))]
        for _ in range(5)
    ]


def updated(optimizer, gradients):
    """Returns the variables and the optimizer's state after the updates."""
    variables = [keras.Variable(np.ones(gradient.shape, "float32")) for gradient in gradients[0]]
    optimizer.build(variables)
    for update in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient) for gradient in update], variables)
    return [numbers(variable.value) for variable in [*variables, *optimizer.variables]]


OPTIONS = [
    {},
    {"beta_1": 0.8, "beta_2": 0.98, "epsilon": 1e-3},
    {"gradient_accumulation_steps": 2},
    {"weight_decay": 0.1, "clipnorm": 0.5, "use_ema": True},
    {"amsgrad": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_updates_like_keras_adam(gradients, options):
    ours = updated(Adam(0.01, **options), gradients)
    theirs = updated(keras.optimizers.Adam(0.01, **options), gradients)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-7)
    assert not np.allclose(ours[0], 1.0)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="one operation a variable is for TensorFlow")
def test_another_variable_adds_four_operations_to_the_graph():
    """The four are the update, and one read each of the variable and its two slots."""
    import tensorflow as tf

    def num_operations(num_variables):
        variables = [keras.Variable(np.ones(3, "float32")) for _ in range(num_variables)]
        optimizer = Adam(InverseSquareRootSchedule(0.1, 10))
        optimizer.build(variables)
        update = tf.function(lambda *gradients: optimizer.apply(gradients, variables))
        gradients = [tf.ones(3)] * num_variables
        graph = update.get_concrete_function(*gradients).graph
        return len(graph.get_operations()) - num_variables  # the gradients are arguments

    assert num_operations(7) - num_operations(2) == 5 * 4


@pytest.mark.skipif(not ON_TENSORFLOW, reason="one operation a variable is for TensorFlow")
def test_variables_of_several_dtypes_are_updated_in_their_own():
    def train(optimizer):
        variables = [keras.Variable(np.ones(3), dtype=dtype) for dtype in ("float32", "float64")]
        optimizer.build(variables)
        optimizer.apply([ops.cast([1.0, 2.0, 3.0], v.dtype) for v in variables], variables)
        return [numbers(variable.value) for variable in variables]

    for ours, theirs in zip(train(Adam(0.1)), train(keras.optimizers.Adam(0.1)), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="one operation a variable is for TensorFlow")
def test_a_sparse_gradient_updates_like_a_dense_one():
    import tensorflow as tf

    def train(optimizer, gradient):
        table = keras.Variable(np.ones((5, 2), "float32"))
        optimizer.build([table])
        optimizer.apply([gradient], [table])
        return numbers(table.value)

    # Row 1 occurs twice, like a token that occurs twice in a batch.
    rows = tf.IndexedSlices(tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.constant([1, 1]), [5, 2])
    np.testing.assert_allclose(
        train(Adam(0.1), rows),
        train(keras.optimizers.Adam(0.1), tf.convert_to_tensor(rows)),
        rtol=1e-6,
    )


@pytest.mark.skipif(not ON_TENSORFLOW, reason="one operation a variable is for TensorFlow")
def test_it_updates_the_copies_on_several_devices():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        variable, optimizer = keras.Variable(np.ones(3, "float32")), Adam(0.1)
        optimizer.build([variable])

    @tf.function
    def update():
        strategy.run(lambda: optimizer.apply([tf.constant([1.0, 2.0, 3.0])], [variable]))

    update()
    np.testing.assert_allclose(numbers(variable.value), [0.9, 0.9, 0.9], rtol=1e-5)


def test_clipping_is_refused_where_replicas_accumulate(monkeypatch):
    monkeypatch.setattr(Adam, "_accumulates_on_replicas", lambda self: True)
    optimizer = Adam(0.1, gradient_accumulation_steps=2, global_clipnorm=1.0)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    with pytest.raises(ValueError, match="global_clipnorm and weight_decay must be None when"):
        optimizer.apply([ops.ones((1,))])


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}], ids=str)
@pytest.mark.parametrize("parts", [None, 2, 3])
def test_later_updates_reduce_an_earlier_updates_weight_in_the_average(parts, options):
    decay, num_updates = 0.8, 5
    generator = np.random.default_rng(7)
    optimizer = Adam(0.1, ema_decay=decay, gradient_accumulation_steps=parts, **options)
    variables = [keras.Variable(np.full(shape, 9.0, "float32")) for shape in ((3, 4), (4,))]
    optimizer.build(variables)
    history = []
    for update in range(1, num_updates + 1):
        for _ in range(parts or 1):
            gradients = [generator.normal(size=variable.shape) for variable in variables]
            optimizer.apply([ops.convert_to_tensor(g, "float32") for g in gradients], variables)
        history.append([numbers(variable.value).astype("float64") for variable in variables])
        weights = decay ** np.arange(update - 1, -1, -1)
        for values, average in zip(zip(*history, strict=True), optimizer.averages, strict=True):
            expected = np.average(values, axis=0, weights=weights)
            np.testing.assert_allclose(numbers(average.value), expected, rtol=1e-6)


def test_the_average_changes_only_with_whole_updates(gradients):
    optimizer = Adam(0.1, ema_decay=0.5, gradient_accumulation_steps=3)
    averages = []
    variables = [keras.Variable(np.ones(gradient.shape, "float32")) for gradient in gradients[0]]
    optimizer.build(variables)
    for part in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient) for gradient in part], variables)
        averages.append(numbers(optimizer.averages[1].value))
    assert (averages[0] == 0).all() and (averages[1] == 0).all()
    np.testing.assert_allclose(averages[2], numbers(variables[1].value), rtol=1e-6)
    np.testing.assert_array_equal(averages[3], averages[2])
    np.testing.assert_array_equal(averages[4], averages[2])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_average_changes_nothing_else(gradients, options):
    without = updated(Adam(0.01, **options), gradients)
    averaged = updated(Adam(0.01, ema_decay=0.9, track_gradient_norm=True, **options), gradients)
    assert len(averaged) == len(without) + 2  # the averages, after all others
    for ours, theirs in zip(averaged, without, strict=False):
        np.testing.assert_array_equal(ours, theirs)


def test_after_many_updates_the_average_uses_the_given_decay():
    # In float32, 1 - 0.9999 loses four of its seven digits.
    optimizer = Adam(1e-12, ema_decay=0.9999)
    variable = keras.Variable(np.ones(1, "float32"))
    optimizer.build([variable])
    optimizer.iterations.assign(10_000_000)
    optimizer.apply([ops.zeros((1,))], [variable])
    np.testing.assert_allclose(numbers(optimizer.averages[0].value), [1e-4], rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, float("nan")])
def test_a_decay_must_lie_between_zero_and_one(decay):
    with pytest.raises(ValueError, match="above 0 and below 1. Received: ema_decay=.*0.999"):
        Adam(0.1, ema_decay=decay)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the norm is kept on TensorFlow")
@pytest.mark.parametrize(
    "options", [{}, {"clipnorm": 0.1}, {"global_clipnorm": 0.1}, {"clipvalue": 0.1}], ids=str
)
@pytest.mark.parametrize("is_graph", [False, True])
def test_the_norm_is_over_all_gradients_before_clipping(options, is_graph):
    import tensorflow as tf

    optimizer = Adam(0.1, track_gradient_norm=True, **options)
    variables = [keras.Variable(np.ones(shape, "float32")) for shape in ((1, 2), (3,))]
    optimizer.build(variables)

    def update(first, second):
        optimizer.apply([first, second], variables)

    if is_graph:
        update = tf.function(update)
    for scale in (1.0, -2.0):
        update(scale * tf.constant([[3.0, 4.0]]), scale * tf.constant([0.0, 12.0, 0.0]))
        np.testing.assert_allclose(optimizer.gradient_norm.numpy(), 13 * abs(scale), rtol=1e-6)
    assert len(optimizer.variables) == len(Adam(0.1).variables) + 4  # two momenta each


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the norm is kept on TensorFlow")
def test_the_norm_is_taken_of_the_mean_over_an_updates_parts():
    import tensorflow as tf

    optimizer = Adam(0.1, track_gradient_norm=True, gradient_accumulation_steps=2)
    variable = keras.Variable(np.ones(2, "float32"))
    optimizer.build([variable])
    norms = []
    for gradient in ([1.0, 9.0], [5.0, -1.0], [7.0, 7.0]):
        optimizer.apply([tf.constant(gradient)], [variable])
        norms.append(float(optimizer.gradient_norm.numpy()))
    np.testing.assert_allclose(norms, [0.0, 5.0, 5.0], rtol=1e-6)  # of (3, 4)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the norm is kept on TensorFlow")
def test_the_norm_adds_up_the_rows_of_a_sparse_gradient():
    import tensorflow as tf

    optimizer = Adam(0.1, track_gradient_norm=True)
    table = keras.Variable(np.ones((5, 2), "float32"))
    optimizer.build([table])
    rows = tf.IndexedSlices(tf.constant([[1.0, 1.0], [2.0, 3.0]]), tf.constant([1, 1]), [5, 2])
    optimizer.apply([rows], [table])
    np.testing.assert_allclose(optimizer.gradient_norm.numpy(), 5.0, rtol=1e-6)  # of (3, 4)


def adam_in_numpy(gradients, variables, rate, clip_norm):
    """Runs Kingma and Ba's algorithm in float64, in the formulation before section 2.1."""
    beta_1, beta_2, epsilon = 0.9, 0.98, 1e-9
    means = [np.zeros(variable.shape) for variable in variables]
    squares = [np.zeros(variable.shape) for variable in variables]
    for t, update in enumerate(gradients, start=1):
        norm = np.sqrt(sum((gradient.astype("float64") ** 2).sum() for gradient in update))
        step = rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        for i, gradient in enumerate(update):
            clipped = gradient * min(1, clip_norm / norm)
            means[i] = beta_1 * means[i] + (1 - beta_1) * clipped
            squares[i] = beta_2 * squares[i] + (1 - beta_2) * clipped**2
            variables[i] = variables[i] - step * means[i] / (np.sqrt(squares[i]) + epsilon)
    return variables


def assert_clipped_as_in_numpy(variables, gradients, clip_norm):
    ones = [np.ones(gradient.shape) for gradient in gradients[0]]
    expected = adam_in_numpy(gradients, ones, 0.1, clip_norm)
    for variable, array in zip(variables, expected, strict=True):
        np.testing.assert_allclose(numbers(variable.value), array, rtol=1e-4)


@pytest.fixture
def rising_gradients(gradients):
    """Gradients of norms 1, 2, 3, 4 and 5; a limit of 2.5 clips the last three."""
    for norm, update in enumerate(gradients, start=1):
        length = np.sqrt(sum((gradient**2).sum() for gradient in update))
        for gradient in update:
            gradient *= norm / length
    return gradients


CLIPPED = {"beta_2": 0.98, "epsilon": 1e-9, "clip_norm": 2.5}


def applied(optimizer, batches):
    """Returns the variables after applying each batch's gradients, whole or in parts."""
    variables = [keras.Variable(np.ones(gradient.shape, "float32")) for gradient in batches[0]]
    optimizer.build(variables)
    for batch in batches:
        optimizer.apply([ops.convert_to_tensor(gradient) for gradient in batch], variables)
    return variables


def test_an_updates_gradient_is_scaled_down_to_the_limit(rising_gradients):
    variables = applied(Adam(0.1, **CLIPPED), rising_gradients)
    assert_clipped_as_in_numpy(variables, rising_gradients, 2.5)


def in_parts(gradients):
    """Splits each gradient into two with the same mean, both far above any limit."""
    for update in gradients:
        yield [gradient + 100 for gradient in update]
        yield [gradient - 100 for gradient in update]


def test_the_limit_applies_to_the_mean_over_an_updates_parts(rising_gradients):
    optimizer = Adam(0.1, **CLIPPED, gradient_accumulation_steps=2)
    variables = applied(optimizer, [*in_parts(rising_gradients)])
    assert_clipped_as_in_numpy(variables, rising_gradients, 2.5)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="on JAX, Keras' scaling works within fit alone")
def test_the_limit_applies_to_the_gradient_without_the_loss_scale(rising_gradients):
    optimizer = keras.optimizers.LossScaleOptimizer(Adam(0.1, **CLIPPED), initial_scale=1024.0)
    scaled = [[1024 * gradient for gradient in update] for update in rising_gradients]
    assert_clipped_as_in_numpy(applied(optimizer, scaled), rising_gradients, 2.5)


def test_a_gradient_within_the_limit_does_not_change(gradients):
    for ours, theirs in zip(
        updated(Adam(0.01, clip_norm=1e6), gradients), updated(Adam(0.01), gradients), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_the_limit_works_where_the_squared_norm_overflows_float16():
    optimizer = Adam(0.1, beta_1=0.0, beta_2=0.0, epsilon=1e-3, clip_norm=1e-3)
    variable = keras.Variable(np.zeros(2, "float16"), dtype="float16")
    optimizer.build([variable])
    optimizer.apply([ops.convert_to_tensor([300.0, 400.0], "float16")], [variable])
    # m is 6e-4 and 8e-4, as is the root of v, to which epsilon adds 1e-3.
    expected = [-0.1 * 6 / 16, -0.1 * 8 / 18]
    np.testing.assert_allclose(numbers(variable.value), expected, rtol=1e-2)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the norm is kept on TensorFlow")
def test_the_norm_is_reported_before_the_limit():
    optimizer = Adam(0.1, track_gradient_norm=True, clip_norm=1.0)
    variable = keras.Variable(np.ones(2, "float32"))
    optimizer.build([variable])
    optimizer.apply([ops.convert_to_tensor([3.0, 4.0])], [variable])
    np.testing.assert_allclose(optimizer.gradient_norm.numpy(), 5.0, rtol=1e-6)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_must_be_above_zero(limit):
    with pytest.raises(ValueError, match="above 0 and finite. Received: clip_norm=.* or None"):
        paper_adam(512, clip_norm=limit)


def test_paper_adam_passes_the_limit_on():
    assert paper_adam(512, clip_norm=0.5).clip_norm == 0.5
    assert paper_adam(512).clip_norm is None


ON_SEVERAL_REPLICAS = """
import sys, numpy as np, tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
import keras
from keras_transformer.optimizers import Adam

path, steps, is_scaled = sys.argv[1], int(sys.argv[2]) or None, sys.argv[3] == "True"
shares = np.load(path)  # (updates * parts, replicas, 7)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1", "CPU:2"])
with strategy.scope():
    variables = [keras.Variable(np.ones(n, "float32")) for n in (3, 4)]
    adam = Adam(0.1, beta_2=0.98, epsilon=1e-9, clip_norm=2.5, track_gradient_norm=True,
                gradient_accumulation_steps=steps)
    optimizer = keras.optimizers.LossScaleOptimizer(adam, initial_scale=8.) if is_scaled else adam
    optimizer.build(variables)

@tf.function
def update(all_shares):
    def of_replica():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        share = tf.gather(all_shares, replica) * (8.0 if is_scaled else 1.0)
        optimizer.apply([share[:3], share[3:]], variables)
    strategy.run(of_replica)

norms = []
for step in shares:
    update(tf.constant(step))
    norms.append(adam.gradient_norm.numpy())
arrays = [np.array(v.value.values[2]) for v in variables]
np.savez(path + ".result", *arrays, norms=norms)
"""


@pytest.mark.slow
@pytest.mark.skipif(not ON_TENSORFLOW, reason="replicas are TensorFlow's")
@pytest.mark.parametrize(("parts", "is_scaled"), [(0, False), (2, False), (0, True)])
def test_the_limit_applies_to_the_sum_over_replicas(tmp_path, parts, is_scaled):
    generator = np.random.default_rng(7)
    whole = generator.normal(size=(5, 7))
    norms = np.arange(1, 6)
    whole *= (norms / np.linalg.norm(whole, axis=1))[:, None]  # norms 1 to 5
    steps = whole
    if parts:
        steps = np.stack([whole + 9, whole - 9], axis=1).reshape(10, 7)
    shares = generator.normal(size=(len(steps), 3, 7), scale=50)
    shares[:, 2] = steps - shares[:, 0] - shares[:, 1]
    np.save(tmp_path / "shares.npy", shares.astype("float32"))
    command = [sys.executable, "-c", ON_SEVERAL_REPLICAS, tmp_path / "shares.npy"]
    subprocess.run([*command, str(parts), str(is_scaled)], check=True, cwd=ROOT)
    result = np.load(tmp_path / "shares.npy.result.npz")
    expected = adam_in_numpy(
        [[update[:3], update[3:]] for update in whole], [np.ones(3), np.ones(4)], 0.1, 2.5
    )
    np.testing.assert_allclose(result["arr_0"], expected[0], rtol=1e-3)
    np.testing.assert_allclose(result["arr_1"], expected[1], rtol=1e-3)
    np.testing.assert_allclose(result["norms"][(parts or 1) - 1 :: parts or 1], norms, rtol=1e-3)


def test_no_norm_and_no_averages_are_kept_by_default():
    optimizer = Adam(0.1)
    optimizer.build([keras.Variable([1.0])])
    assert optimizer.gradient_norm is None
    assert optimizer.averages == []


def test_config_round_trip():
    own = {"ema_decay": 0.9, "track_gradient_norm": True, "clip_norm": 0.3}
    optimizer = Adam(0.02, beta_1=0.7, epsilon=1e-4, **own)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is Adam
    assert copy.get_config() == optimizer.get_config()


def test_both_branches_of_equation_3_meet_at_the_peak():
    assert np.isclose(rate_at(paper_adam(512), 4000), 512**-0.5 * 4000**-0.5)


def test_the_schedule_counts_updates_not_accumulated_batches():
    schedule = InverseSquareRootSchedule(1.0, warmup_steps=4)
    optimizer = Adam(schedule, gradient_accumulation_steps=3)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    rates = []
    for _ in range(9):
        optimizer.apply([keras.ops.ones((1,))])
        rates.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(rates, [0.25, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.75])


@pytest.mark.parametrize("step", [1, 2, 1999, 2000, 2001, 100_000, 300_000])
def test_the_rate_of_each_step_follows_equation_3(step):
    optimizer = paper_adam(128, warmup_steps=2000)
    assert np.isclose(rate_at(optimizer, step), equation_3(128, 2000, step), atol=0)


def test_scale_multiplies_the_rate():
    ours, papers = paper_adam(512, scale=3.0), paper_adam(512)
    assert np.isclose(rate_at(ours, 17), 3 * rate_at(papers, 17), atol=0)


def test_paper_adam_has_the_constants_of_section_5_3():
    optimizer = paper_adam(512)
    assert type(optimizer) is Adam
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.98, 1e-9)


def test_optimizer_config_round_trip_keeps_the_schedule():
    optimizer = paper_adam(128, warmup_steps=50)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert np.isclose(rate_at(copy, 50), 128**-0.5 * 50**-0.5)


def test_model_dim_must_be_positive():
    with pytest.raises(ValueError, match=r"at least 1\. Received: model_dim=0\. Pass the width"):
        paper_adam(0)


@pytest.mark.parametrize("scale", [0.0, -2.0])
def test_scale_must_be_above_zero(scale):
    with pytest.raises(ValueError, match=r"above 0\. Received: scale="):
        paper_adam(512, scale=scale)


def test_paper_adam_needs_at_least_one_warmup_step():
    with pytest.raises(ValueError, match=r"at least 1\. Received: warmup_steps=0\. Choose"):
        paper_adam(512, warmup_steps=0)
