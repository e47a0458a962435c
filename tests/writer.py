"""A fake model that writes sentences chosen by a test, whatever the source."""

import numpy as np
from keras import ops

from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.search.state import DecodingState
from tests.random_models import END

NEVER = 1e-30  # a probability; logarithms stay finite


class Writer:
    """Writes each of several sentences with a given probability.

    If a prefix forces any other text, it ends the sentence.

    Args:
        vocabulary_size: Of the tokenizer.
        sentences: {token ids without the end: probability}.
    """

    def __init__(self, vocabulary_size, sentences):
        self.output_shape = (None, None, vocabulary_size)
        lost = 0
        places = {beginning[:n]: 0 for beginning in sentences for n in range(len(beginning) + 1)}
        places = {beginning: number for number, beginning in enumerate(places, start=1)}
        self.start = places[()]
        self.next_place = np.full((len(places) + 1, vocabulary_size), lost, "int32")
        self.probability = np.full((len(places) + 1, vocabulary_size), NEVER, "float32")
        self.probability[lost, END] = 1
        for sentence, probability in sentences.items():
            for n, token in enumerate((*sentence, END)):
                place = places[sentence[:n]]
                self.next_place[place, token] = places.get(sentence[: n + 1], lost)
                self.probability[place, token] += probability
        self.probability /= self.probability.sum(axis=1, keepdims=True)


@decoding_steps.register(Writer)
def _(model):
    def initial_state(encoded, num_beams=1, *, max_length):
        places = ops.full((ops.shape(encoded)[0], num_beams), model.start, dtype="int32")
        return DecodingState(ops.convert_to_tensor(0, dtype="int32"), places)

    def step(token_ids, state):
        vocabulary = model.output_shape[-1]
        at = state.per_beam * vocabulary + token_ids
        place = ops.take(model.next_place.reshape(-1), at)
        place = ops.where(ops.equal(state.position, 0), model.start, place)
        logits = ops.log(ops.take(model.probability, place, axis=0))
        return logits, state._replace(position=state.position + 1, per_beam=place)

    return ops.convert_to_tensor, initial_state, step


def speller_of(tokenizer):
    """Returns a writer of "snow" in three spellings, "a dog", the empty text and "dog"."""

    def bytes_of(text):
        return tuple(4 + byte for byte in text.encode())

    def whole(text):
        return tuple(tokenizer.encode(text))

    sentences = {
        whole("snow"): 0.3,
        (*whole("a"), 4 + ord("\n"), *whole("dog")): 0.25,  # a line break becomes a space
        (): 0.2,
        bytes_of("snow"): 0.12,
        whole("dog"): 0.1,
        (*whole("sno"), *bytes_of("w")): 0.03,
    }
    return Writer(tokenizer.vocabulary_size, sentences)
