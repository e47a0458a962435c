"""A small Transformer whose every weight is random, biases and normalizations included.

New models hide mistakes: nobody notices a missing bias that is all 0, or a missing scale that is
all 1. All sizes differ, so that no axis can be mistaken for another.
"""

import dataclasses

import keras
import numpy as np
import pytest
import yaml

from keras_transformer.config import TransformerConfig
from keras_transformer.model import build_transformer

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
TENSORFLOW_ONLY = pytest.mark.skipif(not ON_TENSORFLOW, reason="about TensorFlow's own ways")
SLOW_TO_COMPILE = pytest.mark.skipif(
    not ON_TENSORFLOW, reason="says the same on each backend, and takes seconds to compile on JAX"
)

BATCH = 2
SOURCE_LENGTH = 5
TARGET_LENGTH = 7
VOCABULARY = 23
PADDING, START, END = 0, 2, 3

TEXTS = [
    "a man rides a bicycle",
    "two dogs run through the snow past a red house",
    "snow",
    "the man and the dogs see a bicycle in the snow, and a house",
    "A red bicycle!",
    "",
    "one dog, two men",
]


def small_config(**changes):
    settings = {
        "vocabulary_size": VOCABULARY,
        "num_layers": 2,
        "model_dim": 12,
        "feed_forward_dim": 17,
        "num_heads": 3,
        "head_dim": 4,
        "value_dim": 5,
    }
    return TransformerConfig(**{**settings, **changes})


def random_transformer(config, seed=7):
    """A model that never predicts padding and sometimes ends a sentence."""
    keras.utils.set_random_seed(seed)
    model = build_transformer(config)
    generator = np.random.default_rng(seed)
    model.set_weights([_random_weight(weight, generator) for weight in model.get_weights()])
    _make_the_end_likely(model)
    return model


def settings_of(model, **settings):
    """The text of a run's config.yaml for a model of `small_config`, with more settings."""
    config = small_config(
        vocabulary_size=model.embedding.vocabulary_size, num_layers=len(model.encoder_blocks)
    )
    return yaml.safe_dump({**dataclasses.asdict(config), **settings})


def _random_weight(weight, generator):
    if weight.dtype.kind != "f" and weight.dtype.name != "bfloat16":
        return weight  # the state of dropout's random numbers
    spread = generator.normal(0, weight.shape[0] ** -0.5, weight.shape)
    return (spread + (weight == 1)).astype(weight.dtype)  # scales stay near 1


def _make_the_end_likely(model):
    """Adds a constant to the output that only padding and the end react to."""
    last = model.normalizations.get("decoder")
    if last is None:
        last = model.decoder_blocks[-1].feed_forward_residual.normalization
    scale, shift = last.get_weights()
    constant = np.full_like(shift, 2 * len(shift) ** -0.5)
    last.set_weights([scale, constant])
    embeddings = numbers(model.embedding.embeddings)
    spread = np.random.default_rng(len(embeddings)).normal(size=embeddings.shape)
    embeddings = spread * 2 * len(shift) ** -0.5
    embeddings[PADDING] = -5 * constant
    embeddings[END] += constant / 2
    model.embedding.embeddings.assign(embeddings)


def random_ids(*shape, seed=7, vocabulary=VOCABULARY):
    """Ids of ordinary sub-words: Integer `shape`."""
    return np.random.default_rng(seed).integers(4, vocabulary, shape).astype("int32")


def random_vectors(*shape, seed=7):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomize(layer, seed=7):
    """Sets every weight of a built layer to random values."""
    generator = np.random.default_rng(seed)
    layer.set_weights([_random_weight(weight, generator) for weight in layer.get_weights()])
    return layer


def with_the_same_dropout(layer, calls):
    """Returns each call's result; all calls start from the same random state."""
    states = [(state, keras.ops.convert_to_numpy(state)) for state in layer.non_trainable_variables]
    results = []
    for call in calls:
        for variable, state in states:
            variable.assign(state)
        results.append(numbers(call()))
    return results


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor)
