"""The loop of every search, which advances until all sentences are done.

If shapes may change (on TensorFlow), finished sentences leave the batch every few positions, and
the caches drop slots that are no longer visible.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import keras
from keras import ops

from keras_transformer.search.shapes import shapes_are_dynamic
from keras_transformer.search.state import keep_sentences, take_sentences, used_once
from keras_transformer.tensors import Nest, Tensor

# Tidying copies what it keeps; until then, each step reads room that is not used yet. On the base
# model, the differences between 4, 8 and 16 are noise.
POSITIONS_BETWEEN_TIDYING = 8

# A single sentence has no others to drop, and tidying is expensive compared with its small steps.
POSITIONS_OF_ONE_SENTENCE = 16

# A named tuple; see `run`.
Search: TypeAlias = Any

Results = TypeVar("Results")  # a nest of tensors


def run(
    advance: Callable[[Search], Search], start: Search, results_of: Callable[[Search], Results]
) -> Results:
    """Advances a search from its start to its end.

    Args:
        advance: Maps a search to the search one position later. A search is a named tuple with
            `position`, Integer scalar, `done`, Boolean (batch,), and `state`, a DecodingState; its
            other fields are nests of (batch, ...) tensors and of scalars. `advance` must use each
            state once, and change no results of sentences that are done.
        start: The search before the first position.
        results_of: Maps a search to the nest of (batch, ...) tensors to return.

    Returns:
        The results of all sentences, in the order of the batch.
    """
    if shapes_are_dynamic():
        return _run_with_fewer_and_fewer_sentences(advance, start, results_of)
    end = ops.while_loop(
        lambda *search: ops.logical_not(ops.all(type(start)(*search).done)),
        lambda *search: tuple(advance(type(start)(*search))),
        tuple(start),
    )
    return results_of(type(start)(*end))


def _run_with_fewer_and_fewer_sentences(
    advance: Callable[[Search], Search], start: Search, results_of: Callable[[Search], Results]
) -> Results:
    import tensorflow as tf

    in_graph = not tf.executing_eagerly()
    if in_graph:
        start = start._replace(state=used_once(start.state))

    def any_left(left: _Left) -> Tensor:
        return tf.size(left.going_on) > 0

    def go_on(left: _Left) -> _Left:
        sentences = tf.gather(left.sentences, left.going_on)
        is_alone = tf.equal(tf.size(sentences), 1)
        num_positions = tf.where(is_alone, POSITIONS_OF_ONE_SENTENCE, POSITIONS_BETWEEN_TIDYING)
        search = _keep_sentences(left.search, left.going_on, num_positions if in_graph else 0)
        last = search.position + num_positions
        search = _while_loop(
            lambda s: (s.position < last) & ~tf.reduce_all(s.done), advance, search
        )
        results = keras.tree.map_structure(
            lambda results, new: tf.tensor_scatter_nd_update(results, sentences[:, None], new),
            left.results,
            results_of(search),
        )
        going_on = tf.cast(tf.where(~search.done)[:, 0], "int32")
        return _Left(sentences, going_on, search, results)

    everyone = tf.range(tf.shape(start.done)[0])
    return _while_loop(any_left, go_on, _Left(everyone, everyone, start, results_of(start))).results


class _Left(NamedTuple):
    """The unfinished part of a search."""

    sentences: Tensor  # Integer (rows,), the sentence of the batch in each row of the search
    going_on: Tensor  # Integer, the rows that are not done
    search: Search
    results: Nest  # for the whole batch


def _keep_sentences(search: Search, rows: Tensor, num_positions: int | Tensor) -> Search:
    """Keeps some rows of a search, with room for more positions."""
    state = keep_sentences(search.state, rows, num_positions)
    others = take_sentences(search._replace(state=()), rows)
    return others._replace(state=state)


def _while_loop(
    goes_on: Callable[[Nest], Tensor], advance: Callable[[Nest], Nest], start: Nest
) -> Nest:
    """Loops over a nest of tensors whose first axis may change."""
    import tensorflow as tf

    def any_batch(x: Tensor) -> "tf.TensorShape":
        return tf.TensorShape([None, *x.shape[1:]] if x.shape.rank else [])

    [end] = tf.while_loop(
        goes_on,
        lambda nest: [advance(nest)],
        [start],
        shape_invariants=[tf.nest.map_structure(any_batch, start)],
    )
    return end
