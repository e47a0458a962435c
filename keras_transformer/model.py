"""The whole model (Figure 1), and its attention weights."""

import collections
import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import keras

from keras_transformer.config import TransformerConfig
from keras_transformer.layers.decoder import DecoderBlock
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.layers.encoder import EncoderBlock
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.masks import padding_mask
from keras_transformer.tensors import Tensor


@keras.saving.register_keras_serializable(package="keras_transformer")
class Transformer(keras.Model):
    """The functional model that `build_transformer` makes.

    Having a class of its own lets `decoding_steps` recognize a loaded model, gives the boxes of
    Figure 1 names, and keeps the config's longest source with the weights.

    Args:
        max_source_tokens: The longest source that a translator reads by default, in tokens,
            including the end. The model itself accepts longer ones.
    """

    def __init__(
        self,
        *args: Any,
        max_source_tokens: int = TransformerConfig.max_source_tokens,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.max_source_tokens = max_source_tokens

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_source_tokens": self.max_source_tokens}

    @property
    def embedding(self) -> PositionalEmbedding:
        """The shared embedding matrix of section 3.4, and the positions."""
        return self.get_layer("embedding")

    @property
    def source_embedding(self) -> PositionalEmbedding:
        """The embedding of the source: of its own vocabulary, or the shared one."""
        layers = [layer for layer in self.layers if layer.name == "source_embedding"]
        return layers[0] if layers else self.embedding

    @property
    def encoder_blocks(self) -> list[EncoderBlock]:
        """The encoder's blocks, from the first to the last."""
        return [layer for layer in self.layers if isinstance(layer, EncoderBlock)]

    @property
    def decoder_blocks(self) -> list[DecoderBlock]:
        """The decoder's blocks, from the first to the last."""
        return [layer for layer in self.layers if isinstance(layer, DecoderBlock)]

    @property
    def normalizations(self) -> dict[str, keras.Layer]:
        """Pre-norm's final normalization of each stack, by the stack's name; {} in post-norm."""
        return {
            layer.name.removesuffix("_normalization"): layer
            for layer in self.layers
            if isinstance(layer, keras.layers.LayerNormalization)
        }


def build_transformer(config: TransformerConfig, name: str = "transformer") -> Transformer:
    """Builds the encoder-decoder Transformer as a functional Keras model.

    Source: section 3, Figure 1.
    Deviation: it has no softmax; the loss and the search need logits.

    Args:
        config: The settings.
        name: The model's name.

    Returns:
        A model that maps {"source_ids": Integer (batch, source_length), "target_ids": Integer
        (batch, target_length)} to logits, Float32 (batch, target_length, vocabulary). The target
        begins with the start id; row t holds the logits of the token after target token t.
    """
    source_ids = keras.Input((None,), dtype="int32", name="source_ids")
    target_ids = keras.Input((None,), dtype="int32", name="target_ids")
    boxes = _boxes(config)
    source_mask, target_mask = padding_mask(source_ids), padding_mask(target_ids)
    memory = last_of(encoder_states(boxes, source_ids, source_mask))
    x = last_of(decoder_states(boxes, target_ids, target_mask, memory, source_mask))
    logits = boxes.embedding(x, reverse=True)  # (batch, target_length, vocabulary)
    inputs = {"source_ids": source_ids, "target_ids": target_ids}
    return Transformer(
        inputs=inputs, outputs=logits, name=name, max_source_tokens=config.max_source_tokens
    )


class Boxes(NamedTuple):
    """The boxes of Figure 1; a Transformer has attributes of the same names."""

    embedding: PositionalEmbedding
    source_embedding: PositionalEmbedding
    encoder_blocks: list[EncoderBlock]
    decoder_blocks: list[DecoderBlock]
    normalizations: dict[str, LayerNormalization]


def _boxes(config: TransformerConfig) -> Boxes:
    options = (
        config.model_dim,
        config.dropout,
        config.position_encoding,
        config.max_positions,
    )
    embedding = source_embedding = PositionalEmbedding(
        config.vocabulary_size, *options, output_bias=config.output_bias, name="embedding"
    )
    if config.source_vocabulary_size is not None:
        source_embedding = PositionalEmbedding(
            config.source_vocabulary_size, *options, name="source_embedding"
        )
    normalizations = {
        stack: LayerNormalization(epsilon=config.layer_norm_epsilon, name=f"{stack}_normalization")
        for stack in ("encoder", "decoder")
        if config.normalize_first
    }
    return Boxes(
        embedding,
        source_embedding,
        _blocks(EncoderBlock, config, config.num_layers),
        _blocks(DecoderBlock, config, config.decoder_layers),
        normalizations,
    )


_Block = TypeVar("_Block", EncoderBlock, DecoderBlock)


def _blocks(block_class: type[_Block], config: TransformerConfig, num_blocks: int) -> list[_Block]:
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
            layer_norm_epsilon=config.layer_norm_epsilon,
            name=f"{stack}_{index}",
        )
        for index in range(num_blocks)
    ]


