import numpy as np
import pytest

from keras_transformer.search.greedy import greedy_search
from tests.random_models import END, SLOW_TO_COMPILE, START, numbers
from tests.search import toy_languages as toy


def search(language, max_length, **options):
    return greedy_search(
        toy.step,
        toy.initial_state(language, beams=1),
        start_id=toy.START,
        end_id=toy.END,
        max_length=np.array(max_length),
        **options,
    )


def likeliest_tokens(language, max_length):
    tokens = ()
    while len(tokens) < max_length - 1 and toy.END not in tokens:
        tokens += (int(np.argmax(language[toy.number_of(tokens)])),)
    return tokens if toy.END in tokens else (*tokens, toy.END)


def test_takes_the_likeliest_token_at_each_step():
    language = toy.random_language(11, 4)
    lengths = [4, 3, 2, 1] * 2 + [4, 4, 4]
    found = search(language, lengths, length_penalty=0.7)
    token_ids, scores = numbers(found.token_ids), numbers(found.scores)
    assert token_ids.shape == (11, 1, 4)
    ended = 0
    for row, max_length in enumerate(lengths):
        tokens = likeliest_tokens(language[row], max_length)
        np.testing.assert_array_equal(token_ids[row, 0], toy.padded(tokens, 4))
        assert np.isclose(scores[row, 0], toy.score_of(tokens, language[row], 0.7), rtol=1e-5)
        ended += len(tokens) < max_length
    assert ended  # some end before their limit


@SLOW_TO_COMPILE
def test_a_batch_finds_what_each_sentence_finds_alone():
    language = toy.random_language(5, 4)
    lengths = [2, 4, 3, 4, 1]
    together = search(language, lengths)
    for row in range(5):
        alone = numbers(search(language[row : row + 1], lengths[row : row + 1]).token_ids)[0, 0]
        np.testing.assert_array_equal(numbers(together.token_ids)[row, 0], toy.padded(alone, 4))


def test_spells_a_word():
    word = [8, 5, 9, 9, 10, END]
    found = greedy_search(
        toy.speller(word), toy.no_state(), start_id=START, end_id=END, max_length=np.array([9, 4])
    )
    np.testing.assert_array_equal(
        numbers(found.token_ids)[:, 0], [[*word, 0, 0, 0], [8, 5, 9, END, 0, 0, 0, 0, 0]]
    )


def test_every_step_gets_the_token_before():
    chain = {START: 8, 8: 5, 5: 9, 9: 10, 10: END}
    found = greedy_search(
        toy.follower(chain), toy.no_state(), start_id=START, end_id=END, max_length=np.array([7])
    )
    np.testing.assert_array_equal(numbers(found.token_ids)[0, 0], [8, 5, 9, 10, END, 0, 0])


def test_results_have_the_requested_length():
    found = search(toy.random_language(1, 2), [2], longest=5)
    assert tuple(found.token_ids.shape) == (1, 1, 5)
    assert np.all(numbers(found.token_ids)[0, :, 2:] == 0)


def test_an_empty_batch_gives_an_empty_result():
    found = search(toy.random_language(1, 2)[:0], np.zeros([0], "int32"))
    assert tuple(found.token_ids.shape)[:2] == (0, 1)
    assert tuple(found.scores.shape) == (0, 1)


def test_negative_length_penalty_is_refused():
    with pytest.raises(ValueError, match=r"0 or more, and finite\. Received: length_penalty=-0.5"):
        search(toy.random_language(1, 2), [2], length_penalty=-0.5)
