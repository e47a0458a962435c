"""The cache: keys and values of the positions decoded so far, as a tree.

Each position of each hypothesis keeps its slot in the cache: when hypotheses branch or die, no key
or value moves. Only a table changes, which says for each hypothesis which slots hold its ancestors;
attention sees no others. All hypotheses of a sentence share one cache, so a common beginning is
stored once and read once.

Backends differ here and in `search/loop.py`. JAX compiles for fixed shapes, so a cache has all its
slots from the start. On TensorFlow it grows one position at a time or, in the loop of a search, by
`Cache.with_room`, which drops the slots that no hypothesis descends from any more.
"""

from collections.abc import Sequence
from typing import NamedTuple

from keras import ops

from keras_transformer.decoding.head_order import HeadOrder, head_order
from keras_transformer.gathering import gather_for_all_beams, gather_rows, take
from keras_transformer.search.shapes import shapes_are_dynamic
from keras_transformer.tensors import Tensor


class KeyValues(NamedTuple):
    """The keys and values of one self-attention layer, split into heads.

    Attributes:
        key: Float (batch, heads, slots, head_dim).
        value: Float (batch, heads, slots, value_dim).
    """

    key: Tensor
    value: Tensor


class Cache(NamedTuple):
    """The self-attention keys and values of all positions so far.

    Attributes:
        layers: For each decoder block, KeyValues.
        visible: Boolean (batch, beams, slots), True at the slots of a hypothesis and its
            ancestors.
        num_filled: Integer scalar, the slots in use, a multiple of the beams.
    """

    layers: tuple[KeyValues, ...]
    visible: Tensor
    num_filled: Tensor

    @property
    def grows(self) -> bool:
        """Whether a new position needs new slots."""
        return shapes_are_dynamic()

    def reorder(self, beam_indices: Tensor) -> "Cache":
        """Returns the cache in which beam i continues beam `beam_indices[:, i]`.

        Args:
            beam_indices: Integer (batch, beams).
        """
        return self._replace(visible=gather_rows(self.visible, beam_indices))

    def used_once(self) -> "CacheUsedOnce":
        """Returns the same cache, to be written in place from now on."""
        return CacheUsedOnce(*self)

    def with_room(self, sentences: Tensor, num_positions: int | Tensor) -> "Cache":
        """Copies the slots still visible for some of the sentences, and adds room for more.

        Only on TensorFlow.

        Args:
            sentences: Integer (new_batch,), the sentences to keep.
            num_positions: The positions to make room for.
        """
        beams = self.visible.shape[1]
        visible = take(self.visible, sentences)  # (new_batch, beams, slots)
        slots = ops.shape(visible)[2]
        seen = ops.cast(ops.any(visible, axis=1), "int32")  # (new_batch, slots)
        most_seen = ops.max(ops.sum(seen, axis=1), initial=0)
        num_kept = (most_seen + beams - 1) // beams * beams  # at most num_filled, a multiple too
        # The visible slots, in order, then others, which nobody reads.
        _, kept = ops.top_k(seen * (slots - ops.arange(slots, dtype="int32")), num_kept)
        kept = ops.cast(kept, "int32")  # (new_batch, num_kept)
        room = ((0, 0), (0, num_positions * beams))
        visible = gather_for_all_beams(visible, kept)  # (new_batch, beams, num_kept)
        kept = ops.pad(kept, room)  # the room may hold anything: it is not visible

        heads = self.layers[0].key.shape[1]
        first = (sentences[:, None] * heads + ops.arange(heads, dtype="int32")) * slots
        index = first[:, :, None] + kept[:, None, :]  # (new_batch, heads, new_slots)

        def copy(x: Tensor) -> Tensor:
            return take(ops.reshape(x, (-1, x.shape[-1])), index)

        return self._replace(
            layers=tuple(KeyValues(copy(layer.key), copy(layer.value)) for layer in self.layers),
            visible=ops.pad(visible, ((0, 0), *room)),
            num_filled=num_kept,
        )


class CacheUsedOnce(Cache):
    """A cache with room for the next position, which nobody reads once it has been written to.

    TensorFlow then writes into the existing slots instead of copying everything for new ones. The
    loop of a search guarantees both; a type of its own keeps the structure of the loop's state.
    """

    __slots__ = ()
    grows = False


