"""The state that search carries from step to step."""

from typing import NamedTuple

import keras
from keras import ops


class DecodingState(NamedTuple):
    """What a step function needs to go on.

    Attributes:
        position: Integer scalar, how many positions have been decoded.
        per_beam: Any nest of (batch, beams, ...) tensors; search reorders them with the beams.
        per_sentence: Any nest of tensors that are the same for all beams of a sentence, or that
            the model reorders itself; search hands them on as they are.
    """

    position: object
    per_beam: object
    per_sentence: object = ()


def reorder_beams(state: DecodingState, beam_indices) -> DecodingState:
    """The state in which beam i goes on where beam `beam_indices[:, i]` stood.

    Args:
        state: Its `per_beam` holds tensors (batch, beams, ...).
        beam_indices: Integer (batch, new_beams).
    """
    return state._replace(
        per_beam=keras.tree.map_structure(lambda x: gather_beams(x, beam_indices), state.per_beam)
    )


def gather_beams(x, beam_indices):
    """Picks beams of each sentence: (batch, beams, ...) to (batch, new_beams, ...).

    Args:
        x: Any (batch, beams, ...).
        beam_indices: Integer (batch, new_beams).
    """
    batch, beams, *rest = ops.shape(x)
    first = ops.arange(batch, dtype=beam_indices.dtype)[:, None] * beams
    rows = ops.reshape(x, (batch * beams, *rest))  # (batch * beams, ...)
    return ops.take(rows, first + beam_indices, axis=0)
