"""Provides languages small enough to enumerate all their sentences.

A language is a table with the logits of the next token for each prefix, which `step` looks up.
"""

import itertools

import numpy as np
from keras import ops

from keras_transformer.search.state import DecodingState

# Four tokens, the end last. Padding and start are ordinary words here.
VOCABULARY, START, END = 4, 2, 3
WORDS = (0, 1, 2)
NEVER = -np.inf


def number_of(prefix):
    """Returns the index of a prefix: () is 0, (0,) 1, (1,) 2, (2,) 3, (3,) 4, (0, 0) 5, ...."""
    number = 0
    for token in prefix:
        number = number * VOCABULARY + token + 1
    return number


def random_language(batch, longest, certain_end=False, seed=7):
    """Returns random logits for each sentence and prefix: Float (batch, prefixes, vocabulary).

    Args:
        batch: Sentences, each with its own language.
        longest: Tokens of the longest sentence, the end included.
        certain_end: Whether a prefix of `longest` - 1 tokens can only end, so that no search must
            force the end.
        seed: The seed of the random numbers.
    """
    prefixes = [p for n in range(longest) for p in itertools.product(range(VOCABULARY), repeat=n)]
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (batch, len(prefixes), VOCABULARY)).astype("float32")
    if certain_end:
        longest_prefixes = [number_of(prefix) for prefix in prefixes if len(prefix) == longest - 1]
        logits[:, longest_prefixes, :END] = NEVER
    return logits


def initial_state(language, beams):
    """Returns the start state, in which every beam has the empty prefix."""
    return DecodingState(
        position=ops.convert_to_tensor(0, dtype="int32"),
        per_beam=ops.zeros((len(language), beams), dtype="int32"),
        per_sentence=ops.convert_to_tensor(language),
    )


def step(token_ids, state):
    """Looks up the beams' prefixes in the sentences' languages."""
    language = state.per_sentence
    longer = state.per_beam * VOCABULARY + token_ids + 1
    prefix = ops.where(ops.equal(state.position, 0), 0, longer)  # the start is not part of it
    prefix = ops.minimum(prefix, language.shape[1] - 1)  # past the table once a sentence is done
    logits = ops.take_along_axis(language, prefix[:, :, None], axis=1)
    return logits, state._replace(position=state.position + 1, per_beam=prefix)


def all_sentences(language, max_length, alpha):
    """Returns all sentences of one language with their scores, best first.

    Args:
        language: Float (prefixes, vocabulary).
        max_length: Tokens of the longest sentence, the end included.
        alpha: The length penalty.
    """
    sentences = [
        (*words, END) for n in range(max_length) for words in itertools.product(WORDS, repeat=n)
    ]
    scores = {tokens: score_of(tokens, language, alpha) for tokens in sentences}
    return sorted(scores.items(), key=lambda item: -item[1])


def score_of(tokens, language, alpha):
    """Returns log P(Y) / ((5 + |Y|) / 6) ** alpha, Wu et al. 2016, equation 14."""
    log_probability = 0.0
    for position, token in enumerate(tokens):
        logits = language[number_of(tokens[:position])].astype("float64")
        log_probability += logits[token] - np.log(np.exp(logits).sum())
    return log_probability / ((5 + len(tokens)) / 6) ** alpha


def padded(tokens, length):
    return [*tokens] + [0] * (length - len(tokens))


def speller(word, vocabulary=11):
    """Returns a step function that spells a word, for any input."""
    table = np.full((len(word) + 1, vocabulary), -30.0, "float32")
    table[np.arange(len(word)), word] = 0.0
    table = ops.convert_to_tensor(table)

    def spell(token_ids, state):
        logits = ops.take(table, ops.minimum(state.position, len(word)), axis=0)
        batch, beams = ops.shape(token_ids)
        logits = ops.broadcast_to(logits, (batch, beams, vocabulary))
        return logits, state._replace(position=state.position + 1)

    return spell


def follower(next_token, vocabulary=11):
    """Returns a step function that depends only on the previous token."""
    table = np.full((vocabulary, vocabulary), -30.0, "float32")
    for token, following in next_token.items():
        table[token, following] = 0.0
    table = ops.convert_to_tensor(table)

    def follow(token_ids, state):
        return ops.take(table, token_ids, axis=0), state._replace(position=state.position + 1)

    return follow


def no_state():
    return DecodingState(position=ops.convert_to_tensor(0, dtype="int32"), per_beam=())
