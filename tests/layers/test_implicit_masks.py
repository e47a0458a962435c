"""Keras' implicit masks: `Embedding(mask_zero=True)` or `Masking` in front of our layers."""

import keras
import numpy as np
import pytest

from keras_transformer.config import TransformerConfig
from keras_transformer.layers.attention import MultiHeadCrossAttention, MultiHeadSelfAttention
from keras_transformer.layers.decoder import DecoderBlock
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.layers.encoder import EncoderBlock
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.layers.residual import AddAndNorm
from keras_transformer.model import build_transformer

pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("error:Layer .* does not support masking"),
]

VOCABULARY, MODEL_DIM, HEADS = 23, 12, 3
SHORT = np.array([[3, 5, 7, 11, 13], [17, 19, 2, 3, 5]])  # (batch, length), no padding
PADDED = np.pad(SHORT, ((0, 0), (0, 2)))  # the same sentences, and padding
OTHERS = np.array([[2, 4, 6], [8, 10, 12]])
OTHERS_PADDED = np.pad(OTHERS, ((0, 0), (0, 1)))

ENCODERS = {
    "self_attention": lambda: MultiHeadSelfAttention(HEADS),
    "post_norm": lambda: EncoderBlock(HEADS, 17),
    "pre_norm": lambda: EncoderBlock(HEADS, 17, normalize_first=True),
}
DECODERS = {
    "cross_attention": lambda: MultiHeadCrossAttention(HEADS),
    "post_norm": lambda: DecoderBlock(HEADS, 17),
    "pre_norm": lambda: DecoderBlock(HEADS, 17, normalize_first=True),
}