def encoder_states(
    boxes: Boxes | Transformer, source_ids: Tensor, source_mask: Tensor | None, **options: Any
) -> Iterator[Tensor]:
    """Runs the encoder; `options` go to every layer's call, such as training=False.

    Yields:
        The input of each block, then the memory: Float (batch, source_length, model_dim).
    """
    x = boxes.source_embedding(source_ids, **options)
    for block in boxes.encoder_blocks:
        yield x
        x = block(x, padding_mask=source_mask, **options)
    yield normalized(boxes, "encoder", x)


def decoder_states(
    boxes: Boxes | Transformer,
    target_ids: Tensor,
    target_mask: Tensor | None,
    memory: Tensor,
    source_mask: Tensor | None,
    **options: Any,
) -> Iterator[Tensor]:
    """Runs the decoder; `options` as in `encoder_states`.

    Yields:
        The input of each block, then of the logits: Float (batch, target_length, model_dim).
    """
    in_block = {"padding_mask": target_mask, "memory_padding_mask": source_mask, **options}
    x = boxes.embedding(target_ids, **options)
    for block in boxes.decoder_blocks:
        yield x
        x = block(x, memory, **in_block)
    yield normalized(boxes, "decoder", x)


def last_of(states: Iterable[Tensor]) -> Tensor:
    """Returns the last state, and lets go of the others on the way."""
    return collections.deque(states, maxlen=1).pop()


def normalized(boxes: Boxes | Transformer, stack: str, x: Tensor) -> Tensor:
    """Applies a stack's final normalization, which only pre-norm has."""
    normalization = boxes.normalizations.get(stack)
    return x if normalization is None else normalization(x)


@functools.singledispatch
def cross_attention_weights(model: keras.Model, source_ids: Tensor, target_ids: Tensor) -> Tensor:
    """Returns the weights of the last decoder block's attention to the source.

    Register another architecture with `@cross_attention_weights.register(ItsModelClass)`.

    Args:
        model: A model of a registered class.
        source_ids: Integer (batch, source_length).
        target_ids: Integer (batch, target_length), beginning with the start id: the weights at
            position t are those that predicted token t + 1 of `target_ids`.

    Returns:
        Float (batch, heads, target_length, source_length); each row sums to 1.

    Raises:
        TypeError: If the model's class is not registered.
    """
    raise TypeError(
        "cross_attention_weights needs a model of a registered class. Received: model of class"
        f" {type(model).__name__}. Call has_cross_attention first: not every model attends to its"
        " source."
    )


def has_cross_attention(model: keras.Model) -> bool:
    """Whether `cross_attention_weights` supports the model's class."""
    nothing = cross_attention_weights.dispatch(object)
    return cross_attention_weights.dispatch(type(model)) is not nothing


@cross_attention_weights.register(Transformer)
def _(model: Transformer, source_ids: Tensor, target_ids: Tensor) -> Tensor:
    source_mask, target_mask = padding_mask(source_ids), padding_mask(target_ids)
    off = {"training": False}
    memory = last_of(encoder_states(model, source_ids, source_mask, **off))
    states = decoder_states(model, target_ids, target_mask, memory, source_mask, **off)
    blocks = model.decoder_blocks
    x = last_of(itertools.islice(states, len(blocks)))  # what the last block reads
    return blocks[-1].attention_weights(x, memory, target_mask, source_mask)


class AttentionOfLayers(NamedTuple):
    """The attention weights of every head, one tensor for each layer.

    Attributes:
        encoder: Self-attention of the encoder, Float (batch, heads, source_length, source_length).
        decoder: Self-attention of the decoder, Float (batch, heads, target_length, target_length).
        cross: The decoder's attention to the source, Float (batch, heads, target_length,
            source_length).
    """

    encoder: tuple[Tensor, ...]
    decoder: tuple[Tensor, ...]
    cross: tuple[Tensor, ...]


def attention_of_layers(
    model: Transformer, source_ids: Tensor, target_ids: Tensor
) -> AttentionOfLayers:
    """Returns the attention weights of every head in every layer.

    Source: section 3.2.3 names the three kinds; the paper's appendix shows some.

    Args:
        model: The model.
        source_ids, target_ids: As in `cross_attention_weights`.

    Returns:
        AttentionOfLayers; `cross[-1]` equals the result of `cross_attention_weights`.
    """
    source_mask, target_mask = padding_mask(source_ids), padding_mask(target_ids)
    off = {"training": False}
    *sources, memory = encoder_states(model, source_ids, source_mask, **off)
    states = decoder_states(model, target_ids, target_mask, memory, source_mask, **off)
    targets = list(zip(model.decoder_blocks, states, strict=False))  # without the last state
    return AttentionOfLayers(
        encoder=tuple(
            block.attention_weights(x, source_mask)
            for block, x in zip(model.encoder_blocks, sources, strict=True)
        ),
        decoder=tuple(block.self_attention_weights(x, target_mask) for block, x in targets),
        cross=tuple(
            block.attention_weights(x, memory, target_mask, source_mask) for block, x in targets
        ),
    )
