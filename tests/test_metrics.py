import keras
import numpy as np
import pytest

from keras_transformer.losses import LabelSmoothedCrossentropy
from keras_transformer.metrics import Perplexity, TokenAccuracy

# p = 1/2, 1/4, 1/8, 1/8: labels 0 to 3 alone have perplexity 2, 4, 8 and 8.
POWERS_OF_TWO = np.log([1 / 2, 1 / 4, 1 / 8, 1 / 8])


def same_everywhere(labels):
    return np.broadcast_to(POWERS_OF_TWO, (*labels.shape, 4))


def test_perplexity_of_equal_logits_is_the_vocabulary_size():
    perplexity = Perplexity()
    perplexity.update_state(np.array([[5, 7, 0]]), np.ones((1, 3, 23)))
    assert np.isclose(float(perplexity.result()), 23)


def test_perplexity_weighs_tokens_not_batches():
    perplexity = Perplexity()
    three_tokens, one_token = np.array([[1, 1, 1]]), np.array([[3, 0, 0], [0, 0, 0]])
    perplexity.update_state(three_tokens, same_everywhere(three_tokens))
    perplexity.update_state(one_token, same_everywhere(one_token))
    # 2, 2, 2 and 3 bits; the mean of the batches' means would be 2.5 bits.
    assert np.isclose(float(perplexity.result()), 2 ** (9 / 4))
    assert float(perplexity.num_tokens) == 4
    assert np.isclose(float(perplexity.total), 9 * np.log(2))


def test_perplexity_agrees_with_the_unsmoothed_loss_of_keras():
    generator = np.random.default_rng(3)
    labels = generator.integers(1, 23, (2, 7))
    logits = generator.normal(0, 3, (2, 7, 23)).astype("float32")
    perplexity = Perplexity()
    perplexity.update_state(labels, logits)
    mean = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)
    assert np.isclose(float(perplexity.result()), np.exp(float(mean)), rtol=1e-5)


@pytest.mark.parametrize("weights", [[3.0, 1.0], [[3.0], [1.0]], [[3.0, 3.0], [1.0, 1.0]]])
def test_weights_count_sentences_or_tokens_several_times(weights):
    labels = np.array([[1, 2], [3, 0]])
    perplexity = Perplexity()
    perplexity.update_state(labels, same_everywhere(labels), sample_weight=np.array(weights))
    # Bits 2 and 3 three times, 3 once.
    assert np.isclose(float(perplexity.result()), 2 ** ((3 * (2 + 3) + 3) / 7))
    assert float(perplexity.num_tokens) == 7


def test_accuracy_is_the_share_of_tokens_whose_logit_is_highest():
    logits = np.zeros((2, 3, 23))
    logits[:, :, 5] = 1.0
    logits[1, 0, 0] = 2.0
    accuracy = TokenAccuracy()
    # Right, right, wrong; padding is predicted but wrong; two paddings are ignored.
    accuracy.update_state(np.array([[5, 5, 6], [5, 0, 0]]), logits)
    assert float(accuracy.result()) == 2 / 4
    # The share in the whole corpus, not the mean of the batches' shares.
    accuracy.update_state(np.array([[5, 5, 5], [0, 0, 5]]), logits)
    assert float(accuracy.result()) == 6 / 8


def test_of_equal_logits_the_lowest_id_is_the_prediction():
    accuracy = TokenAccuracy()
    logits = np.array([0.0, 3.0, 1.0, 3.0])
    accuracy.update_state(np.array([[1, 3]]), np.broadcast_to(logits, (1, 2, 4)))
    assert float(accuracy.result()) == 1 / 2


def test_accuracy_of_weighted_sentences():
    labels = np.array([[5, 5], [6, 0]])
    logits = np.broadcast_to(np.eye(23)[5], (2, 2, 23))
    accuracy = TokenAccuracy()
    accuracy.update_state(labels, logits, sample_weight=np.array([0.25, 1.5]))
    assert float(accuracy.result()) == 0.5 / (0.5 + 1.5)


@pytest.mark.parametrize(("metric_class", "nothing"), [(Perplexity, 1.0), (TokenAccuracy, 0.0)])
def test_after_a_reset_or_padding_only_the_state_is_empty(metric_class, nothing):
    metric = metric_class()
    assert float(metric.result()) == nothing
    labels = np.array([[1, 2, 3]])
    metric.update_state(labels, same_everywhere(labels))
    assert float(metric.num_tokens) == 3
    metric.reset_state()
    metric.update_state(0 * labels, same_everywhere(labels))
    assert float(metric.num_tokens) == 0
    assert float(metric.result()) == nothing


