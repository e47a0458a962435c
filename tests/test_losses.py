import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.losses import LabelSmoothedCrossentropy
from tests.random_models import (
    SLOW_TO_COMPILE,
    numbers,
    random_ids,
    random_transformer,
    small_config,
)

LN2 = np.log(2)
# p = 1/2, 1/4, 1/8, 1/8: their negative logarithms are 1, 2, 3 and 3 times ln 2.
POWERS_OF_TWO = np.log([1 / 2, 1 / 4, 1 / 8, 1 / 8]).astype("float32")


def random_batch(batch=2, length=5, vocabulary=23):
    generator = np.random.default_rng(7)
    labels = generator.integers(1, vocabulary, (batch, length)).astype("int32")
    labels[0, 3:] = 0
    logits = generator.normal(0, 3, (batch, length, vocabulary)).astype("float32")
    return labels, logits


def softmax(logits):
    powers = np.exp(logits.astype("float64"))
    return powers / powers.sum(-1, keepdims=True)


def test_smoothing_spreads_over_the_whole_vocabulary():
    loss = LabelSmoothedCrossentropy(label_smoothing=0.2)(
        np.array([[2]]), POWERS_OF_TWO[None, None] + 5.0
    )
    # 0.8 of the label's 3 ln 2, and 0.2 / 4 of each of the four, the label and padding included.
    assert np.isclose(float(loss), (0.8 * 3 + 0.05 * (1 + 2 + 3 + 3)) * LN2)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_equal_logits_have_the_loss_log_vocabulary_for_any_smoothing(label_smoothing):
    loss = LabelSmoothedCrossentropy(label_smoothing)(np.array([[5, 7]]), np.ones((1, 2, 23)))
    assert np.isclose(float(loss), np.log(23))


def test_agrees_with_smoothed_one_hot_labels_of_keras():
    labels, logits = random_batch()
    ours = LabelSmoothedCrossentropy(label_smoothing=0.3, reduction=None)(labels, logits)
    keras_loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.3, reduction=None
    )
    theirs = numbers(keras_loss(np.eye(23)[labels], logits))
    np.testing.assert_allclose(numbers(ours), theirs * (labels != 0), rtol=1e-5)


def test_agrees_with_sparse_crossentropy_of_keras_without_smoothing():
    labels, logits = random_batch()
    ours = LabelSmoothedCrossentropy(label_smoothing=0.0, reduction=None)(labels, logits)
    theirs = numbers(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))
    np.testing.assert_allclose(numbers(ours), theirs * (labels != 0), rtol=1e-5)


def gradients_by_one_update(labels, logits, **arguments):
    """Returns the change of the logits, as weights, by gradient descent with rate 1."""
    batch, length, vocabulary = logits.shape
    table = keras.layers.Embedding(batch * length, vocabulary)
    positions = keras.Input((length,), dtype="int32")
    model = keras.Model(positions, table(positions))
    table.set_weights([logits.reshape(-1, vocabulary)])
    model.compile(keras.optimizers.SGD(1.0), loss=LabelSmoothedCrossentropy(**arguments))
    model.train_on_batch(np.arange(batch * length).reshape(batch, length), labels)
    return logits - table.get_weights()[0].reshape(logits.shape)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_gradient_is_softmax_minus_the_smoothed_label(label_smoothing):
    labels, logits = random_batch()
    gradients = gradients_by_one_update(labels, logits, label_smoothing=label_smoothing)
    one_hot = np.eye(23)[labels]
    expected = softmax(logits) - (1 - label_smoothing) * one_hot - label_smoothing / 23
    expected *= (labels != 0)[:, :, None] / 8  # 10 positions, 2 of them padding
    np.testing.assert_allclose(gradients, expected, atol=1e-6)


def test_padding_has_no_gradient():
    labels, logits = random_batch()
    gradients = gradients_by_one_update(labels, logits)
    assert np.all(gradients[0, 3:] == 0)
    assert np.all(np.any(gradients[0, :3] != 0, axis=-1))


def test_the_gradient_of_a_batch_of_padding_only_is_zero():
    labels, logits = random_batch()
    assert np.all(gradients_by_one_update(0 * labels, logits) == 0)


def test_sum_is_divided_by_real_tokens():
    logits = np.broadcast_to(POWERS_OF_TWO, (2, 3, 4))
    labels = np.array([[1, 2, 3], [1, 0, 0]])
    loss = LabelSmoothedCrossentropy(label_smoothing=0.0)(labels, logits)
    assert np.isclose(float(loss), (2 + 3 + 3 + 2) / 4 * LN2)


def test_a_batch_of_padding_only_has_zero_loss():
    loss = LabelSmoothedCrossentropy()(np.zeros((2, 3), "int32"), np.ones((2, 3, 23)))
    assert float(loss) == 0.0


