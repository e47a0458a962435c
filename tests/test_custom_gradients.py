"""Gradients given by a formula are right everywhere, and are released with their graph."""

import functools
import gc
import weakref

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.custom_gradients import with_gradient
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.losses import LabelSmoothedCrossentropy
from tests.random_models import TENSORFLOW_ONLY, numbers, random_vectors


def cube(x):
    """Returns x ** 3 with the gradient 100 x, which no backend would derive."""

    def function(x):
        square = x * x
        return square * x, (square,)

    return with_gradient("cube_of_test", function, _hundredfold, x)


def _hundredfold(upstream, x, square):
    return (upstream * 100.0 * square / x,)


def gradient_of(function, x):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def in_a_function(function):
    import tensorflow as tf

    return tf.function(function, autograph=False)


def in_a_loop(function):
    """Three times in a row: from 2 to 8 to 512."""
    import tensorflow as tf

    def function_of_loop(x):
        return tf.while_loop(lambda n, _: n < 3, lambda n, x: (n + 1, function(x)), (0, x))[1]

    return function_of_loop


def in_a_branch(function):
    import tensorflow as tf

    return lambda x: tf.cond(x > 0, lambda: function(x), lambda: x)


@TENSORFLOW_ONLY
@pytest.mark.parametrize(
    "place",
    [
        lambda f: functools.partial(gradient_of, f),
        lambda f: in_a_function(functools.partial(gradient_of, f)),
        lambda f: functools.partial(gradient_of, in_a_function(f)),
        lambda f: functools.partial(gradient_of, in_a_function(in_a_function(f))),
        lambda f: functools.partial(gradient_of, in_a_function(in_a_branch(f))),
        lambda f: in_a_function(functools.partial(gradient_of, in_a_branch(in_a_function(f)))),
    ],
    ids=["eager", "tape inside", "tape outside", "nested", "branch outside", "branch inside"],
)
def test_the_gradient_is_the_written_one(place):
    import tensorflow as tf

    assert float(place(cube)(tf.constant(2.0))) == 200


@TENSORFLOW_ONLY
@pytest.mark.parametrize("is_tape_outside", [True, False])
def test_the_gradient_is_the_written_one_in_a_loop(is_tape_outside):
    import tensorflow as tf

    if is_tape_outside:
        gradient = gradient_of(in_a_function(in_a_loop(cube)), tf.constant(2.0))
    else:
        gradient = in_a_function(functools.partial(gradient_of, in_a_loop(cube)))(tf.constant(2.0))
    assert float(gradient) == 200 * 800 * 51200


@TENSORFLOW_ONLY
def test_the_gradient_is_the_written_one_with_xla_and_for_tf_gradients():
    import tensorflow as tf

    def by_tf_gradients(x):
        return tf.gradients(cube(x), x)[0]

    assert float(in_a_function(by_tf_gradients)(tf.constant(2.0))) == 200
    compiled = tf.function(functools.partial(gradient_of, cube), jit_compile=True)
    assert float(compiled(tf.constant(2.0))) == 200


@TENSORFLOW_ONLY
def test_the_gradient_is_the_written_one_on_replicas():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    on_replicas = in_a_function(
        lambda: strategy.run(gradient_of, (cube, tf.constant(2.0)))  # in a thread of its own
    )
    assert float(on_replicas()) == 200


def test_the_output_equals_the_functions():
    assert float(cube(ops.convert_to_tensor(2.0))) == 8


def training_step(layer, loss):
    """Returns the gradients of a normalization below a loss, as Keras' `fit` computes them."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def step(x, labels):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(labels, layer(x, training=True))
        return tape.gradient(value, x)

    return step


@TENSORFLOW_ONLY
def test_a_graph_is_released_with_its_function():
    layer, loss = LayerNormalization(), LabelSmoothedCrossentropy()
    x, labels = ops.convert_to_tensor(random_vectors(2, 5, 12)), np.ones((2, 5), "int32")
    step = training_step(layer, loss)
    step(x, labels)
    graph = weakref.ref(step.get_concrete_function(x, labels).graph)
    assert graph() is not None
    del step
    gc.collect()
    assert graph() is None


@TENSORFLOW_ONLY
def test_an_eager_gradient_tape_is_released():
    import tensorflow as tf

    x = tf.constant(random_vectors(2, 5, 12))
    kept = []

    def noted(x):
        y = cube(x)
        kept.append(weakref.ref(y))
        return y

    gradient_of(noted, x)
    gc.collect()
    assert kept[0]() is None


@TENSORFLOW_ONLY
def test_without_training_the_graph_holds_no_gradient():
    """Loading a graph with such a gradient would register it, and keep the graph forever."""
    import tensorflow as tf

    layer = LayerNormalization()
    layer.build((None, None, 12))

    def marks(**options):
        traced = tf.function(lambda x: layer(x, **options), autograph=False)
        graph = traced.get_concrete_function(tf.TensorSpec([None, None, 12])).graph
        nodes = graph.as_graph_def().node
        return sum("_gradient_op_type" in node.attr for node in nodes)

    assert marks(training=True) == 1
    assert marks() == marks(training=False) == 0


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_training_with_written_gradients_equals_training_with_derived_ones(policy, monkeypatch):
    """Compares one update of a small network."""

    def update():
        keras.utils.set_random_seed(3)
        inputs = keras.Input((5, 12))
        hidden = LayerNormalization(epsilon=1e-6, dtype=policy)(inputs)
        logits = keras.layers.Dense(23, dtype="float32")(hidden)
        model = keras.Model(inputs, logits)
        model.compile(keras.optimizers.SGD(1.0), LabelSmoothedCrossentropy(0.1))
        labels = np.random.default_rng(1).integers(0, 23, (2, 5)).astype("int32")
        model.train_on_batch(random_vectors(2, 5, 12), labels)
        return model.get_weights()

    def derived(name, function, gradient, *arguments):
        return function(*arguments)[0]

    written = update()
    for module in ("layers.normalization", "losses"):
        monkeypatch.setattr(f"keras_transformer.{module}.with_gradient", derived)
    for ours, theirs in zip(written, update(), strict=True):
        np.testing.assert_allclose(numbers(ours), numbers(theirs), atol=1e-5)