@pytest.mark.parametrize("metric_class", [Perplexity, TokenAccuracy])
def test_config_round_trip(metric_class):
    metric = metric_class(name="other")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert isinstance(copy, metric_class)
    assert copy.get_config() == metric.get_config()
    assert copy.name == "other"


# bfloat16 rounds the logits, which are at most 3 ln 2, by up to 1/256 of them.
@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 0.01)])
def test_fit_and_evaluate_report_the_metrics_of_all_tokens(policy, tolerance):
    hidden = keras.Input((None, 12))
    # The logits are the bias only.
    outputs = keras.layers.Dense(4, dtype=policy)(hidden)
    model = keras.Model(hidden, outputs)
    model.layers[-1].set_weights([np.zeros((12, 4)), POWERS_OF_TWO])
    model.compile(
        keras.optimizers.SGD(0.0),
        loss=LabelSmoothedCrossentropy(label_smoothing=0.3),  # which the metrics ignore
        weighted_metrics=[Perplexity(), TokenAccuracy()],
    )
    labels = np.array([[1, 2, 3], [1, 0, 0], [1, 1, 0]])  # 2 + 3 + 3 + 2 + 2 + 2 bits
    inputs = np.ones((3, 3, 12))
    history = model.fit(inputs, labels, batch_size=2, verbose=0).history
    scores = model.evaluate(inputs, labels, batch_size=1, verbose=0, return_dict=True)
    for logs in ({key: values[0] for key, values in history.items()}, scores):
        assert np.isclose(logs["perplexity"], 2 ** (14 / 6), rtol=tolerance)
        assert logs["token_accuracy"] == 0.0  # padding, id 0, is the most probable


def fit(*callbacks):
    """Trains a model for an epoch, with both metrics and some callbacks."""
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Embedding(7, 7)(inputs))
    metrics = [Perplexity(), TokenAccuracy()]
    model.compile("sgd", LabelSmoothedCrossentropy(), weighted_metrics=metrics)
    ids = np.array([[3, 5, 4]])
    model.fit(ids, ids, validation_data=(ids, ids), callbacks=callbacks, verbose=0)
    return model


@pytest.mark.parametrize("monitor", ["val_perplexity", "token_accuracy"])
def test_keras_callbacks_know_which_value_is_better(monitor, tmp_path):
    checkpoint = tmp_path / "best.keras"
    callbacks = [
        keras.callbacks.EarlyStopping(monitor),
        keras.callbacks.ReduceLROnPlateau(monitor, min_delta=0.0),
        keras.callbacks.ModelCheckpoint(checkpoint, monitor, save_best_only=True),
    ]
    fit(*callbacks)
    for callback in callbacks:
        assert callback.monitor_op(1.0, 2.0) == (monitor == "val_perplexity")
    assert checkpoint.exists()


def test_a_saved_models_metrics_keep_names_and_classes(tmp_path):
    model = fit()
    model.save(tmp_path / "model.keras")
    read = keras.saving.load_model(tmp_path / "model.keras")
    ids = np.array([[3, 5, 4]])
    assert read.evaluate(ids, ids, verbose=0, return_dict=True) == pytest.approx(
        model.evaluate(ids, ids, verbose=0, return_dict=True)
    )


def test_keras_tuner_knows_which_value_is_better():
    keras_tuner = pytest.importorskip("keras_tuner", exc_type=ImportError)
    for name, direction in [("val_perplexity", "min"), ("val_token_accuracy", "max")]:
        oracle = keras_tuner.oracles.RandomSearchOracle(objective=name)
        assert oracle.objective.direction == direction


@pytest.mark.parametrize("floatx", ["bfloat16", "float16", "float64"])
def test_tokens_are_counted_exactly_with_any_floatx(floatx):
    """In bfloat16 a count that grows by one would stop at 256, in float16 at 2,048."""
    earlier = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        perplexity = Perplexity()
        labels = np.ones((1, 1))
        for _ in range(3):
            perplexity.update_state(np.ones((100, 41)), np.zeros((100, 41, 7), "float32"))
        perplexity.update_state(labels, np.zeros((1, 1, 7), "float32"))
    finally:
        keras.config.set_floatx(earlier)
    assert float(perplexity.num_tokens) == 12_301
    assert np.isclose(float(perplexity.result()), 7)
