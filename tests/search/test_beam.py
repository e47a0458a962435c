import numpy as np
import pytest

from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.search.beam import beam_search
from keras_transformer.search.greedy import greedy_search
from keras_transformer.search.hypotheses import IMPOSSIBLE
from tests.random_models import (
    END,
    ON_TENSORFLOW,
    SLOW_TO_COMPILE,
    START,
    TENSORFLOW_ONLY,
    numbers,
    random_ids,
    random_transformer,
    small_config,
)
from tests.search import toy_languages as toy

# JAX spends seconds compiling each search, so it runs only a few.
ALPHAS = [0.0, 0.6, 1.0, 2.0] if ON_TENSORFLOW else [0.6]
LENGTHS = [1, 2, 3, 4] if ON_TENSORFLOW else [3]
ALL_SENTENCES_OF_4 = 1 + 3 + 9 + 27


def search(language, beam_size, max_length, **options):
    return beam_search(
        toy.step,
        toy.initial_state(language, beam_size),
        start_id=toy.START,
        end_id=toy.END,
        max_length=np.array(max_length),
        beam_size=beam_size,
        **options,
    )


def sentences(found, row=0):
    """Returns each result of one sentence: its tokens up to the end, and its score."""
    token_ids, scores = numbers(found.token_ids)[row], numbers(found.scores)[row]
    results = []
    for ids, score in zip(token_ids, scores, strict=True):
        if score > IMPOSSIBLE / 2:
            end = list(ids).index(toy.END)
            assert np.all(ids[end + 1 :] == 0)
            results.append((tuple(int(token) for token in ids[: end + 1]), score))
    return results


def assert_same_results(found, expected):
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=1e-5)


# Enumeration