def empty_cache(
    batch: int | Tensor,
    beams: int,
    widths: Sequence[tuple[int, int, int]],
    max_length: int | Tensor,
    dtype: str,
) -> Cache:
    """Makes a cache without positions.

    Args:
        batch: The number of sentences.
        beams: Hypotheses of each sentence.
        widths: (heads, head_dim, value_dim) of each decoder block, all with equally many heads.
        max_length: The most positions that it will hold; TensorFlow allocates none of them yet.
        dtype: The dtype of keys and values.
    """
    slots = _slots_that_may_grow(beams) if shapes_are_dynamic() else beams * int(max_length)

    def zeros(heads: int, width: int) -> Tensor:
        return ops.zeros((batch, heads, slots, width), dtype)

    return Cache(
        layers=tuple(
            KeyValues(zeros(heads, head_dim), zeros(heads, value_dim))
            for heads, head_dim, value_dim in widths
        ),
        visible=ops.zeros((batch, beams, slots), "bool"),
        num_filled=ops.convert_to_tensor(0, dtype="int32"),
    )


class Place(NamedTuple):
    """Where the newest position of each hypothesis is written, the same in each layer.

    Attributes:
        rows: Integer (batch * heads,), the rows to write if the cache is seen as a matrix whose
            rows hold one position's slots for all beams; None if the cache grows instead.
        shapes: Maps a width to the shape of keys or values, (batch, heads, slots, width); built
            once for all layers.
        order: How to split and join heads; None with one beam, where the order is given, and on
            JAX, which transposes instead.
    """

    rows: Tensor | None
    shapes: dict[int, tuple[int, ...] | Tensor]
    order: HeadOrder | None


def next_position(cache: Cache) -> tuple[Cache, Place]:
    """Gives each hypothesis a slot for its newest position, visible to itself at once.

    Returns:
        (the cache, whose layers `write` must fill next; the place to write to).
    """
    beams = cache.visible.shape[1]
    visible, first_slot = cache.visible, cache.num_filled
    if cache.grows:
        first_slot = ops.shape(visible)[2]
        visible = ops.pad(visible, ((0, 0), (0, 0), (0, beams)))
    batch, _, num_slots = ops.shape(visible)
    slot = ops.arange(num_slots, dtype="int32") - first_slot
    own = ops.equal(slot, ops.arange(beams, dtype="int32")[:, None])  # (beams, slots)
    heads = cache.layers[0].key.shape[1]
    rows = None
    if not cache.grows:
        rows = ops.arange(batch * heads, dtype="int32") * (num_slots // beams)
        rows = rows + first_slot // beams
    order = head_order(batch, heads, beams) if shapes_are_dynamic() and beams > 1 else None
    widths = {x.shape[-1] for layer in cache.layers for x in layer}
    shapes = {width: _as_shape(-1, heads, num_slots, width) for width in widths}
    cache = cache._replace(visible=visible | own, num_filled=first_slot + beams)
    return cache, Place(rows, shapes, order)


def write(layer: KeyValues, new: KeyValues, place: Place) -> KeyValues:
    """Fills the slots that `next_position` gave; `new` is (batch, heads, beams, width)."""
    return KeyValues(*(_write(old, n, place) for old, n in zip(layer, new, strict=True)))


def _write(old: Tensor, new: Tensor, place: Place) -> Tensor:
    if place.rows is None:
        return ops.concatenate([old, new], axis=2)  # (batch, heads, slots + beams, width)
    _, _, beams, width = new.shape
    matrix = ops.reshape(old, (-1, beams * width))
    new = ops.reshape(new, (-1, beams * width))
    return ops.reshape(_replace_rows(matrix, place.rows, new), place.shapes[width])


def _as_shape(*lengths: int | Tensor) -> tuple[int, ...] | Tensor:
    """Returns a shape for `ops.reshape`; on TensorFlow it is one tensor."""
    if not shapes_are_dynamic():
        return lengths
    import tensorflow as tf

    return tf.stack(lengths)


def _replace_rows(matrix: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    if not shapes_are_dynamic():
        return ops.scatter_update(matrix, rows[:, None], new)
    import tensorflow as tf

    # TensorFlow's scatter ops copy the matrix. This one writes into it, so it is only for a
    # `CacheUsedOnce`.
    return tf.raw_ops.InplaceUpdate(x=matrix, i=rows, v=new)


def _slots_that_may_grow(beams: int) -> int | Tensor:
    """Returns 0; in a graph, the slots of one invisible position, for `with_room` to copy.

    A loop in a graph must not change the static shapes of its tensors. An axis may grow only if its
    length is unknown while the graph is traced.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        return 0
    return tf.compat.v1.placeholder_with_default(beams, shape=[])
