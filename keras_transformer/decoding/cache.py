"""What decoding keeps of the positions it has been through: a tree.

Each position of each hypothesis takes one slot of the cache, for good: when hypotheses branch or
die, no key and no value moves. Only a table changes, which says for each hypothesis in which slots
its ancestors stand, and attention looks nowhere else. All hypotheses of a sentence ask one cache,
so a beginning that they share is kept once and read once.

Here and in `loop.py` backends differ. JAX compiles for fixed shapes: there a cache has
all its slots from the start. On TensorFlow it grows, a position at a time or, inside of a search's
loop, by `with_room`, which drops the slots that no hypothesis descends from any more.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_transformer.gathering import gather_for_all_beams, gather_rows, take


class KeyValues(NamedTuple):
    """Keys and values of one attention layer, heads split.

    Attributes:
        key: Float (batch, heads, slots, head_dim); source positions stand for slots in
            cross-attention.
        value: Float (batch, heads, slots, value_dim).
    """

    key: object
    value: object


class Cache(NamedTuple):
    """The self-attention keys and values of all positions so far.

    Attributes:
        layers: For each decoder block, KeyValues.
        visible: Boolean (batch, beams, slots), True where a hypothesis or an ancestor of it stands.
        num_filled: Integer scalar, the slots in use, a multiple of the beams.
    """

    layers: tuple[KeyValues, ...]
    visible: object
    num_filled: object


def shapes_are_dynamic() -> bool:
    """Whether tensors may grow from step to step."""
    return keras.backend.backend() == "tensorflow"


def as_length(length):
    """A length to allocate by: a scalar tensor on TensorFlow, a Python int elsewhere."""
    return length if shapes_are_dynamic() else int(length)


def empty_cache(batch, beams, widths, max_length, dtype) -> Cache:
    """A cache of no positions.

    Args:
        batch: Sentences.
        beams: Hypotheses of each.
        widths: For each decoder block (heads, head_dim, value_dim), as many heads in each.
        max_length: Positions it will have to hold at most; TensorFlow allocates none of them.
        dtype: Name of the dtype of keys and values.
    """
    slots = _slots_that_may_grow(beams) if shapes_are_dynamic() else beams * int(max_length)

    def zeros(heads, width):
        return ops.zeros((batch, heads, slots, width), dtype)

    return Cache(
        layers=tuple(
            KeyValues(zeros(heads, head_dim), zeros(heads, value_dim))
            for heads, head_dim, value_dim in widths
        ),
        visible=ops.zeros((batch, beams, slots), "bool"),
        num_filled=ops.convert_to_tensor(0, dtype="int32"),
    )


class HeadOrder(NamedTuple):
    """Where heads stand before beams, and where beams stand before heads.

    A row is what one head has of one hypothesis. In a product's output rows stand in the order
    (batch, beams, heads); attention takes all beams of a head at once, (batch, heads, beams).
    On TensorFlow picking rows is faster than transposing, and one pick moves query, key and value.

    Attributes:
        heads_first: Integer (batch, heads, beams), rows of (batch, beams, heads).
        parts_first: Integer (3, batch, heads, beams), rows of (batch, beams, 3, heads).
        beams_first: Integer (batch, beams, heads), rows of (batch, heads, beams).
    """

    heads_first: object
    parts_first: object
    beams_first: object


def head_order(batch, heads: int, beams: int) -> HeadOrder:
    """The order for so many sentences."""
    head, beam = np.arange(heads, dtype="int32")[:, None], np.arange(beams, dtype="int32")
    part = np.arange(3, dtype="int32")[:, None, None, None]
    first_row = ops.arange(batch, dtype="int32")[:, None, None] * (heads * beams)
    return HeadOrder(
        heads_first=first_row + (beam * heads + head),
        parts_first=3 * first_row + ((beam * 3 + part) * heads + head),
        beams_first=first_row + (head * beams + beam).T,
    )


class Place(NamedTuple):
    """Where the newest position of each hypothesis stands, the same in each layer.

    Attributes:
        rows: Integer (batch * heads,), in a cache seen as a matrix of which one row holds the slots
            that all beams fill together.
        shapes: By their width, the shape of what a layer keeps, (batch, heads, slots, width): made
            once, it serves many layers.
        order: How heads are split and put together again; None for one beam, which needs no order,
            and on JAX, where they are transposed.
    """

    rows: object
    shapes: dict[int, object]
    order: HeadOrder | None


def next_position(cache: Cache) -> tuple[Cache, Place]:
    """Gives each hypothesis a slot for its newest position, which it sees at once.

    Returns:
        (the cache, of which `write` must now fill each layer, the place to write to).
    """
    beams = cache.visible.shape[1]
    visible, first_slot = cache.visible, cache.num_filled
    if _grows():
        first_slot = ops.shape(visible)[2]
        visible = ops.pad(visible, ((0, 0), (0, 0), (0, beams)))
    batch, _, num_slots = ops.shape(visible)
    slot = ops.arange(num_slots, dtype="int32") - first_slot
    own = ops.equal(slot, ops.arange(beams, dtype="int32")[:, None])  # (beams, slots)
    heads = cache.layers[0].key.shape[1]
    rows = ops.arange(batch * heads, dtype="int32") * (num_slots // beams) + first_slot // beams
    cache = cache._replace(visible=visible | own, num_filled=first_slot + beams)
    order = head_order(batch, heads, beams) if shapes_are_dynamic() and beams > 1 else None
    widths = {x.shape[-1] for layer in cache.layers for x in layer}
    shapes = {width: _as_shape(-1, heads, num_slots, width) for width in widths}
    return cache, Place(rows, shapes, order)


def write(layer: KeyValues, new: KeyValues, place: Place) -> KeyValues:
    """Fills the slots that `next_position` gave.

    Args:
        layer: KeyValues of Float (batch, heads, slots, width).
        new: KeyValues of Float (batch, heads, beams, width).
        place: Where.
    """
    return KeyValues(*(_write(old, n, place) for old, n in zip(layer, new, strict=True)))


def _write(old, new, place):
    if _grows():
        return ops.concatenate([old, new], axis=2)
    _, _, beams, width = new.shape
    matrix = ops.reshape(old, (-1, beams * width))
    new = ops.reshape(new, (-1, beams * width))
    return ops.reshape(_replace_rows(matrix, place.rows, new), place.shapes[width])


def _as_shape(*lengths):
    """A shape to give to `ops.reshape`; on TensorFlow one tensor."""
    if not shapes_are_dynamic():
        return lengths
    import tensorflow as tf

    return tf.stack(lengths)


def _replace_rows(matrix, rows, new):
    if not shapes_are_dynamic():
        return ops.scatter_update(matrix, rows[:, None], new)
    import tensorflow as tf

    # TensorFlow's scatter ops copy the matrix. This one writes into it, so it may have no other
    # reader: the loop of a search, which uses each state once, vouches for that.
    return tf.raw_ops.InplaceUpdate(x=matrix, i=rows, v=new)


def reorder_cache(cache: Cache, beam_indices) -> Cache:
    """The cache in which beam i goes on where beam `beam_indices[:, i]` stood.

    Args:
        beam_indices: Integer (batch, beams).
    """
    return cache._replace(visible=gather_rows(cache.visible, beam_indices))


def with_room(cache: Cache, sentences, num_positions: int) -> Cache:
    """A copy for some of the sentences that holds what is still seen, and has room for more.

    Only on TensorFlow.

    Args:
        cache: Of a search that goes on.
        sentences: Integer (new_batch,), the sentences that are kept.
        num_positions: How many positions there shall be room for.
    """
    beams = cache.visible.shape[1]
    visible = take(cache.visible, sentences)
    slots = ops.shape(visible)[2]
    seen = ops.cast(ops.any(visible, axis=1), "int32")  # (batch, slots)
    most_seen = ops.max(ops.sum(seen, axis=1), initial=0)
    num_kept = (most_seen + beams - 1) // beams * beams  # at most num_filled, which is a multiple
    # The seen slots in their order, then unseen ones, which nobody looks at.
    _, kept = ops.top_k(seen * (slots - ops.arange(slots, dtype="int32")), num_kept)
    kept = ops.cast(kept, "int32")
    room = ((0, 0), (0, num_positions * beams))
    visible = gather_for_all_beams(visible, kept)
    kept = ops.pad(kept, room)  # the room is filled with anything: it is not seen

    heads = cache.layers[0].key.shape[1]
    first = (sentences[:, None] * heads + ops.arange(heads, dtype="int32")) * slots
    index = first[:, :, None] + kept[:, None, :]  # (new_batch, heads, slots)

    def copy(x):
        return take(ops.reshape(x, (-1, x.shape[-1])), index)

    return Cache(
        layers=tuple(KeyValues(copy(layer.key), copy(layer.value)) for layer in cache.layers),
        visible=ops.pad(visible, ((0, 0), *room)),
        num_filled=num_kept,
    )


_search_owns_states = False


@contextlib.contextmanager
def states_used_once() -> Iterator[None]:
    """While a loop of a TensorFlow graph is traced that makes room and uses each state once."""
    global _search_owns_states
    before, _search_owns_states = _search_owns_states, True
    try:
        yield
    finally:
        _search_owns_states = before


def _grows() -> bool:
    """Whether a new position needs new slots: on TensorFlow, unless a search has made room."""
    return shapes_are_dynamic() and not _search_owns_states


def _slots_that_may_grow(beams):
    """No slots; in a graph those of one position that stays unseen, for `with_room` to copy.

    A loop in a graph must not change its tensors' static shapes. An axis whose length is unknown
    while the graph is traced may grow; one that is known may not.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        return 0
    return tf.compat.v1.placeholder_with_default(beams, shape=[])
