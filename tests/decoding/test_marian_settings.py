"""The settings that models of Marian need: a shallow decoder, two vocabularies, an output bias."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.architectures import transformer_parameters
from keras_transformer.config import TransformerConfig
from keras_transformer.decoding.precision import inference_model
from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.layers.position import marian_encoding
from keras_transformer.model import attention_of_layers, build_transformer
from tests.random_models import TENSORFLOW_ONLY, numbers, random_transformer, small_config

SOURCE_IDS = np.array([[5, 27, 9, 3, 0], [28, 6, 3, 0, 0]])  # beyond the target's vocabulary of 23
TARGET_IDS = np.array([[2, 7, 11, 4, 22, 6], [2, 19, 8, 5, 12, 3]])

CHANGES = {
    "a deep encoder": {"num_layers": 3, "num_decoder_layers": 1},
    "a deep decoder": {"num_layers": 1, "num_decoder_layers": 3},
    "two vocabularies": {},
    "an output bias": {"output_bias": True},
    "positions of Marian": {"position_encoding": "sinusoidal_marian"},
    "another epsilon": {"layer_norm_epsilon": 0.5},
    "all": {
        "num_layers": 1,
        "num_decoder_layers": 2,
        "output_bias": True,
        "position_encoding": "sinusoidal_marian",
        "layer_norm_epsilon": 0.5,
        "normalize_first": True,
    },
}


def config_of(what, **more):
    return small_config(source_vocabulary_size=29, **{**CHANGES[what], **more})


def logits_of(model, target_ids=TARGET_IDS):
    return numbers(model({"source_ids": SOURCE_IDS, "target_ids": target_ids}))


def step_by_step(model):
    encode, initial_state, step = decoding_steps(model)
    state = initial_state(encode(ops.convert_to_tensor(SOURCE_IDS)), max_length=6)
    rows = []
    for position in range(TARGET_IDS.shape[1]):
        logits, state = step(ops.convert_to_tensor(TARGET_IDS[:, position : position + 1]), state)
        rows.append(numbers(logits)[:, 0])
    return np.stack(rows, axis=1)


@pytest.mark.parametrize("what", CHANGES)
def test_steps_equal_the_full_pass(what):
    model = random_transformer(config_of(what))
    np.testing.assert_allclose(step_by_step(model), logits_of(model), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("what", CHANGES)
def test_a_copy_for_inference_gives_the_same_logits(what):
    model = random_transformer(config_of(what))
    copy = inference_model(model, "float32")
    np.testing.assert_allclose(logits_of(copy), logits_of(model), atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(step_by_step(copy), logits_of(model), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("what", CHANGES)
def test_the_formula_counts_the_parameters(what):
    for position in ({}, {"position_encoding": "learned", "max_positions": 306}):
        config = config_of(what, **position)
        assert build_transformer(config).count_params() == transformer_parameters(config)


@TENSORFLOW_ONLY
@pytest.mark.parametrize("what", CHANGES)
def test_a_saved_model_is_equal(what, tmp_path):
    model = random_transformer(config_of(what))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_the_decoder_has_its_own_number_of_layers():
    model = build_transformer(config_of("a deep encoder"))
    assert (len(model.encoder_blocks), len(model.decoder_blocks)) == (3, 1)
    found = attention_of_layers(model, SOURCE_IDS, TARGET_IDS)
    assert (len(found.encoder), len(found.decoder), len(found.cross)) == (3, 1, 1)


def test_the_source_has_its_own_embedding():
    """Its rows change the logits; the target's rows stay those of the output."""
    model = random_transformer(config_of("two vocabularies"))
    before = logits_of(model)
    source, target = model.source_embedding.embeddings, model.embedding.embeddings
    assert (tuple(source.shape), tuple(target.shape)) == ((29, 12), (23, 12))
    assert before.shape == (2, 6, 23)
    unused = np.array(numbers(source))
    unused[[7, 11, 25]] += 9  # in no source; 7 and 11 are in the targets
    source.assign(unused)
    np.testing.assert_array_equal(logits_of(model), before)
    unused[27] += 9
    source.assign(unused)
    assert np.abs(logits_of(model) - before).max() > 1e-3


def test_a_shared_embedding_is_the_same_layer():
    model = build_transformer(small_config())
    assert model.source_embedding is model.embedding


def test_the_bias_is_added_to_the_logits():
    config = config_of("an output bias")
    model = random_transformer(config)
    plain = build_transformer(dataclasses.replace(config, output_bias=False))
    weights = [weight for weight in model.weights if weight is not model.embedding.bias]
    plain.set_weights([numbers(weight) for weight in weights])
    bias = numbers(model.embedding.bias)
    assert np.abs(bias).min() > 0
    np.testing.assert_allclose(logits_of(model), logits_of(plain) + bias, atol=1e-5)
    fresh = build_transformer(config)
    assert not numbers(fresh.embedding.bias).any()


def test_the_epsilon_reaches_every_normalization():
    model = build_transformer(config_of("another epsilon", normalize_first=True))
    normalizations = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.LayerNormalization)
    ]
    assert len(normalizations) == 2 * 2 + 2 * 3 + 2
    assert {layer.epsilon for layer in normalizations} == {0.5}


def test_positions_of_marian_follow_its_formula():
    """Position 0 is 0, 1, 0, 1; the last rate is exactly 1 / 10,000."""
    encoding = numbers(marian_encoding(np.arange(5), 8))
    np.testing.assert_array_equal(encoding[0], [0, 1] * 4)
    for position in range(5):
        for pair in range(4):
            angle = position / 10_000 ** (pair / 3)
            expected = np.sin(angle), np.cos(angle)
            found = encoding[position, 2 * pair : 2 * pair + 2]
            np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(encoding[4, 6], np.sin(4e-4), atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source_vocabulary_size": 4}, "source_vocabulary_size must leave room"),
        ({"num_decoder_layers": 0}, "num_decoder_layers must be at least 1"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon must be above 0"),
        ({"layer_norm_epsilon": 1.0}, "layer_norm_epsilon must be above 0 and below 1"),
        (
            {"position_encoding": "sinusoidal_marian", "model_dim": 2, "num_heads": 1},
            "model_dim must be at least 4",
        ),
        (
            {"position_encoding": "sinusoidal_marian", "model_dim": 9, "num_heads": 3},
            "model_dim must be even",
        ),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(vocabulary_size=23, **settings)
