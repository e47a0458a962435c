"""The whole model (Figure 1), for training as one graph and for decoding step by step."""

import functools
from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.config import TransformerConfig
from keras_transformer.decoding.cache import empty_cache, next_position
from keras_transformer.layers.attention import ProjectedMemory
from keras_transformer.layers.decoder import DecoderBlock
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.layers.encoder import EncoderBlock
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.masks import attend_to, padding_mask, to_add
from keras_transformer.search.state import DecodingState


@keras.saving.register_keras_serializable(package="keras_transformer")
class Transformer(keras.Model):
    """The functional model that `build_transformer` makes.

    It is a class of its own only so that a model read from a file is recognised by
    `decoding_steps`, so that the boxes of Figure 1 have names, and so that the config's longest
    source stays with the weights.

    Args:
        max_source_tokens: The longest source that a translator reads if it is not told otherwise,
            in tokens, the end included. The model itself takes longer ones.
    """

    def __init__(self, *args, max_source_tokens=TransformerConfig.max_source_tokens, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_source_tokens = max_source_tokens

    def get_config(self):
        return {**super().get_config(), "max_source_tokens": self.max_source_tokens}

    @property
    def embedding(self) -> PositionalEmbedding:
        """The one matrix of section 3.4, with the positions."""
        return self.get_layer("embedding")

    @property
    def encoder_blocks(self) -> list[EncoderBlock]:
        return [layer for layer in self.layers if isinstance(layer, EncoderBlock)]

    @property
    def decoder_blocks(self) -> list[DecoderBlock]:
        return [layer for layer in self.layers if isinstance(layer, DecoderBlock)]

    @property
    def normalizations(self) -> dict[str, keras.Layer]:
        """What pre-norm puts behind each stack, by the stack's name; empty in post-norm."""
        return {
            layer.name.removesuffix("_normalization"): layer
            for layer in self.layers
            if isinstance(layer, keras.layers.LayerNormalization)
        }


def build_transformer(config: TransformerConfig, name: str = "transformer") -> Transformer:
    """The encoder-decoder Transformer as a functional Keras model.

    Source: section 3, Figure 1.
    Deviation: the softmax of Figure 1 is left to the loss and the search, which need logits.

    Args:
        config: The settings.
        name: The model's name.

    Returns:
        A model from {"source_ids": Integer (batch, source_length), "target_ids": Integer
        (batch, target_length)} to logits, Float32 (batch, target_length, vocabulary). The target
        begins with the start id; row t holds the logits of the token after target token t.
    """
    source_ids = keras.Input((None,), dtype="int32", name="source_ids")
    target_ids = keras.Input((None,), dtype="int32", name="target_ids")
    source_mask = padding_mask(source_ids)
    target_mask = padding_mask(target_ids)
    embedding = PositionalEmbedding(
        config.vocabulary_size,
        config.model_dim,
        config.dropout,
        config.position_encoding,
        config.max_positions,
        name="embedding",
    )
    encoder_blocks = _blocks(EncoderBlock, config)
    decoder_blocks = _blocks(DecoderBlock, config)

    memory = embedding(source_ids)  # (batch, source_length, model_dim)
    for block in encoder_blocks:
        memory = block(memory, padding_mask=source_mask)
    if config.normalize_first:
        memory = _normalization("encoder")(memory)

    x = embedding(target_ids)  # (batch, target_length, model_dim)
    for block in decoder_blocks:
        x = block(x, memory, padding_mask=target_mask, memory_padding_mask=source_mask)
    if config.normalize_first:
        x = _normalization("decoder")(x)

    logits = embedding(x, reverse=True)  # (batch, target_length, vocabulary)
    inputs = {"source_ids": source_ids, "target_ids": target_ids}
    return Transformer(
        inputs=inputs, outputs=logits, name=name, max_source_tokens=config.max_source_tokens
    )


def _blocks(block_class, config):
    stack = block_class.__name__.removesuffix("Block").lower()
    return [
        block_class(
            config.num_heads,
            config.feed_forward_dim,
            dropout=config.dropout,
            activation=config.activation,
            normalize_first=config.normalize_first,
            head_dim=config.head_dim,
            value_dim=config.value_dim,
            name=f"{stack}_{index}",
        )
        for index in range(config.num_layers)
    ]


def _normalization(stack):
    return LayerNormalization(epsilon=1e-6, name=f"{stack}_normalization")


class Encoded(NamedTuple):
    """What the encoder knows of a batch of sources.

    Attributes:
        memory: Float (batch, source_length, model_dim).
        padding_mask: Boolean (batch, source_length).
    """

    memory: object
    padding_mask: object


class Memory(NamedTuple):
    """What every step of the decoder asks about the source; one for all beams of a sentence.

    Attributes:
        layers: For each decoder block, what its cross-attention asks.
        mask: Float32 (batch, 1, source_length), from `masks.to_add`.
    """

    layers: tuple[ProjectedMemory, ...]
    mask: object


@functools.singledispatch
def decoding_steps(model):
    """How search drives a model, whatever its architecture: three functions.

    encode(source_ids) -> encoded
        source_ids: Integer (batch, source_length). What comes back is the model's own affair.
    initial_state(encoded, num_beams=1, max_length=...) -> DecodingState
        max_length: Positions that will be decoded at most.
    step(token_ids, state) -> (logits, state)
        token_ids: Integer (batch, beams), the token before the one that is asked for, the start
        id first. logits: Float32 (batch, beams, vocabulary).

    An architecture enters with `@decoding_steps.register(ItsModelClass)`.

    Args:
        model: A model of a registered class.

    Returns:
        (encode, initial_state, step)

    Raises:
        TypeError: If the model's class is not registered.
    """
    raise TypeError(
        "decoding_steps needs a model of a registered class. Received: model of class"
        f" {type(model).__name__}. Build it with build_transformer, or register a function for its"
        " class with @decoding_steps.register."
    )


@decoding_steps.register(Transformer)
def _(model):
    def encode(source_ids):
        return Encoded(_encoder_output(model, source_ids), padding_mask(source_ids))

    def initial_state(encoded, num_beams=1, *, max_length):
        blocks = model.decoder_blocks
        attentions = [block.self_attention for block in blocks]
        return DecodingState(
            position=ops.convert_to_tensor(0, dtype="int32"),
            per_sentence=Memory(
                tuple(block.cross_attention.project_memory(encoded.memory) for block in blocks),
                to_add(attend_to(encoded.padding_mask)),
            ),
            cache=empty_cache(
                ops.shape(encoded.memory)[0],
                num_beams,
                [(layer.num_heads, layer.key_width, layer.value_width) for layer in attentions],
                max_length,
                attentions[0].attention_dtype,
            ),
        )

    def step(token_ids, state):
        memory = state.per_sentence
        cache, place = next_position(state.cache)
        rows = model.embedding.step(token_ids, state.position)  # (batch * beams, model_dim)
        mask = to_add(cache.visible)
        layers = []
        for block, layer, source in zip(
            model.decoder_blocks, cache.layers, memory.layers, strict=True
        ):
            rows, layer = block.step(rows, layer, place, mask, source, memory.mask)
            layers.append(layer)
        logits = model.embedding(_normalized(model, "decoder", rows), reverse=True)
        logits = ops.reshape(logits, (-1, token_ids.shape[1], logits.shape[-1]))
        cache = cache._replace(layers=tuple(layers))
        return logits, state._replace(position=state.position + 1, cache=cache)

    return encode, initial_state, step


@functools.singledispatch
def cross_attention_weights(model, source_ids, target_ids):
    """What each target position takes from each source position, where the decoder last looks.

    In the Transformer that is its last decoder block. An architecture that attends to the source
    enters with `@cross_attention_weights.register(ItsModelClass)`.

    Args:
        model: A model of a registered class.
        source_ids: Integer (batch, source_length).
        target_ids: Integer (batch, target_length), beginning with the start id: row t of the
            answer belongs to the prediction of token t + 1 of `target_ids`.

    Returns:
        Float (batch, heads, target_length, source_length); each row sums to 1.

    Raises:
        TypeError: If the model's class is not registered.
    """
    raise TypeError(
        "cross_attention_weights needs a model of a registered class. Received: model of class"
        f" {type(model).__name__}. Ask has_cross_attention first: not every model attends to its"
        " source."
    )


def has_cross_attention(model) -> bool:
    """Whether `cross_attention_weights` knows the model's class."""
    nothing = cross_attention_weights.dispatch(object)
    return cross_attention_weights.dispatch(type(model)) is not nothing


@cross_attention_weights.register(Transformer)
def _(model, source_ids, target_ids):
    memory = _encoder_output(model, source_ids)
    source_mask, target_mask = padding_mask(source_ids), padding_mask(target_ids)
    x = model.embedding(target_ids, training=False)
    *blocks, last = model.decoder_blocks
    for block in blocks:
        x = block(
            x,
            memory,
            padding_mask=target_mask,
            memory_padding_mask=source_mask,
            training=False,
        )
    return last.attention_weights(x, memory, target_mask, source_mask)


class AttentionOfLayers(NamedTuple):
    """The weights of every head, a tensor for each layer in the order of the stack.

    Attributes:
        encoder: Self-attention of the encoder, Float (batch, heads, source_length, source_length).
        decoder: Self-attention of the decoder, Float (batch, heads, target_length, target_length).
        cross: What the decoder takes from the source, Float (batch, heads, target_length,
            source_length).
    """

    encoder: tuple
    decoder: tuple
    cross: tuple


def attention_of_layers(model: Transformer, source_ids, target_ids) -> AttentionOfLayers:
    """What each position takes from each other, in every layer.

    Source: section 3.2.3 names the three kinds; the paper's own pictures are in its appendix.

    Args:
        model: The model.
        source_ids: Integer (batch, source_length).
        target_ids: Integer (batch, target_length), beginning with the start id: row t belongs to
            the prediction of token t + 1 of `target_ids`.

    Returns:
        AttentionOfLayers; `cross[-1]` is what `cross_attention_weights` returns.
    """
    source_mask, target_mask = padding_mask(source_ids), padding_mask(target_ids)
    encoder, decoder, cross = [], [], []
    x = model.embedding(source_ids, training=False)
    for block in model.encoder_blocks:
        encoder.append(block.attention_weights(x, source_mask))
        x = block(x, padding_mask=source_mask, training=False)
    memory = _normalized(model, "encoder", x)

    x = model.embedding(target_ids, training=False)
    for block in model.decoder_blocks:
        decoder.append(block.self_attention_weights(x, target_mask))
        cross.append(block.attention_weights(x, memory, target_mask, source_mask))
        x = block(
            x,
            memory,
            padding_mask=target_mask,
            memory_padding_mask=source_mask,
            training=False,
        )
    return AttentionOfLayers(tuple(encoder), tuple(decoder), tuple(cross))


def _encoder_output(model, source_ids):
    memory = model.embedding(source_ids, training=False)
    mask = padding_mask(source_ids)
    for block in model.encoder_blocks:
        memory = block(memory, padding_mask=mask, training=False)
    return _normalized(model, "encoder", memory)


def _normalized(model, stack, x):
    """Pre-norm's last normalization of a stack; nothing in post-norm."""
    normalization = model.normalizations.get(stack)
    return x if normalization is None else normalization(x)
