"""Greedy search: the most probable token at each step."""

from keras_transformer.gathering import gather_rows
from keras_transformer.search.choice import best_tokens, top_k
from keras_transformer.search.constraints import constraints
from keras_transformer.search.hypotheses import check_length_penalty
from keras_transformer.search.independent import run_search, start_search, with_token


def greedy_search(
    step,
    state,
    *,
    start_id,
    end_id,
    max_length,
    longest=None,
    length_penalty=0.6,
    length_normalization="gnmt",
    min_length=0,
    prefix=None,
    new_word=None,
    barred_ids=(),
    new_word_ids=(),
):
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

    def advance(search):
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