def embedding():
    return keras.layers.Embedding(VOCABULARY, MODEL_DIM, mask_zero=True)


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def assert_same(actual, expected):
    np.testing.assert_allclose(array(actual), array(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_padding_changes_nothing_at_real_positions(encoder):
    embed, layer = embedding(), encoder()
    alone, padded = layer(embed(SHORT)), layer(embed(PADDED))
    assert_same(padded[:, :5], alone)


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_padding_of_neither_target_nor_memory_changes_anything(decoder):
    embed, layer = embedding(), decoder()
    alone = layer(embed(OTHERS), embed(SHORT))
    assert_same(layer(embed(OTHERS_PADDED), embed(PADDED))[:, :3], alone)
    assert_same(layer(embed(OTHERS), embed(PADDED)), alone)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_an_implicit_mask_is_the_explicit_one(encoder):
    embed, layer = embedding(), encoder()
    padding_mask = PADDED != 0
    without = keras.ops.convert_to_tensor(array(embed(PADDED)))  # no implicit mask
    if isinstance(layer, EncoderBlock):
        explicit = layer(without, padding_mask=padding_mask)
    else:
        explicit = layer(without, attention_mask=padding_mask[:, None])
    assert_same(layer(embed(PADDED)), explicit)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_an_explicit_mask_replaces_the_implicit_one(encoder):
    embed, layer = embedding(), encoder()
    without = keras.ops.convert_to_tensor(array(embed(PADDED)))
    everywhere = np.ones(PADDED.shape, "bool")
    if isinstance(layer, EncoderBlock):
        explicit = layer(embed(PADDED), padding_mask=everywhere)
    else:
        explicit = layer(embed(PADDED), attention_mask=everywhere[:, None])
    assert_same(explicit, layer(without))
    assert np.abs(array(explicit) - array(layer(embed(PADDED)))).max() > 1e-3


def test_each_explicit_mask_of_a_decoder_replaces_its_own_implicit_one():
    embed, layer = embedding(), DecoderBlock(HEADS, 17)
    inputs, memory = embed(OTHERS_PADDED), embed(PADDED)
    masks = {"padding_mask": OTHERS_PADDED != 0, "memory_padding_mask": PADDED != 0}
    implicit = layer(inputs, memory)
    assert_same(layer(inputs, memory, **masks), implicit)
    for name, mask in masks.items():
        assert_same(layer(inputs, memory, **{name: mask}), implicit)
    unmasked = layer(inputs, memory, memory_padding_mask=np.ones(PADDED.shape, "bool"))
    assert np.abs(array(unmasked) - array(implicit)).max() > 1e-3


def test_attention_equals_that_of_keras_at_real_positions():
    """With the weights of `keras.layers.MultiHeadAttention` and one implicit mask."""
    embed, ours = embedding(), MultiHeadSelfAttention(HEADS)
    theirs = keras.layers.MultiHeadAttention(HEADS, MODEL_DIM // HEADS)
    ours(embed(PADDED)), theirs(embed(PADDED), embed(PADDED))
    parts = np.split(array(ours.query_key_value.kernel), 3, axis=1)
    kernels = [part.reshape(MODEL_DIM, HEADS, -1) for part in parts]
    output = array(ours.output_projection.kernel).reshape(HEADS, -1, MODEL_DIM)
    zeros = np.zeros((HEADS, MODEL_DIM // HEADS))
    weights = [array for kernel in kernels for array in (kernel, zeros)]
    theirs.set_weights([*weights, output, np.zeros(MODEL_DIM)])
    expected = theirs(embed(PADDED), embed(PADDED))
    assert_same(ours(embed(PADDED))[:, :5], expected[:, :5])


PASSING = {
    "self_attention": lambda x: MultiHeadSelfAttention(HEADS)(x),
    "cross_attention": lambda x: MultiHeadCrossAttention(HEADS)(x, x),
    "encoder": lambda x: EncoderBlock(HEADS, 17)(x),
    "decoder": lambda x: DecoderBlock(HEADS, 17)(x, x),
    "feed_forward": lambda x: FeedForward(17)(x),
    "normalization": lambda x: LayerNormalization()(x),
    "residual": lambda x: AddAndNorm()(x, x),
    "dropout": lambda x: Dropout(0.1)(x, training=True),
    "logits": lambda x: PositionalEmbedding(VOCABULARY, MODEL_DIM)(x, reverse=True),
}


@pytest.mark.parametrize("layer", PASSING.values(), ids=PASSING)
def test_the_mask_is_passed_on(layer):
    """Pooling ignores padding: the mean is over the real positions only."""
    outputs = layer(embedding()(PADDED))
    assert_same(keras.layers.GlobalAveragePooling1D()(outputs), array(outputs)[:, :5].mean(axis=1))


def classifier():
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            embedding(),
            EncoderBlock(HEADS, 17),
            EncoderBlock(HEADS, 19, normalize_first=True),
            FeedForward(13),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2),
        ]
    )


def encoder_and_decoder():
    source = keras.Input((None,), dtype="int32")
    target = keras.Input((None,), dtype="int32")
    embed = embedding()
    memory = EncoderBlock(HEADS, 17)(embed(source))
    decoded = DecoderBlock(HEADS, 19)(embed(target), memory)
    return keras.Model([source, target], keras.layers.GlobalAveragePooling1D()(decoded))


def test_padding_does_not_change_what_a_sequential_model_predicts(tmp_path):
    model = classifier()
    expected = model.predict(SHORT, verbose=0)
    assert_same(model.predict(PADDED, verbose=0), expected)
    assert_same(model(PADDED), expected)
    model.save(tmp_path / "model.keras")
    assert_same(keras.saving.load_model(tmp_path / "model.keras")(PADDED), expected)


def test_padding_does_not_change_what_a_functional_model_predicts(tmp_path):
    model = encoder_and_decoder()
    expected = model.predict([SHORT, OTHERS], verbose=0)
    assert_same(model.predict([PADDED, OTHERS_PADDED], verbose=0), expected)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(copy([PADDED, OTHERS_PADDED]), expected)


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = embedding()
        self.encoder = EncoderBlock(HEADS, 17, dropout=0.0)
        self.pool = keras.layers.GlobalAveragePooling1D()

    def call(self, inputs, training=None):
        return self.pool(self.encoder(self.embed(inputs), training=training))


def test_padding_does_not_change_what_a_subclassed_model_learns():
    model = Subclassed()
    model(SHORT)
    weights = model.get_weights()
    model.compile("sgd", "mse")
    losses = []
    for token_ids in (SHORT, PADDED):
        model.set_weights(weights)
        losses.append(model.train_on_batch(token_ids, np.ones((2, MODEL_DIM))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_positions_masked_by_a_masking_layer_have_no_effect():
    x = np.random.default_rng(0).normal(size=(2, 5, MODEL_DIM)).astype("float32")
    padded = np.pad(x, ((0, 0), (0, 2), (0, 0)))
    mask, layer = keras.layers.Masking(), EncoderBlock(HEADS, 17)
    assert_same(layer(mask(padded))[:, :5], layer(mask(x)))


def test_masks_are_honored_in_half_precision():
    embed, layer = embedding(), EncoderBlock(HEADS, 17, dtype="mixed_bfloat16")
    alone, padded = (keras.ops.cast(layer(embed(ids)), "float32") for ids in (SHORT, PADDED))
    np.testing.assert_allclose(array(padded)[:, :5], array(alone), atol=0.05)


def test_our_own_model_carries_no_implicit_mask():
    model = build_transformer(
        TransformerConfig(
            vocabulary_size=VOCABULARY,
            num_layers=1,
            model_dim=MODEL_DIM,
            num_heads=HEADS,
            feed_forward_dim=17,
        )
    )
    logits = model({"source_ids": PADDED, "target_ids": OTHERS_PADDED})
    assert getattr(logits, "_keras_mask", None) is None
    assert getattr(model.output, "_keras_mask", None) is None
