import gc
import itertools
import weakref

import pytest

from keras_transformer.data import Corpus, PairBatches, PairStream, pair_batches, read_pairs
from keras_transformer.errors import InputError
from tests.data.made_text import OneIdACharacter, ids_of, of_dataset


def test_the_dataset_yields_the_batches_epoch_after_epoch(text_pair):
    batches = PairBatches(*read_pairs(*text_pair), OneIdACharacter(), 211, seed=7)
    dataset = pair_batches(*text_pair, OneIdACharacter(), 211, seed=7)
    assert of_dataset(dataset) == ids_of(batches.epoch(0))
    assert of_dataset(dataset) == ids_of(batches.epoch(1))


def test_the_dataset_knows_its_length_and_types(text_pair):
    import tensorflow as tf

    dataset = pair_batches(*text_pair, OneIdACharacter(), 211)
    ids = tf.TensorSpec((None, None), tf.int32)
    assert dataset.element_spec == ({"source_ids": ids, "target_ids": ids}, ids)
    assert int(dataset.cardinality()) == len(of_dataset(dataset))


def test_the_dataset_begins_at_the_given_epoch(text_pair):
    batches = PairBatches(*read_pairs(*text_pair), OneIdACharacter(), 211)
    dataset = pair_batches(*text_pair, OneIdACharacter(), 211, first_epoch=5)
    assert of_dataset(dataset) == ids_of(batches.epoch(5))
    assert of_dataset(dataset.skip(3)) == ids_of(batches.epoch(6))[3:]


@pytest.mark.parametrize("max_tokens", [211, 2003])  # with and without reading ahead
def test_an_unfinished_iteration_does_not_count_as_an_epoch(text_pair, max_tokens):
    batches = PairBatches(*read_pairs(*text_pair), OneIdACharacter(), max_tokens)
    dataset = pair_batches(*text_pair, OneIdACharacter(), max_tokens)
    next(iter(dataset))
    assert of_dataset(dataset) == ids_of(batches.epoch(0))
    next(iter(dataset))
    assert of_dataset(dataset) == ids_of(batches.epoch(1))


def seen_by_fit(*datasets_and_epochs):
    """Returns the batches that `model.fit` trains on."""
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("keras takes a tf.data.Dataset apart in another way on other back ends")
    seen = []

    class Recorder(keras.Model):
        def call(self, inputs):
            return inputs["target_ids"]

        def train_step(self, data):
            inputs, labels = data
            seen.append(({name: ids.numpy() for name, ids in inputs.items()}, labels.numpy()))
            return {"loss": 0.0}

    model = Recorder()
    model.compile(loss="mse", run_eagerly=True)
    for dataset, epochs in datasets_and_epochs:
        model.fit(dataset, epochs=epochs, verbose=0)
    return ids_of(seen)


@pytest.mark.parametrize("max_tokens", [211, 2003])
def test_fit_sees_each_epoch_in_its_order(text_pair, max_tokens):
    dataset = pair_batches(*text_pair, OneIdACharacter(), max_tokens, seed=7)
    seen = seen_by_fit((dataset, 3))
    batches = PairBatches(*read_pairs(*text_pair), OneIdACharacter(), max_tokens, seed=7)
    assert seen == [batch for number in range(3) for batch in ids_of(batches.epoch(number))]


@pytest.mark.parametrize("steps", [3, 23])  # with and without reading ahead
def test_fit_sees_a_stream_in_its_order(text_pair, steps):
    dataset = pair_batches(*text_pair, OneIdACharacter(), 211, seed=7, steps_per_epoch=steps)
    assert int(dataset.cardinality()) == steps
    seen = seen_by_fit((dataset, 3))
    stream = PairStream([Corpus(*text_pair)], OneIdACharacter(), 211, seed=7)
    assert seen == ids_of(itertools.islice(stream.batches(), 3 * steps))


@pytest.mark.parametrize("steps_per_epoch", [None, 41])
def test_training_resumed_within_an_epoch_sees_the_same_batches_as_uninterrupted_training(
    text_pair, steps_per_epoch
):
    def dataset(**position):
        return pair_batches(
            *text_pair, OneIdACharacter(), 211, steps_per_epoch=steps_per_epoch, **position
        )

    whole = seen_by_fit((dataset(), 3))
    steps = len(whole) // 3
    rest = dataset(first_epoch=1, first_batch=7)
    assert int(rest.cardinality()) == steps - 7
    assert seen_by_fit((rest, 1), (dataset(first_epoch=2), 1)) == whole[steps + 7 :]


@pytest.mark.parametrize("steps_per_epoch", [None, 20])
def test_each_iteration_over_the_rest_of_an_epoch_yields_the_same_rest(text_pair, steps_per_epoch):
    rest = pair_batches(
        *text_pair,
        OneIdACharacter(),
        211,
        first_epoch=1,
        first_batch=7,
        steps_per_epoch=steps_per_epoch,
    )
    first, second = ([labels.numpy().tolist() for _, labels in rest] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("first_batch", [20, 21])
def test_resuming_after_the_last_batch_of_an_epoch_is_refused(text_pair, first_batch):
    with pytest.raises(InputError, match=r"first_batch must be less than the 20 batches .* Begin"):
        pair_batches(*text_pair, OneIdACharacter(), steps_per_epoch=20, first_batch=first_batch)


def test_settings_reach_the_batches_in_both_forms(tmp_path):
    (tmp_path / "a.tsv").write_text("ab\tabcdefg\nabc\tabc\nabcdefghi\tabcdefghi\n")
    for steps_per_epoch in (None, 1):
        dataset = pair_batches(
            tmp_path / "a.tsv",
            None,
            OneIdACharacter(),
            12,
            max_length=9,
            max_length_ratio=3,
            shuffle=False,
            steps_per_epoch=steps_per_epoch,
        )
        ((source, _, _),) = of_dataset(dataset)
        assert {tuple(row) for row in source} == {(4, 5, 6, 3)}


@pytest.mark.parametrize("steps_per_epoch", [None, 20])
def test_deleting_a_dataset_releases_its_text_and_threads(
    text_pair, steps_per_epoch, running_threads
):
    dataset = pair_batches(*text_pair, OneIdACharacter(), 211, steps_per_epoch=steps_per_epoch)
    iterator = iter(dataset.skip(1))
    next(iterator)
    assert len(running_threads()) == (steps_per_epoch is not None)
    source = weakref.ref(dataset._keras_transformer_reader)
    del dataset
    gc.collect()
    assert source() is not None
    next(iterator)
    del iterator
    gc.collect()
    assert source() is None
    assert not running_threads()


def test_sampling_needs_a_stream(text_pair):
    with pytest.raises(InputError, match=r"sampling needs steps_per_epoch, .* Set steps_per_epoch"):
        pair_batches(*text_pair, OneIdACharacter(), sampling=0.1)


def test_the_error_of_a_stream_reaches_the_datasets_user_with_its_message(tmp_path):
    import tensorflow as tf

    (tmp_path / "a.tsv").write_text("a\tb\nc\n")
    dataset = pair_batches(tmp_path / "a.tsv", None, OneIdACharacter(), steps_per_epoch=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a\.tsv:2: a line must have 2 col"):
        list(dataset)


def test_a_first_epoch_below_0_is_refused(text_pair):
    with pytest.raises(
        InputError, match=r"first_epoch must be at least 0\. Received: first_epoch=-1"
    ):
        pair_batches(*text_pair, OneIdACharacter(), first_epoch=-1)
