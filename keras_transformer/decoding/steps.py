"""How a search drives a model: encode, then one position at a time."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import keras
from keras import ops

from keras_transformer.decoding.attention import (
    ProjectedMemory,
    cross_attention_step,
    project_memory,
    self_attention_step,
)
from keras_transformer.decoding.cache import KeyValues, Place, empty_cache, next_position
from keras_transformer.layers.decoder import DecoderBlock
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.masks import attend_to, padding_mask, to_add
from keras_transformer.model import Transformer, encoder_states, last_of, normalized
from keras_transformer.search.state import DecodingState, Step
from keras_transformer.tensors import Tensor

# The functions encode, initial_state and step; see `decoding_steps`.
DecodingSteps: TypeAlias = tuple[Callable[[Tensor], Any], Callable[..., DecodingState], Step]


@functools.singledispatch
def decoding_steps(model: keras.Model) -> DecodingSteps:
    """Returns the three functions by which a search drives a model of any architecture.

        encode(source_ids) -> encoded
        initial_state(encoded, num_beams=1, max_length=...) -> DecodingState
        step(token_ids, state) -> (logits, state)

    `source_ids` are Integer (batch, source_length); what `encoded` holds is up to the model.
    `max_length` is the most positions that will be decoded. `token_ids` are Integer (batch, beams),
    the token before the one to predict, the start id first; `logits` are Float32 (batch, beams,
    vocabulary).

    Register another architecture with `@decoding_steps.register(ItsModelClass)`.

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


class Encoded(NamedTuple):
    """The encoder's output for a batch of sources.

    Attributes:
        memory: Float (batch, source_length, model_dim).
        padding_mask: Boolean (batch, source_length).
    """

    memory: Tensor
    padding_mask: Tensor


class Memory(NamedTuple):
    """The part of the source that every step reads, the same for all beams of a sentence.

    Attributes:
        layers: The input of each decoder block's cross-attention.
        mask: Float32 (batch, 1, source_length), from `masks.to_add`.
    """

    layers: tuple[ProjectedMemory, ...]
    mask: Tensor


@decoding_steps.register(Transformer)
def _(model: Transformer) -> DecodingSteps:
    blocks = model.decoder_blocks

    def encode(source_ids: Tensor) -> Encoded:
        source_mask = padding_mask(source_ids)
        memory = last_of(encoder_states(model, source_ids, source_mask, training=False))
        return Encoded(memory, source_mask)

    def initial_state(
        encoded: Encoded, num_beams: int = 1, *, max_length: int | Tensor
    ) -> DecodingState:
        memory = Memory(
            tuple(project_memory(block.cross_attention, encoded.memory) for block in blocks),
            to_add(attend_to(encoded.padding_mask)),
        )
        attentions = [block.self_attention for block in blocks]
        cache = empty_cache(
            ops.shape(encoded.memory)[0],
            num_beams,
            [(layer.num_heads, layer.key_width, layer.value_width) for layer in attentions],
            max_length,
            memory.layers[0].value.dtype,
        )
        position = ops.convert_to_tensor(0, dtype="int32")
        return DecodingState(position, per_sentence=memory, cache=cache)

    def step(token_ids: Tensor, state: DecodingState) -> tuple[Tensor, DecodingState]:
        memory = state.per_sentence
        cache, place = next_position(state.cache)
        rows = embedding_step(model.embedding, token_ids, state.position)
        mask = to_add(cache.visible)
        layers = []
        for block, layer, source in zip(blocks, cache.layers, memory.layers, strict=True):
            rows, layer = _block_step(block, rows, layer, place, mask, source, memory.mask)
            layers.append(layer)
        rows = normalized(model, "decoder", rows)
        logits = model.embedding(rows, reverse=True)  # (batch * beams, vocabulary)
        logits = ops.reshape(logits, (-1, token_ids.shape[1], logits.shape[-1]))
        cache = cache._replace(layers=tuple(layers))
        return logits, state._replace(position=state.position + 1, cache=cache)

    return encode, initial_state, step


def embedding_step(embedding: PositionalEmbedding, token_ids: Tensor, position: Tensor) -> Tensor:
    """Applies a PositionalEmbedding to the tokens of one position.

    Args:
        embedding: The layer.
        token_ids: Integer (batch, beams).
        position: Integer scalar, counted from 0.

    Returns:
        Float (batch * beams, model_dim).
    """
    embedded = embedding.scaled(ops.reshape(token_ids, (-1,)))  # (batch * beams, model_dim)
    if embedding.position_encoding is None:
        return embedded
    return embedded + embedding.positions(position + ops.arange(1, dtype="int32"))


def _block_step(
    block: DecoderBlock,
    rows: Tensor,
    cache: KeyValues,
    place: Place,
    attention_mask: Tensor,
    memory: ProjectedMemory,
    memory_mask: Tensor,
) -> tuple[Tensor, KeyValues]:
    """Applies a DecoderBlock to one new position; arguments as in `decoding/attention.py`."""
    residual = block.self_attention_residual
    attended, cache = self_attention_step(
        block.self_attention, residual.sublayer_input(rows), cache, place, attention_mask
    )
    x = residual(rows, attended, training=False)

    residual = block.cross_attention_residual
    attended = cross_attention_step(
        block.cross_attention,
        residual.sublayer_input(x),
        attention_mask.shape[1],
        memory,
        memory_mask,
        place.order,
    )
    x = residual(x, attended, training=False)

    residual, feed_forward = block.feed_forward_residual, block.feed_forward
    transformed = feed_forward.outer(feed_forward.inner(residual.sublayer_input(x)))
    return residual(x, transformed, training=False), cache