@pytest.mark.parametrize("certain_end", [False, True], ids=["forced", "certain"])
@pytest.mark.parametrize("max_length", LENGTHS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_wide_beam_finds_all_sentences_in_their_order(alpha, max_length, certain_end):
    language = toy.random_language(2, max_length, certain_end)
    width = ALL_SENTENCES_OF_4
    found = search(language, width, [max_length] * 2, length_penalty=alpha, num_results=width)
    for row in range(2):
        expected = toy.all_sentences(language[row], max_length, alpha)
        assert_same_results(sentences(found, row), expected)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_best_few_are_certain_even_if_search_stops_early(alpha):
    language = toy.random_language(3, 4)
    found = search(language, ALL_SENTENCES_OF_4, [4] * 3, length_penalty=alpha, num_results=3)
    for row in range(3):
        expected = toy.all_sentences(language[row], 4, alpha)[:3]
        assert_same_results(sentences(found, row)[:3], expected)


def test_each_sentence_has_its_own_length_limit():
    language = toy.random_language(3, 4)
    found = search(language, ALL_SENTENCES_OF_4, [2, 4, 3], num_results=ALL_SENTENCES_OF_4)
    for row, max_length in enumerate([2, 4, 3]):
        expected = toy.all_sentences(language[row], max_length, alpha=0.6)
        assert_same_results(sentences(found, row), expected)


@pytest.mark.parametrize("beam_size", [1, 2, 3] if ON_TENSORFLOW else [2])
def test_a_batch_finds_what_each_sentence_finds_alone(beam_size):
    language = toy.random_language(5, 4)
    lengths = [2, 4, 3, 4, 1]
    together = search(language, beam_size, lengths, num_results=beam_size)
    for row in range(5) if ON_TENSORFLOW else [1]:
        alone = search(language[row : row + 1], beam_size, lengths[row : row + 1])
        assert_same_results(sentences(together, row)[:1], sentences(alone)[:1])


# Paper and pencil


def language_of(probabilities):
    """Returns a language from {prefix: probabilities of the next token}; other prefixes end."""
    language = np.full((1, 85, toy.VOCABULARY), -np.inf, "float32")
    language[:, :, toy.END] = 0.0
    for prefix, values in probabilities.items():
        with np.errstate(divide="ignore"):
            language[0, toy.number_of(prefix)] = np.log(values)
    return language


# The likeliest first word has unlikely continuations: 0.6 * 0.5 = 0.3 against 0.4 * 0.9 = 0.36.
GARDEN_PATH = language_of({(): [0.6, 0.4, 0, 0], (0,): [0.5, 0.2, 0.3, 0], (1,): [0.9, 0, 0.1, 0]})


def test_beams_leave_the_garden_path_that_greedy_search_takes():
    beams = search(GARDEN_PATH, 2, [5], length_penalty=0.0)
    assert_same_results(sentences(beams)[:1], [((1, 0, toy.END), np.log(0.36))])
    greedy = search(GARDEN_PATH, 1, [5], length_penalty=0.0)
    assert_same_results(sentences(greedy), [((0, 0, toy.END), np.log(0.30))])


@pytest.mark.parametrize(
    ("alpha", "best"), [(0.0, (toy.END,)), (1.0, (0, 0, toy.END))], ids=["none", "full"]
)
def test_the_length_penalty_lets_longer_sentences_win(alpha, best):
    # The end at once has probability 0.5, with two words first 0.45: log -0.69 against -0.80.
    # Divided by 6/6 and by 8/6 they are -0.69 against -0.60.
    language = language_of({(): [0.45, 0.05, 0, 0.5], (0,): [1, 0, 0, 0]})
    found = search(language, 3, [5], length_penalty=alpha)
    score = np.log(0.5) if best == (toy.END,) else np.log(0.45) / (8 / 6)
    assert_same_results(sentences(found)[:1], [(best, score)])


def test_spells_a_word():
    word = [8, 5, 9, 9, 10, END]
    found = beam_search(
        toy.speller(word), toy.no_state(), start_id=START, end_id=END, max_length=np.array([9, 9])
    )
    for row in range(2):
        np.testing.assert_array_equal(numbers(found.token_ids)[row, 0], [*word, 0, 0, 0])
    np.testing.assert_allclose(numbers(found.scores)[:, 0], 0, atol=1e-5)


def test_every_step_gets_the_tokens_before():
    chain = {START: 8, 8: 5, 5: 9, 9: 10, 10: END}
    found = beam_search(
        toy.follower(chain), toy.no_state(), start_id=START, end_id=END, max_length=np.array([7])
    )
    np.testing.assert_array_equal(numbers(found.token_ids)[0, 0], [8, 5, 9, 10, END, 0, 0])


def test_a_sentence_at_its_limit_is_ended_at_the_ends_probability():
    chain = {START: 8, 8: 5, 5: 9, 9: 8}  # never ends
    found = beam_search(
        toy.follower(chain),
        toy.no_state(),
        start_id=START,
        end_id=END,
        max_length=np.array([4]),
        beam_size=1,
        length_penalty=0.0,
    )
    np.testing.assert_array_equal(numbers(found.token_ids)[0, 0], [8, 5, 9, END])
    assert np.isclose(numbers(found.scores)[0, 0], -30, atol=1e-3)  # the end's logit is -30


def test_fewer_results_than_beams_leave_the_others_impossible():
    found = search(toy.random_language(1, 2), 7, [2], num_results=7)
    assert len(sentences(found)) == 4  # the end alone, or one of three words before it
    np.testing.assert_array_equal(numbers(found.scores)[0, 4:], [IMPOSSIBLE] * 3)
    assert np.all(numbers(found.token_ids)[0, 4:] == 0)


def test_results_have_the_requested_length():
    found = search(toy.random_language(1, 2), 2, [2], longest=5)
    assert tuple(found.token_ids.shape) == (1, 2, 5)
    assert np.all(numbers(found.token_ids)[0, :, 2:] == 0)


@TENSORFLOW_ONLY
def test_an_empty_batch_gives_an_empty_result():
    found = search(toy.random_language(1, 2)[:0], 3, np.zeros([0], "int32"))
    assert tuple(found.token_ids.shape)[:2] == (0, 3)
    assert tuple(found.scores.shape) == (0, 3)


@TENSORFLOW_ONLY
def test_search_stops_as_soon_as_no_better_result_is_possible():
    calls = []
    spell = toy.speller([8, 5, END])

    def counted(token_ids, state):
        calls.append(token_ids)
        return spell(token_ids, state)

    options = {"start_id": START, "end_id": END, "max_length": np.array([50, 50])}
    beam_search(counted, toy.no_state(), **options)
    assert len(calls) == 3


# A model


@pytest.fixture(scope="module")
def model():
    return random_transformer(small_config())


def model_search(model, source_ids, max_length, beam_size, search=beam_search, **options):
    encode, initial_state, step = decoding_steps(model)
    state = initial_state(encode(source_ids), beam_size, max_length=max(max_length))
    if search is beam_search:
        options["beam_size"] = beam_size
    return search(
        step, state, start_id=START, end_id=END, max_length=np.array(max_length), **options
    )


def source_ids(rows=4):
    """Returns sources of 5, 4, 3, ... tokens, with the end token."""
    ids = random_ids(rows, 5)
    for row in range(rows):
        ids[row, 4 - row] = END
        ids[row, 5 - row :] = 0
    return ids


@SLOW_TO_COMPILE
def test_one_beam_equals_greedy_search(model):
    beam = model_search(model, source_ids(), [9, 9, 6, 3], 1)
    greedy = model_search(model, source_ids(), [9, 9, 6, 3], 1, search=greedy_search)
    np.testing.assert_array_equal(numbers(beam.token_ids), numbers(greedy.token_ids))
    np.testing.assert_allclose(numbers(beam.scores), numbers(greedy.scores), rtol=1e-5)


def test_score_is_the_log_probability_of_the_full_pass_divided_by_the_penalty(model):
    alpha, beams = 0.7, 3
    source = source_ids()
    found = model_search(model, source, [9] * 4, beams, length_penalty=alpha, num_results=beams)
    target = numbers(found.token_ids).reshape(4 * beams, -1)
    begun = np.concatenate([np.full((4 * beams, 1), START), target[:, :-1]], axis=1)
    logits = numbers(model({"source_ids": np.repeat(source, beams, axis=0), "target_ids": begun}))
    log_probability = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    of_tokens = np.take_along_axis(log_probability, target[:, :, None], axis=2)[:, :, 0]
    total = np.sum(of_tokens * (target != 0), axis=1)
    num_tokens = np.sum(target != 0, axis=1)
    assert len(set(num_tokens)) > 1  # sentences of several lengths
    expected = total / ((5 + num_tokens) / 6) ** alpha
    np.testing.assert_allclose(numbers(found.scores).reshape(-1), expected, rtol=1e-4)


@SLOW_TO_COMPILE
def test_results_are_sorted_distinct_and_empty_after_the_end(model):
    found = model_search(model, source_ids(), [9] * 4, 4, num_results=4)
    assert np.all(np.diff(numbers(found.scores), axis=1) <= 0)
    for row in numbers(found.token_ids):
        assert len({tuple(ids) for ids in row}) == 4
        for ids in row:
            end = list(ids).index(END)
            assert np.all(ids[:end] != END)
            assert np.all(ids[end + 1 :] == 0)


@SLOW_TO_COMPILE
def test_results_do_not_depend_on_batch_mates_and_padding(model):
    lengths = [9, 9, 6, 4]
    together = model_search(model, source_ids(), lengths, 3, num_results=3)
    for row in range(4):
        source = source_ids()[row : row + 1, : 5 - row]
        alone = model_search(model, source, lengths[row : row + 1], 3, num_results=3)
        ids = numbers(together.token_ids)[row, :, : lengths[row]]
        np.testing.assert_array_equal(numbers(alone.token_ids)[0], ids)
        assert np.all(numbers(together.token_ids)[row, :, lengths[row] :] == 0)
        np.testing.assert_allclose(
            numbers(alone.scores)[0], numbers(together.scores)[row], rtol=1e-4
        )


@TENSORFLOW_ONLY
def test_search_in_a_graph_of_unknown_shapes_equals_search_outside(model):
    import tensorflow as tf

    encode, initial_state, step = decoding_steps(model)

    @tf.function(
        input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)],
        autograph=False,
    )
    def in_graph(source, max_length):
        state = initial_state(encode(source), 3, max_length=tf.reduce_max(max_length))
        return beam_search(
            step, state, start_id=START, end_id=END, max_length=max_length, beam_size=3
        )

    for lengths in ([9, 9, 6, 3], [4, 4, 5, 2]):
        found = in_graph(source_ids(), np.array(lengths, "int32"))
        expected = model_search(model, source_ids(), lengths, 3)
        np.testing.assert_array_equal(numbers(found.token_ids), numbers(expected.token_ids))
        np.testing.assert_allclose(numbers(found.scores), numbers(expected.scores), rtol=1e-4)


# Errors


@pytest.mark.parametrize(("beam_size", "num_results"), [(0, 1), (2, 0), (2, 3)])
def test_more_results_than_beams_are_refused(beam_size, num_results):
    message = rf"Received: beam_size={beam_size}, num_results={num_results}\. Choose a beam_size"
    with pytest.raises(ValueError, match=message):
        search(toy.random_language(1, 2), beam_size, [2], num_results=num_results)


def test_negative_length_penalty_is_refused():
    message = r"0 or more, and finite\. Received: length_penalty=-0.5\. Choose 0"
    with pytest.raises(ValueError, match=message):
        search(toy.random_language(1, 2), 2, [2], length_penalty=-0.5)
