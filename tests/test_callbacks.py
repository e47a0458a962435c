import contextlib
import csv
import types

import keras
import numpy as np
import pytest

from keras_transformer.callbacks import AveragedWeights, GradientNorm, TokensPerSecond
from keras_transformer.metrics import Perplexity, TokenAccuracy
from keras_transformer.optimizers import Adam
from tests.random_models import ON_TENSORFLOW


class Clock:
    """Stands in for the module `time`; its seconds are set by the test."""

    def __init__(self):
        self.seconds = 100.0

    def monotonic(self):
        return self.seconds


class Training:
    """Plays fit for a callback, with given seconds and tokens for each batch."""

    def __init__(self, monkeypatch):
        self.clock = Clock()
        monkeypatch.setattr("keras_transformer.callbacks.time", self.clock)
        self.perplexity = Perplexity()
        self.callback = TokensPerSecond()
        self.callback.set_model(types.SimpleNamespace(metrics=[self.perplexity]))
        self.callback.on_train_begin()

    def begin_epoch(self):
        self.perplexity.reset_state()
        self.callback.on_epoch_begin(0)

    def batch(self, seconds, tokens):
        self.clock.seconds += seconds
        self.perplexity.num_tokens.assign_add(tokens)
        logs = {}
        self.callback.on_train_batch_end(0, logs)
        return logs["tokens_per_second"]

    def validate(self, seconds, tokens):
        self.callback.on_test_begin()
        self.perplexity.reset_state()
        self.clock.seconds += seconds
        self.perplexity.num_tokens.assign_add(tokens)

    def end_epoch(self):
        logs = {}
        self.callback.on_epoch_end(0, logs)
        return logs["tokens_per_second"]


@pytest.fixture
def training(monkeypatch):
    return Training(monkeypatch)


def test_speed_is_tokens_per_second_of_the_epoch(training):
    training.begin_epoch()
    training.batch(seconds=8, tokens=17)  # builds the graph, so it does not count
    assert training.batch(seconds=2, tokens=100) == 100 / 2
    assert training.batch(seconds=3, tokens=300) == 400 / 5
    assert training.end_epoch() == 400 / 5


def test_only_the_first_batch_of_a_fit_is_left_out(training):
    training.begin_epoch()
    training.batch(seconds=8, tokens=17)
    training.batch(seconds=2, tokens=100)
    training.end_epoch()
    training.begin_epoch()
    assert training.batch(seconds=4, tokens=20) == 20 / 4


def test_the_first_batch_counts_if_it_is_the_only_one(training):
    training.begin_epoch()
    assert training.batch(seconds=4, tokens=20) == 20 / 4
    assert training.end_epoch() == 20 / 4


def test_validation_counts_neither_tokens_nor_seconds(training):
    training.begin_epoch()
    training.batch(seconds=8, tokens=17)
    training.batch(seconds=2, tokens=100)
    training.validate(seconds=1000, tokens=5000)
    assert training.end_epoch() == 100 / 2
    training.begin_epoch()
    assert training.batch(seconds=1, tokens=70) == 70


def test_the_count_is_read_at_most_twice_a_second(training):
    training.begin_epoch()
    training.batch(seconds=8, tokens=17)
    training.batch(seconds=1, tokens=100)
    assert training.batch(seconds=0.25, tokens=1) == 100 / 1  # as before
    assert training.batch(seconds=0.125, tokens=1) == 100 / 1
    assert training.batch(seconds=0.625, tokens=18) == 120 / 2
    training.batch(seconds=0.25, tokens=15)
    assert training.end_epoch() == 135 / 2.25  # independent of earlier reads


def test_an_epoch_shows_only_its_own_speed(training):
    training.begin_epoch()
    training.batch(seconds=8, tokens=17)
    assert training.batch(seconds=0.25, tokens=100) == 100 / 0.25
    training.begin_epoch()
    assert training.batch(seconds=0.125, tokens=25) == 25 / 0.125


def small_model(**arguments):
    token_ids = keras.Input((None,), dtype="int32")
    logits = keras.layers.Dense(23)(keras.layers.Embedding(23, 12)(token_ids))
    model = keras.Model(token_ids, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss=loss, **arguments)
    return model


LABELS = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [5, 6, 7, 8, 9], [1, 2, 0, 0, 0]])


@pytest.mark.parametrize("argument", ["metrics", "weighted_metrics"])
def test_fit_reports_the_speed_in_progress_bar_history_and_csv(argument, capsys, tmp_path):
    model = small_model(**{argument: [TokenAccuracy(), Perplexity()]})
    log_file = tmp_path / "log.csv"
    history = model.fit(
        LABELS,
        LABELS,
        batch_size=1,
        epochs=2,
        validation_data=(LABELS, LABELS),
        verbose=1,
        callbacks=[TokensPerSecond(), keras.callbacks.CSVLogger(log_file)],
    ).history
    assert len(history["tokens_per_second"]) == 2
    assert min(history["tokens_per_second"]) > 0
    batches = [
        line for line in capsys.readouterr().out.replace("\r", "\n").split("\n") if "/4" in line
    ]
    assert len(batches) >= 2
    assert all("tokens_per_second: " in line for line in batches)
    with log_file.open() as file:
        rows = [float(row["tokens_per_second"]) for row in csv.DictReader(file)]
    assert rows == history["tokens_per_second"]