def test_more_padding_changes_nothing():
    labels, logits = random_batch()
    longer_labels = np.pad(labels, ((0, 0), (0, 4)))
    longer_logits = np.pad(logits, ((0, 0), (0, 4), (0, 0)), constant_values=1.5)
    loss = LabelSmoothedCrossentropy()
    assert np.isclose(float(loss(longer_labels, longer_logits)), float(loss(labels, logits)))


def test_without_reduction_each_token_has_its_loss_and_padding_zero():
    logits = np.broadcast_to(POWERS_OF_TWO, (1, 3, 4))
    losses = LabelSmoothedCrossentropy(0.0, reduction=None)(np.array([[3, 1, 0]]), logits)
    np.testing.assert_allclose(numbers(losses), [[3 * LN2, 2 * LN2, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("sample_weight", "expected"),
    [
        ([2.0, 5.0], [[2 * 2, 2 * 3], [5 * 2, 0]]),
        ([[2.0], [5.0]], [[2 * 2, 2 * 3], [5 * 2, 0]]),
        ([[2.0, 3.0], [5.0, 7.0]], [[2 * 2, 3 * 3], [5 * 2, 0]]),
    ],
)
def test_weights_scale_sentences_or_tokens(sample_weight, expected):
    logits = np.broadcast_to(POWERS_OF_TWO, (2, 2, 4))
    labels = np.array([[1, 2], [1, 0]])
    weights = np.array(sample_weight)
    losses = LabelSmoothedCrossentropy(0.0, reduction=None)(labels, logits, weights)
    np.testing.assert_allclose(numbers(losses), np.array(expected) * LN2, rtol=1e-6)
    mean = LabelSmoothedCrossentropy(0.0)(labels, logits, weights)
    assert np.isclose(
        float(mean), np.sum(expected) * LN2 / 3
    )  # 3 tokens, regardless of their weights


def test_the_loss_of_bfloat16_logits_is_computed_in_float32():
    logits = ops.cast(np.zeros((1, 2, 23)), "bfloat16")
    loss = LabelSmoothedCrossentropy()(np.array([[3, 4]]), logits)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    # bfloat16 has 8 bits: log 23 would be off by up to 0.008.
    assert np.isclose(float(loss), np.log(23), rtol=1e-6)


def test_a_label_whose_probability_underflows_has_a_finite_loss():
    logits = np.array([[[0.0, 5000.0, -5000.0, 0.0]]])
    loss = LabelSmoothedCrossentropy(0.0)(np.array([[2]]), logits)
    assert float(loss) == 10_000.0


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fit_reports_the_loss_of_an_untrained_model(policy):
    hidden = keras.Input((None, 12))
    logits = keras.layers.Dense(23, kernel_initializer="zeros", dtype=policy)(hidden)
    model = keras.Model(hidden, logits)
    model.compile(keras.optimizers.SGD(0.0), loss=LabelSmoothedCrossentropy())
    labels, _ = random_batch()
    history = model.fit(np.ones((2, 5, 12)), labels, verbose=0).history
    assert np.isclose(history["loss"][0], np.log(23))


def test_config_round_trip():
    loss = LabelSmoothedCrossentropy(label_smoothing=0.2, reduction=None, name="smooth")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(copy, LabelSmoothedCrossentropy)
    assert copy.get_config() == loss.get_config()
    assert copy.get_config() == {"label_smoothing": 0.2, "reduction": None, "name": "smooth"}


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, 10, float("nan")])
def test_label_smoothing_outside_its_range_is_refused(label_smoothing):
    with pytest.raises(ValueError, match=r"at least 0 and below 1\. Received: label_smoothing"):
        LabelSmoothedCrossentropy(label_smoothing)


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match=r"'mean_over_tokens' or None\. Received: reduction='sum'"):
        LabelSmoothedCrossentropy(reduction="sum")


@pytest.fixture
def dtype_policy(request):
    earlier = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(earlier)


@SLOW_TO_COMPILE
@pytest.mark.parametrize("normalize_first", [False, True])
@pytest.mark.parametrize(
    "dtype_policy",
    ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)],
    indirect=True,
)
def test_blank_rows_change_neither_loss_nor_update(normalize_first, dtype_policy):
    """A blank row has every key masked, which must not give NaN."""
    source_ids, target_ids, labels = random_ids(2, 5), random_ids(2, 7), random_ids(2, 7, seed=8)

    def loss_and_weights(num_blank):
        model = random_transformer(small_config(normalize_first=normalize_first, dropout=0.0))
        model.compile(keras.optimizers.SGD(0.1), LabelSmoothedCrossentropy())
        sides = [np.pad(ids, ((0, num_blank), (0, 0))) for ids in (source_ids, target_ids, labels)]
        inputs = {"source_ids": sides[0], "target_ids": sides[1]}
        return [model.train_on_batch(inputs, sides[2]), *model.get_weights()]

    for ours, theirs in zip(loss_and_weights(3), loss_and_weights(0), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
