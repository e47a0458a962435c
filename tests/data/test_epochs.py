import itertools
import warnings

import keras
import numpy as np
import pytest

from keras_transformer.data import Epochs, PairBatches, pair_batches
from keras_transformer.data.shares import weighted_share_of
from keras_transformer.errors import InputError
from keras_transformer.losses import LabelSmoothedCrossentropy
from keras_transformer.metrics import Perplexity
from tests.data.made_text import OneIdACharacter, random_lines


def numbered(epoch, index):
    ids = np.full((2, 1), 1 + 100 * epoch + index, "int32")
    return {"source_ids": ids, "target_ids": ids}, ids


def numbers(elements):
    return [int(labels[0, 0]) - 1 for _, labels, *_ in elements]


def test_epochs_are_streamed_one_after_the_other():
    epochs = Epochs(numbered, 3)
    assert numbers(itertools.islice(epochs.stream(), 7)) == [0, 1, 2, 100, 101, 102, 200]
    assert numbers(itertools.islice(epochs.stream(4, 2), 3)) == [402, 500, 501]


@pytest.mark.parametrize("form", ["dataset", "stream"])
def test_fit_does_not_warn_that_shuffle_has_no_effect(form):
    inputs = {name: keras.Input((None,), name=name) for name in ("source_ids", "target_ids")}
    model = keras.Model(inputs, keras.layers.Embedding(200, 200)(inputs["target_ids"]))
    model.compile("sgd", LabelSmoothedCrossentropy())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        data = getattr(Epochs(numbered, 3), form)()
        model.fit(data, epochs=2, steps_per_epoch=3, verbose=0)


@pytest.mark.parametrize("first_batch", [0, 1, 5, 8])
def test_the_dataset_yields_what_the_stream_yields(first_batch):
    epochs = Epochs(numbered, 3, accumulation_steps=3)
    num_left = len(epochs) - first_batch
    expected = list(itertools.islice(epochs.stream(2, first_batch), num_left))
    found = list(epochs.dataset(2, first_batch).as_numpy_iterator())
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one[0]["source_ids"], other[0]["source_ids"])
        np.testing.assert_array_equal(one[0]["target_ids"], other[0]["target_ids"])
        np.testing.assert_array_equal(one[1], other[1])
        np.testing.assert_array_equal(one[2], other[2])


def test_the_parts_of_a_batch_come_one_after_the_other():
    batches = PairBatches(random_lines(131), random_lines(131, seed=6), OneIdACharacter(), 211)
    epochs = batches.epochs(accumulation_steps=4)
    assert len(epochs) == 4 * len(batches)
    for index in (0, 3, 4, len(epochs) - 1):
        expected = weighted_share_of(batches.batch(1, index // 4), index % 4, 4)
        inputs, labels, weights = epochs.batch(1, index)
        np.testing.assert_array_equal(inputs["source_ids"], expected[0]["source_ids"])
        np.testing.assert_array_equal(labels, expected[1])
        np.testing.assert_array_equal(weights, expected[2])


@pytest.mark.parametrize("steps_per_epoch", [None, 7])
def test_pair_batches_can_be_split_into_parts_too(text_pair, steps_per_epoch):
    import tensorflow as tf

    settings = {"steps_per_epoch": steps_per_epoch, "accumulation_steps": 2}
    dataset = pair_batches(*text_pair, OneIdACharacter(), 211, **settings)
    assert dataset.element_spec[2] == tf.TensorSpec((None,), tf.float32)
    whole = pair_batches(*text_pair, OneIdACharacter(), 211, steps_per_epoch=steps_per_epoch)
    assert int(dataset.cardinality()) == 2 * int(whole.cardinality())


def test_the_original_error_of_a_batch_is_kept():
    import tensorflow as tf

    def at_fault(epoch, index):
        raise InputError("line 7")

    epochs = Epochs(at_fault, 3)
    assert epochs.fault is None
    with pytest.raises(tf.errors.InvalidArgumentError, match="line 7"):
        list(epochs.dataset())
    assert str(epochs.fault) == "line 7"


@pytest.mark.parametrize("setting", ["num_batches", "accumulation_steps"])
def test_zero_batches_and_zero_parts_are_refused(setting):
    with pytest.raises(InputError, match=f"{setting} must be at least 1"):
        Epochs(**{"batch": numbered, "num_batches": 3, setting: 0})


def test_accumulated_batches_weigh_the_loss_by_rows_rounded_up_and_perplexity_by_tokens():
    vocabulary = 7
    logits = np.random.default_rng(7).normal(size=(vocabulary, vocabulary)).astype("float32")
    generator = np.random.default_rng(8)
    labels = [generator.integers(1, vocabulary, (rows, 3), dtype="int32") for rows in (5, 2)]
    labels[0][0, 1:] = 0

    def batch(_epoch, index):
        ids = labels[index]
        return {"source_ids": ids, "target_ids": ids}, ids

    names = ("source_ids", "target_ids")
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    table = keras.layers.Embedding(vocabulary, vocabulary)
    model = keras.Model(inputs, table(inputs["target_ids"]))
    table.set_weights([logits])
    optimizer = keras.optimizers.SGD(0.0, gradient_accumulation_steps=3)
    model.compile(optimizer, LabelSmoothedCrossentropy(0.0), metrics=[Perplexity()])
    epochs = Epochs(batch, 2, accumulation_steps=3)
    logs = model.fit(epochs.dataset(), verbose=0, shuffle=False).history

    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    losses = [-log_probabilities[ids[ids != 0], ids[ids != 0]] for ids in labels]
    means = [loss.mean() for loss in losses]
    assert logs["loss"][0] == pytest.approx((6 * means[0] + 3 * means[1]) / 9, rel=1e-5)
    perplexity = np.exp(np.concatenate(losses).mean())
    assert logs["perplexity"][0] == pytest.approx(perplexity, rel=1e-5)