def test_fit_counts_the_target_tokens_without_padding(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("keras_transformer.callbacks.time", clock)

    class OneSecondForABatch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            clock.seconds += 1

    model = small_model(weighted_metrics=[Perplexity()])
    history = model.fit(
        LABELS,
        LABELS,
        batch_size=1,
        epochs=2,
        shuffle=False,
        validation_data=(LABELS[2:], LABELS[2:]),
        verbose=0,
        callbacks=[TokensPerSecond(), OneSecondForABatch()],
    ).history
    # 3, 1, 5 and 2 tokens; the first batch of the first epoch does not count.
    assert history["tokens_per_second"] == [(1 + 5 + 2) / 3, (3 + 1 + 5 + 2) / 4]


def test_the_callback_does_not_change_training():
    def weights_after_fit(callbacks):
        keras.utils.set_random_seed(5)
        model = small_model(weighted_metrics=[Perplexity()])
        model.fit(LABELS, LABELS, batch_size=2, epochs=2, verbose=0, callbacks=callbacks)
        return model.get_weights()

    with_it, without_it = weights_after_fit([TokensPerSecond()]), weights_after_fit([])
    for array, expected in zip(with_it, without_it, strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("metrics", [None, [TokenAccuracy()]])
def test_a_model_without_perplexity_is_refused(metrics):
    model = small_model(weighted_metrics=metrics)
    with pytest.raises(ValueError, match=r"Perplexity.*Received: metrics=\[.*\]\. Compile with"):
        model.fit(LABELS, LABELS, verbose=0, callbacks=[TokensPerSecond()])


INPUTS, OUTPUTS = np.eye(3, 4, dtype="float32"), np.arange(6, dtype="float32").reshape(3, 2)


def line_model(optimizer):
    """A model with one matrix (4, 2), whose loss has a closed form."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, use_bias=False)])
    model.compile(optimizer, loss="mse")
    return model


def loss_of(weights):
    return np.mean((INPUTS @ weights - OUTPUTS) ** 2)


class Weights(keras.callbacks.Callback):
    """Records the weights at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.arrays = []

    def on_epoch_end(self, epoch, logs=None):
        self.arrays += self.model.get_weights()


def fit(model, callbacks, epochs=3):
    """Three epochs of one update each."""
    data = {"x": INPUTS, "y": OUTPUTS, "validation_data": (INPUTS, OUTPUTS), "batch_size": 3}
    return model.fit(**data, epochs=epochs, verbose=0, callbacks=callbacks).history


def test_the_averages_are_validated_and_the_weights_are_trained():
    decay = 0.75
    own, averaged, after = Weights(), Weights(), Weights()
    fit(line_model(Adam(0.1)), [own])
    model = line_model(Adam(0.1, ema_decay=decay))
    history = fit(model, [averaged, AveragedWeights(), after])
    for epoch in range(3):
        # The callbacks after this one see the same training as without averages.
        np.testing.assert_array_equal(after.arrays[epoch], own.arrays[epoch])
        weights = decay ** np.arange(epoch, -1, -1)
        average = np.average(own.arrays[: epoch + 1], axis=0, weights=weights)
        np.testing.assert_allclose(averaged.arrays[epoch], average, rtol=1e-5)
        np.testing.assert_allclose(history["val_loss"][epoch], loss_of(average), rtol=1e-5)
    np.testing.assert_array_equal(model.get_weights()[0], own.arrays[2])  # also after fit
    assert not np.isclose(history["val_loss"][2], loss_of(own.arrays[2]), rtol=1e-3)


@pytest.mark.parametrize("by_whom", ["close", "the next fit"])
def test_weights_are_restored_after_an_interrupted_validation(by_whom):
    own = Weights()
    fit(line_model(Adam(0.1)), [own])

    class CutOff(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model, callback = line_model(Adam(0.1, ema_decay=0.75)), AveragedWeights()
    fit(model, [callback], epochs=2)
    with contextlib.closing(callback) if by_whom == "close" else contextlib.nullcontext():
        with pytest.raises(KeyboardInterrupt):
            fit(model, [callback, CutOff()], epochs=1)
        assert not np.allclose(model.get_weights()[0], own.arrays[2])
    if by_whom == "the next fit":
        model.fit(INPUTS, OUTPUTS, epochs=0, callbacks=[callback])
    np.testing.assert_array_equal(model.get_weights()[0], own.arrays[2])


def test_averaged_weights_need_an_optimizer_that_keeps_them():
    with pytest.raises(ValueError, match=r"keeps averages\. Received: optimizer=Adam\. Compile"):
        fit(line_model(Adam(0.1)), [AveragedWeights()])


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the norm is kept on TensorFlow")
def test_the_norm_of_the_gradient_is_in_the_epochs_logs():
    seen = Weights()
    history = fit(line_model(Adam(0.1, track_gradient_norm=True)), [GradientNorm(), seen])
    # The gradient of mean((XW - Y)**2), at the weights before the last update.
    before = seen.arrays[1]
    gradient = INPUTS.T @ (INPUTS @ before - OUTPUTS) * 2 / OUTPUTS.size
    np.testing.assert_allclose(history["gradient_norm"][2], np.linalg.norm(gradient), rtol=1e-5)


@pytest.mark.parametrize("optimizer", [Adam(0.1), keras.optimizers.SGD()], ids=["Adam", "SGD"])
def test_without_a_norm_the_logs_do_not_have_it(optimizer):
    assert "gradient_norm" not in fit(line_model(optimizer), [GradientNorm()])
