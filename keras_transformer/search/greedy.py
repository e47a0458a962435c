"""Greedy search: the most probable token at each step."""

from collections.abc import Sequence

from keras_transformer.gathering import gather_rows
from keras_transformer.search.choice import best_tokens, top_k
from keras_transformer.search.constraints import constraints
from keras_transformer.search.hypotheses import Hypotheses, check_length_penalty
from keras_transformer.search.independent import Search, run_search, start_search, with_token
from keras_transformer.search.state import DecodingState, Step
from keras_transformer.tensors import Tensor


def greedy_search(
    step: Step,
    state: DecodingState,
    *,
    start_id: int,
    end_id: int,
    max_length: Tensor,
    longest: int | Tensor | None = None,
    length_penalty: float | Tensor = 0.6,
    length_normalization: str = "gnmt",
    min_length: int | Tensor = 0,
    prefix: Tensor | None = None,
    new_word: Tensor | None = None,
    barred_ids: Sequence[int] = (),
    new_word_ids: Sequence[int] = (),
) -> Hypotheses:
    """Takes the most probable token at each step, until the end.

    A sentence is ended at its `max_length`, so every result ends with the end id, whose probability
    counts.

    Args:
        step: (token_ids Integer (batch, 1), state) -> (logits Float (batch, 1, vocabulary), state).
        state: DecodingState for the first step, with one beam.
        start_id, end_id, max_length, longest, min_length, prefix, new_word, barred_ids,
            new_word_ids: As in `beam_search`.
        length_penalty, length_normalization: As in `beam_search`; they change the scores, not the
            choice.

    Returns:
        Hypotheses with one beam.

    Raises:
        ValueError: If `length_penalty` or `length_normalization` is invalid.
    """
    check_length_penalty(length_penalty, length_normalization)

    def advance(search: Search) -> Search:
        logits, state = step(search.last_ids, search.state)
        gained, token = best_tokens(
            logits, 1, search.held_to, search.position, end_id, barred_ids, new_word_ids
        )  # each (batch, 1, candidates)
        gained, best = top_k(gained, 1)  # each (batch, 1, 1)
        token = gather_rows(token, best)  # (batch, 1, 1)
        return with_token(search, token[..., 0], gained[..., 0], end_id, state)

    held_to = constraints(max_length, min_length, prefix, new_word)
    start = start_search(state, start_id, held_to, longest, beams=1)
    return run_search(advance, start, length_penalty, length_normalization)
