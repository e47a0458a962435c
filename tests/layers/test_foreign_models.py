"""Each layer works on its own, in models made of Keras' layers."""

import keras
import numpy as np
import pytest

from keras_transformer.layers.attention import MultiHeadCrossAttention, MultiHeadSelfAttention
from keras_transformer.layers.decoder import DecoderBlock
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.layers.encoder import EncoderBlock
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.residual import AddAndNorm
from keras_transformer.masks import padding_mask
from tests.random_models import SLOW_TO_COMPILE, numbers, random_vectors

BATCH, LENGTH, CLASSES = 64, 5, 2

pytestmark = pytest.mark.usefixtures("seeded")


def reviews():
    """Returns rows of ids with padding, and as labels whether id 7 occurs."""
    generator = np.random.default_rng(7)
    ids = generator.integers(8, 23, (BATCH, LENGTH))
    labels = np.arange(BATCH) % 2
    ids[labels == 1, generator.integers(0, 3, BATCH // 2)] = 7
    ids[:, 3:] *= generator.integers(0, 2, (BATCH, 1))
    return ids, labels


def classifier_of_sequence():
    return keras.Sequential(
        [
            keras.Input((LENGTH,)),
            PositionalEmbedding(vocabulary_size=23, model_dim=12, dropout=0.0),
            MultiHeadSelfAttention(num_heads=3, dropout=0.1),
            EncoderBlock(num_heads=2, feed_forward_dim=17, dropout=0.1, activation="gelu"),
            FeedForward(feed_forward_dim=17),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def classifier_of_two_inputs():
    """Uses the layers with several inputs: a sentence attends to its own projection."""
    ids = keras.Input((None,), dtype="int64")
    mask = padding_mask(ids)
    x = PositionalEmbedding(23, 12, dropout=0.0, position_encoding="learned")(ids)
    memory = keras.layers.Dense(10)(x)
    attended = MultiHeadCrossAttention(3)(x, memory, attention_mask=mask[:, None, :])
    x = AddAndNorm(dropout=0.1)(x, attended)
    x = EncoderBlock(3, 17, normalize_first=True)(x, padding_mask=mask)
    x = DecoderBlock(num_heads=3, feed_forward_dim=17, dropout=0.1)(
        x, memory, padding_mask=mask, memory_padding_mask=mask
    )
    x = keras.layers.GlobalMaxPooling1D()(x)
    return keras.Model(ids, keras.layers.Dense(CLASSES, activation="softmax")(x))


@SLOW_TO_COMPILE
@pytest.mark.parametrize("build", [classifier_of_sequence, classifier_of_two_inputs])
def test_each_layer_learns_saves_and_loads(build, tmp_path):
    model = build()
    ids, labels = reviews()
    model.compile(keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy")
    losses = model.fit(ids, labels, epochs=12, batch_size=BATCH // 2, verbose=0).history["loss"]
    assert losses[-1] < 0.6 * losses[0]
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    expected = numbers(model(ids))
    np.testing.assert_allclose(numbers(copy(ids)), expected, atol=1e-6)


@SLOW_TO_COMPILE
@pytest.mark.parametrize(
    ("policy", "dtype"),
    [("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float16"), ("float64", "float64")],
)
def test_layers_compute_in_the_dtype_of_their_policy(policy, dtype):
    x, memory = random_vectors(2, 7, 12), random_vectors(2, 5, 12)
    ids = np.full((2, 7), 5)
    outputs = [
        PositionalEmbedding(23, 12, position_encoding="learned", dtype=policy)(ids),
        MultiHeadSelfAttention(3, dtype=policy)(x),
        MultiHeadCrossAttention(3, dtype=policy)(x, memory),
        FeedForward(17, dtype=policy)(x),
        AddAndNorm(dtype=policy)(x, x),
        EncoderBlock(3, 17, dtype=policy)(x),
        DecoderBlock(3, 17, dtype=policy)(x, memory),
    ]
    for output in outputs:
        assert keras.backend.standardize_dtype(output.dtype) == dtype
        assert np.all(np.isfinite(numbers(keras.ops.cast(output, "float32"))))


@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=SLOW_TO_COMPILE)]
)
def test_a_row_of_padding_only_stays_finite(policy):
    x, nothing = random_vectors(2, 7, 12), np.zeros((2, 7), bool)
    encoded = EncoderBlock(3, 17, dtype=policy)(x, nothing)
    decoded = DecoderBlock(3, 17, dtype=policy)(x, encoded, nothing, nothing)
    assert np.all(np.isfinite(numbers(keras.ops.cast(decoded, "float32"))))


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX has float64 switched off for the whole process"
)
def test_float64_is_not_rounded_to_float32():
    layer = MultiHeadSelfAttention(3, dtype="float64")
    x = random_vectors(1, 5, 12).astype("float64")
    base = numbers(layer(x))
    x[0, 2] += 1e-9  # float32 has 7 digits
    moved = numbers(layer(x)) - base
    again = x.copy()
    again[0, 2] += 1e-9
    np.testing.assert_allclose(numbers(layer(again)) - base, 2 * moved, rtol=1e-3)
