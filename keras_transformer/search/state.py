"""The state that search carries from step to step."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import keras

from keras_transformer.gathering import gather_rows, take
from keras_transformer.tensors import Nest, Tensor


class DecodingState(NamedTuple):
    """The state that a step function needs to continue.

    Attributes:
        position: Integer scalar, the number of positions decoded so far.
        per_beam: Any nest of (batch, beams, ...) tensors; search reorders them with the beams.
        per_sentence: Any nest of (batch, ...) tensors that are the same for all beams of a
            sentence.
        cache: The earlier positions, for a model that attends to them, else (). A named tuple with
            the methods `reorder(beam_indices)`, `with_room(sentences, num_positions)` and
            `used_once()`, like `decoding.cache.Cache`.
    """

    position: Tensor
    per_beam: Nest = ()
    per_sentence: Nest = ()
    cache: Any = ()


# Maps the newest token of each hypothesis, Integer (batch, beams), and the state to the logits of
# the next token, Float (batch, beams, vocabulary), and the next state.
Step: TypeAlias = Callable[[Tensor, DecodingState], tuple[Tensor, DecodingState]]


def reorder_beams(state: DecodingState, beam_indices: Tensor) -> DecodingState:
    """Returns the state in which beam i continues beam `beam_indices[:, i]`.

    Args:
        state: Its `per_beam` holds tensors (batch, beams, ...).
        beam_indices: Integer (batch, beams).
    """
    return state._replace(
        per_beam=keras.tree.map_structure(lambda x: gather_rows(x, beam_indices), state.per_beam),
        cache=state.cache.reorder(beam_indices) if state.cache else (),
    )


def keep_sentences(
    state: DecodingState, sentences: Tensor, num_positions: int | Tensor
) -> DecodingState:
    """Returns the state of some of the sentences, with room for more positions in the cache.

    Only on TensorFlow.

    Args:
        state: The state of the whole batch.
        sentences: Integer (new_batch,), ascending, none of them twice.
        num_positions: The positions to make room for.
    """
    return state._replace(
        per_beam=take_sentences(state.per_beam, sentences),
        per_sentence=take_sentences(state.per_sentence, sentences),
        cache=state.cache.with_room(sentences, num_positions) if state.cache else (),
    )


def used_once(state: DecodingState) -> DecodingState:
    """Returns the same state, promising that no state is read again after a step has used it.

    A cache with room may then be written in place.
    """
    return state._replace(cache=state.cache.used_once() if state.cache else ())


def take_sentences(nest: Nest, sentences: Tensor) -> Nest:
    """Picks some of the sentences; copies nothing if all stay.

    Only on TensorFlow.

    Args:
        nest: A nest of (batch, ...) tensors, and of scalars, which stay.
        sentences: Integer (new_batch,), ascending, none of them twice.
    """
    import tensorflow as tf

    of_sentences = [x for x in keras.tree.flatten(nest) if len(x.shape)]
    if not of_sentences:
        return nest

    def picked() -> Nest:
        return keras.tree.map_structure(lambda x: take(x, sentences) if len(x.shape) else x, nest)

    all_stay = tf.equal(tf.size(sentences), tf.shape(of_sentences[0])[0])
    return tf.cond(all_stay, lambda: nest, picked)
