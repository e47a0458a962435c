"""Both kinds of attention, for one new position of each hypothesis.

The hypotheses of a sentence take the place of the positions in a layer's `call`:
    rows    batch * beams, the new position of every hypothesis
    slots   entries of the cache, which take the place of key positions
"""

from collections.abc import Sequence
from typing import NamedTuple

from keras import ops

from keras_transformer.decoding.cache import KeyValues, Place, write
from keras_transformer.decoding.few_rows import matmul_of_few_rows
from keras_transformer.decoding.head_order import HeadOrder
from keras_transformer.gathering import take
from keras_transformer.layers.attention import (
    MultiHeadCrossAttention,
    MultiHeadSelfAttention,
    masked_softmax,
)
from keras_transformer.layers.heads import MultiHeadLayer
from keras_transformer.tensors import Tensor


class ProjectedMemory(NamedTuple):
    """What cross-attention reads at every step, the same for every hypothesis of a sentence.

    Attributes:
        key_columns: Float (batch, heads, head_dim, source_length), the keys as columns: on a CPU,
            multiplying a few queries by columns takes half as long as by rows.
        value: Float (batch, heads, source_length, value_dim).
    """

    key_columns: Tensor
    value: Tensor


def project_memory(layer: MultiHeadCrossAttention, memory: Tensor) -> ProjectedMemory:
    """Projects the encoder's output for all steps of a MultiHeadCrossAttention.

    Args:
        layer: The layer.
        memory: Float (batch, source_length, memory_dim).
    """
    key, value = layer.keys_and_values(memory)
    return ProjectedMemory(ops.swapaxes(key, -1, -2), value)


def self_attention_step(
    layer: MultiHeadSelfAttention,
    rows: Tensor,
    cache: KeyValues,
    place: Place,
    attention_mask: Tensor,
) -> tuple[Tensor, KeyValues]:
    """Computes MultiHeadSelfAttention of the new position to itself and the earlier positions.

    Args:
        layer: The layer.
        rows: Float (batch * beams, model_dim).
        cache: KeyValues of Float (batch, heads, slots, width), the earlier positions.
        place: Where the new position is written, from `next_position`.
        attention_mask: (batch, beams, slots), Boolean or from `masks.to_add`: the slots that each
            hypothesis descends from, its new one included.

    Returns:
        (Float (batch * beams, model_dim), the cache with the new position in it).
    """
    beams = attention_mask.shape[1]
    projected = layer.query_key_value(rows)  # (batch * beams, heads * all widths)
    query, key, value = _to_heads(layer, projected, beams, layer.widths, place.order)
    cache = write(cache, KeyValues(key, value), place)
    scores = _scores(query, cache.key)
    return _attend(layer, scores, cache.value, attention_mask, place.order), cache


def cross_attention_step(
    layer: MultiHeadCrossAttention,
    rows: Tensor,
    beams: int,
    memory: ProjectedMemory,
    attention_mask: Tensor,
    order: HeadOrder | None = None,
) -> Tensor:
    """Computes MultiHeadCrossAttention of the new position to the source.

    All hypotheses of a sentence read the same keys, which are not copied for each beam.

    Args:
        layer: The layer.
        rows: Float (batch * beams, model_dim).
        beams: Hypotheses of each sentence.
        memory: From `project_memory`.
        attention_mask: (batch, 1, source_length), Boolean or from `masks.to_add`.
        order: How to split and join heads; None to transpose instead.

    Returns:
        Float (batch * beams, model_dim).
    """
    projected = layer.query_projection(rows)  # (batch * beams, heads * head_dim)
    [query] = _to_heads(layer, projected, beams, (layer.key_width,), order)
    scores = _scores(query, memory.key_columns, key_in_columns=True)
    return _attend(layer, scores, memory.value, attention_mask, order)


def _to_heads(
    layer: MultiHeadLayer, rows: Tensor, beams: int, widths: Sequence[int], order: HeadOrder | None
) -> list[Tensor]:
    """Splits rows (batch * beams, heads * all widths) to (batch, heads, beams, width) each."""
    if order is not None and len(set(widths)) == 1:
        rows = ops.reshape(rows, (-1, widths[0]))  # (batch * beams * parts * heads, width)
        if len(widths) == 1:
            return [take(rows, order.heads_first)]
        return ops.unstack(take(rows, order.parts_first), len(widths))
    return [
        _split_heads(part, layer.num_heads, beams, width)
        for part, width in zip(layer.split_parts(rows, *widths), widths, strict=True)
    ]


def _split_heads(rows: Tensor, heads: int, beams: int, width: int) -> Tensor:
    if beams == 1:
        return ops.reshape(rows, (-1, heads, 1, width))  # (batch, heads, beams, width)
    rows = ops.reshape(rows, (-1, beams, heads, width))  # (batch, beams, heads, width)
    return ops.transpose(rows, (0, 2, 1, 3))  # (batch, heads, beams, width)


def _scores(query: Tensor, key: Tensor, key_in_columns: bool = False) -> Tensor:
    """Computes Q K^T / sqrt(d_k), Float (batch, heads, beams, slots)."""
    return _matmul(query * query.shape[-1] ** -0.5, key, transpose_y=not key_in_columns)


def _attend(
    layer: MultiHeadLayer,
    scores: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    order: HeadOrder | None,
) -> Tensor:
    """Computes equation 1 from the scores on, then joins and projects the heads."""
    weights = masked_softmax(scores, ops.expand_dims(attention_mask, 1))  # one mask for all heads
    attended = _matmul(weights, value)  # (batch, heads, beams, value_dim)
    if order is not None:
        attended = take(ops.reshape(attended, (-1, layer.value_width)), order.beams_first)
    elif attended.shape[2] != 1:
        attended = ops.transpose(attended, (0, 2, 1, 3))
    rows = ops.reshape(attended, (-1, layer.num_heads * layer.value_width))
    return layer.output_projection(rows)  # (batch * beams, model_dim)


def _matmul(x: Tensor, y: Tensor, transpose_y: bool = False) -> Tensor:
    if x.shape[-2] == 1:
        return matmul_of_few_rows(x, y, transpose_y)
    return ops.matmul(x, ops.swapaxes(y, -1, -2) if transpose_y else y)
