"""Keras' floatx, which the user's keras.json sets, and its dtype policies.

All formats have the weights of one float32 model, so each must agree with float32 to within its
own precision.
"""

import contextlib

import keras
import numpy as np
import pytest

from keras_transformer.averaging import averaged_variables
from keras_transformer.callbacks import AveragedWeights
from keras_transformer.decoding.precision import PRECISIONS
from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.losses import LabelSmoothedCrossentropy
from keras_transformer.metrics import Perplexity, TokenAccuracy
from keras_transformer.model import attention_of_layers, build_transformer
from keras_transformer.optimizers import Adam
from keras_transformer.schedules import InverseSquareRootSchedule
from keras_transformer.search.beam import beam_search
from keras_transformer.search.greedy import greedy_search
from keras_transformer.search.sampling import noise_of, sample
from keras_transformer.search.scoring import score
from keras_transformer.translator import Translator
from tests.random_models import (
    END,
    SLOW_TO_COMPILE,
    START,
    TENSORFLOW_ONLY,
    TEXTS,
    numbers,
    random_transformer,
    small_config,
)

ROUNDING = {"float64": 1e-4, "float32": 1e-4, "bfloat16": 0.15, "float16": 0.02}

FORMATS = [  # floatx, dtype policy
    ("float64", "float64"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("float64", "float32"),
    ("float16", "mixed_bfloat16"),
]
SOURCES = np.array([[5, 7, 9, 11, 3], [13, 3, 0, 0, 0]])


@contextlib.contextmanager
def number_format(floatx, policy):
    earlier = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_floatx(earlier[0])
        keras.config.set_dtype_policy(earlier[1])


@pytest.fixture(params=FORMATS, ids=" ".join)
def policy(request):
    floatx, policy = request.param
    with number_format(floatx, policy):
        yield policy


def rounding(policy):
    return ROUNDING[policy.removeprefix("mixed_")]


def copy_of(model, config):
    copy = build_transformer(config)
    copy.set_weights(model.get_weights())
    return copy


@SLOW_TO_COMPILE
@pytest.mark.parametrize("normalize_first", [False, True], ids=["post", "pre"])
def test_search_results_are_scored_as_in_float32(policy, normalize_first):
    config = small_config(normalize_first=normalize_first)
    with number_format("float32", "float32"):
        float32 = random_transformer(config)
    encode, initial_state, step = decoding_steps(copy_of(float32, config))
    ends = {"start_id": START, "end_id": END, "max_length": np.array([9, 7])}

    def state(beams):
        return initial_state(encode(SOURCES), beams, max_length=9)

    found = [
        beam_search(step, state(3), beam_size=3, **ends),
        greedy_search(step, state(1), **ends),
        sample(step, state(2), noise=noise_of(3, [0, 1], 2, 9), top_p=0.9, **ends),
    ]
    for token_ids, scores in found:
        assert keras.backend.standardize_dtype(scores.dtype) == "float32"
        for beam in range(token_ids.shape[1]):
            log_probability, num_tokens = score(
                float32, SOURCES, token_ids[:, beam], start_id=START
            )
            expected = numbers(log_probability) / ((5 + numbers(num_tokens)) / 6) ** 0.6
            np.testing.assert_allclose(numbers(scores)[:, beam], expected, rtol=rounding(policy))


@TENSORFLOW_ONLY
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_export_precision_does_not_depend_on_floatx(precision, random_model, tokenizer):
    options = {"precision": precision, "max_source_tokens": 40, "beam_size": 3}
    expected = Translator(random_model, tokenizer, **options).n_best(TEXTS, 2)
    for floatx in ("float64", "float16"):
        with number_format(floatx, floatx):
            assert Translator(random_model, tokenizer, **options).n_best(TEXTS, 2) == expected


def test_logits_and_attention_are_those_of_float32(policy):
    with number_format("float32", "float32"):
        float32 = build_transformer(small_config())
    model = copy_of(float32, small_config())
    source_ids, target_ids = np.array([[5, 7, 3, 0]]), np.array([[2, 9, 11]])
    inputs = {"source_ids": source_ids, "target_ids": target_ids}
    logits = model(inputs)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    tolerance = {"rtol": rounding(policy), "atol": rounding(policy)}
    np.testing.assert_allclose(numbers(logits), numbers(float32(inputs)), **tolerance)
    for ours, theirs in zip(
        keras.tree.flatten(tuple(attention_of_layers(model, source_ids, target_ids))),
        keras.tree.flatten(tuple(attention_of_layers(float32, source_ids, target_ids))),
        strict=True,
    ):
        weights = numbers(keras.ops.cast(ours, "float32"))
        np.testing.assert_allclose(weights, numbers(theirs), **tolerance)


@SLOW_TO_COMPILE
def test_a_model_learns_to_copy(policy):
    keras.utils.set_random_seed(7)
    model = build_transformer(small_config(num_layers=1, dropout=0.1))
    model.compile(
        optimizer=Adam(
            InverseSquareRootSchedule(0.02, 5),
            beta_2=0.98,
            epsilon=1e-9,
            ema_decay=0.5,
            gradient_accumulation_steps=2,
            track_gradient_norm=True,
        ),
        loss=LabelSmoothedCrossentropy(),
        weighted_metrics=[Perplexity(), TokenAccuracy()],
        jit_compile=False,
    )
    ids = np.random.default_rng(5).integers(4, 9, (32, 5))
    inputs = {
        "source_ids": ids,
        "target_ids": np.pad(ids[:, :-1], ((0, 0), (1, 0)), constant_values=2),
    }
    history = model.fit(
        inputs,
        ids,
        batch_size=8,
        epochs=16,
        shuffle=False,
        validation_data=(inputs, ids),
        callbacks=[AveragedWeights()],
        verbose=0,
    ).history
    assert np.isfinite(history["val_perplexity"]).all()
    assert history["val_perplexity"][-1] < 0.7 * history["val_perplexity"][0]
    for weight, average in zip(model.weights, averaged_variables(model), strict=True):
        assert np.isfinite(np.asarray(numbers(weight), "float64")).all()
        assert np.isfinite(np.asarray(numbers(average), "float64")).all()
