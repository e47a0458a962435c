import csv
import types

import keras
import numpy as np
import pytest

from keras_transformer.callbacks import TokensPerSecond
from keras_transformer.metrics import Perplexity, TokenAccuracy


class Clock:
    """Stands in for the module `time`; its seconds are set by the test."""

    def __init__(self):
        self.seconds = 100.0

    def monotonic(self):
        return self.seconds


class Training:
    """Plays fit for a callback: batches take the seconds and hold the tokens that it is told."""

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


def test_speed_is_tokens_by_seconds_of_the_epoch(training):
    training.begin_epoch()
    training.batch(seconds=8, tokens=17)  # builds the graph, does not count
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


def test_first_batch_counts_where_there_is_no_other(training):
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
    assert training.batch(seconds=0.25, tokens=1) == 100 / 1  # as it was
    assert training.batch(seconds=0.125, tokens=1) == 100 / 1
    assert training.batch(seconds=0.625, tokens=18) == 120 / 2
    training.batch(seconds=0.25, tokens=15)
    assert training.end_epoch() == 135 / 2.25  # whatever was read before


def small_model(**arguments):
    token_ids = keras.Input((None,), dtype="int32")
    logits = keras.layers.Dense(23)(keras.layers.Embedding(23, 12)(token_ids))
    model = keras.Model(token_ids, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss=loss, **arguments)
    return model


LABELS = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [5, 6, 7, 8, 9], [1, 2, 0, 0, 0]])


@pytest.mark.parametrize("argument", ["metrics", "weighted_metrics"])
def test_fit_shows_the_speed_in_bar_history_and_csv(argument, capsys, tmp_path):
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


def test_training_is_the_same_with_and_without_it():
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
