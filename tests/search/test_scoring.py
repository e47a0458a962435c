import keras
import numpy as np
import pytest

from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.search.scoring import log_probabilities, score
from tests.random_models import (
    END,
    SLOW_TO_COMPILE,
    START,
    TENSORFLOW_ONLY,
    VOCABULARY,
    numbers,
    random_ids,
    random_transformer,
    small_config,
)

BATCH, TARGET_LENGTH = 3, 7
LABELS = np.array([[4, 9, END, 0, 0, 0, 0], [5, 4, 8, 8, 6, 7, END], [END, 0, 0, 0, 0, 0, 0]])
NUM_TOKENS = [3, 7, 1]
SOURCE = np.array([[4, 7, 8, 9, END], [6, END, 0, 0, 0], [5, 5, END, 0, 0]], "int32")


@pytest.fixture(scope="module")
def model():
    return random_transformer(small_config())


def random_logits():
    shape = (BATCH, TARGET_LENGTH, VOCABULARY)
    return 3 * np.random.default_rng(7).normal(size=shape).astype("float32")


def test_equal_logits_make_all_tokens_equally_probable():
    logits = np.full((BATCH, TARGET_LENGTH, VOCABULARY), 5.0, "float32")
    log_probability, num_tokens = log_probabilities(logits, LABELS)
    np.testing.assert_array_equal(numbers(num_tokens), NUM_TOKENS)
    expected = -np.array(NUM_TOKENS) * np.log(VOCABULARY)
    np.testing.assert_allclose(numbers(log_probability), expected, rtol=1e-6)


def test_log_probability_is_the_sum_over_the_tokens():
    logits = random_logits()
    probability = np.exp(logits.astype("float64"))
    probability /= probability.sum(axis=-1, keepdims=True)
    expected = [
        sum(np.log(probability[row, t, LABELS[row, t]]) for t in range(NUM_TOKENS[row]))
        for row in range(BATCH)
    ]
    np.testing.assert_allclose(numbers(log_probabilities(logits, LABELS)[0]), expected, rtol=1e-5)


def test_logits_after_the_end_do_not_count():
    logits = random_logits()
    expected = numbers(log_probabilities(logits, LABELS)[0])
    logits[LABELS == 0] = -np.inf
    np.testing.assert_array_equal(numbers(log_probabilities(logits, LABELS)[0]), expected)


def test_half_precision_is_summed_in_float32():
    logits = keras.ops.cast(random_logits(), "bfloat16")
    log_probability, _ = log_probabilities(logits, LABELS)
    assert keras.backend.standardize_dtype(log_probability.dtype) == "float32"
    expected = log_probabilities(keras.ops.cast(logits, "float32"), LABELS)[0]
    np.testing.assert_array_equal(numbers(log_probability), numbers(expected))


def test_padding_alone_is_certain():
    log_probability, num_tokens = log_probabilities(random_logits(), 0 * LABELS)
    np.testing.assert_array_equal(numbers(log_probability), np.zeros(BATCH))
    np.testing.assert_array_equal(numbers(num_tokens), np.zeros(BATCH))


@SLOW_TO_COMPILE
def test_score_is_the_sum_over_the_steps(model):
    encode, initial_state, step = decoding_steps(model)
    state = initial_state(encode(SOURCE), max_length=TARGET_LENGTH)
    expected, token = np.zeros(BATCH), np.full((BATCH, 1), START)
    for position in range(TARGET_LENGTH):
        logits, state = step(token, state)
        logits = numbers(logits)[:, 0].astype("float64")
        token = LABELS[:, position : position + 1]
        log_probability = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        gained = np.take_along_axis(log_probability, token, axis=1)[:, 0]
        expected += np.where(token[:, 0] == 0, 0, gained)
    log_probability, num_tokens = score(model, SOURCE, LABELS, start_id=START)
    np.testing.assert_allclose(numbers(log_probability), expected, rtol=1e-4)
    np.testing.assert_array_equal(numbers(num_tokens), NUM_TOKENS)


@SLOW_TO_COMPILE
def test_the_probabilities_of_all_continuations_sum_to_that_of_their_beginning(model):
    # sum_v P(y_1 ... y_t v | X) = P(y_1 ... y_t | X), whatever the model.
    beginning = random_ids(1, 4)
    every_token = np.arange(1, VOCABULARY)[:, None]
    continued = np.concatenate([np.repeat(beginning, VOCABULARY - 1, axis=0), every_token], axis=1)
    source = np.repeat(SOURCE[:1], VOCABULARY - 1, axis=0)
    of_all = np.exp(numbers(score(model, source, continued, start_id=START)[0])).sum()
    of_beginning = np.exp(numbers(score(model, SOURCE[:1], beginning, start_id=START)[0])[0])
    # Padding cannot be scored; the model itself gives it a probability of about e**-10.
    np.testing.assert_allclose(of_all, of_beginning, rtol=1e-3)


@SLOW_TO_COMPILE
def test_padding_and_batch_mates_do_not_change_a_score(model):
    together = numbers(score(model, SOURCE, LABELS, start_id=START)[0])
    for row, length in enumerate(NUM_TOKENS):
        source = SOURCE[row : row + 1, : np.sum(SOURCE[row] != 0)]
        alone = score(model, source, LABELS[row : row + 1, :length], start_id=START)[0]
        np.testing.assert_allclose(numbers(alone)[0], together[row], rtol=1e-5)


@TENSORFLOW_ONLY
def test_a_score_in_a_graph_of_unknown_shapes_equals_that_outside(model):
    import tensorflow as tf

    ids = tf.TensorSpec([None, None], tf.int32)

    @tf.function(input_signature=[ids, ids], autograph=False)
    def in_graph(source_ids, target_ids):
        return score(model, source_ids, target_ids, start_id=START)

    for length in (TARGET_LENGTH, 3):
        labels = LABELS[:, :length].astype("int32")
        found = in_graph(SOURCE, labels)
        expected = score(model, SOURCE, labels, start_id=START)
        np.testing.assert_allclose(numbers(found[0]), numbers(expected[0]), rtol=1e-5)
        np.testing.assert_array_equal(numbers(found[1]), numbers(expected[1]))


def test_any_functional_model_with_these_inputs_can_be_scored():
    # P(next) depends only on the token before: a table of logits.
    source = keras.Input((None,), dtype="int32", name="source_ids")
    target = keras.Input((None,), dtype="int32", name="target_ids")
    table = keras.layers.Embedding(VOCABULARY, VOCABULARY)
    bigrams = keras.Model({"source_ids": source, "target_ids": target}, table(target))
    logits = np.zeros((VOCABULARY, VOCABULARY), "float32")
    logits[START, 4], logits[4, END] = np.log(22), np.log(44)  # 22 of 44, and 44 of 66
    table.set_weights([logits])
    labels = np.array([[4, END, 0], [5, 5, END]])
    log_probability, num_tokens = score(bigrams, SOURCE[:2], labels, start_id=START)
    expected = [np.log(1 / 2 * 2 / 3), np.log(1 / 44 / 23 / 23)]
    np.testing.assert_allclose(numbers(log_probability), expected, rtol=1e-5)
    np.testing.assert_array_equal(numbers(num_tokens), [2, 3])
