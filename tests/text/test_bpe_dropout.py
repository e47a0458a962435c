import itertools
import math
from collections import Counter

import pytest
import sentencepiece

from keras_transformer.errors import InputError
from keras_transformer.text.bpe_dropout import BytePairDropout, UnigramSampling, subword_sampler
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from tests.new_process import output_of
from tests.random_models import TEXTS

HARD_LINES = [
    "",
    " ",
    "  a  b ",
    "\u65e5 \U0001f469\u200d\U0001f467\u2581x",
    "\tqu\u00e9",
    "</s><pad>",
    "\u2585 a\u2585\0",
    "aaaaaaaaaaaaaa" * 9,
]


class Pieces:
    """A SentencePiece model for paper and pencil: four special pieces, 256 bytes, some more."""

    def __init__(self, scores):
        special = ["<pad>", "<unk>", "<s>", "</s>"]
        self._pieces = special + [f"<0x{byte:02X}>" for byte in range(256)] + list(scores)
        self._scores = scores

    def get_piece_size(self):
        return len(self._pieces)

    def id_to_piece(self, number):
        return self._pieces[number]

    def piece_to_id(self, piece):
        return self._pieces.index(piece)

    def get_score(self, number):
        return self._scores.get(self._pieces[number], 0.0)

    def is_unknown(self, number):
        return number == 1

    def is_control(self, number):
        return number in (0, 2, 3)

    def is_byte(self, number):
        return 4 <= number < 260


def shares(sampler, word, num_draws=20_000):
    """Returns the share of each split among repetitions of a word."""
    ids = sampler.sample([word] * num_draws, seed=5)
    counts = Counter(tuple(sampler_pieces(sampler, row)) for row in ids)
    return {split: count / num_draws for split, count in counts.items()}


def sampler_pieces(sampler, row):
    names = {number: piece for piece, number in sampler._ids.items()}
    return [names[number] for number in row]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def trained(request):
    size = 300 if request.param == "bpe" else 290
    return SubwordTokenizer.train_from_lines(TEXTS, size, request.param)


# BPE and unigram


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_a_sampled_line_decodes_to_itself(trained, rate):
    lines = [line for line in HARD_LINES if "\u2581" not in line] + TEXTS
    assert trained.decode(trained.sample(lines, rate, seed=3)) == lines


def test_samples_depend_on_the_seed(trained):
    first = trained.sample(TEXTS, 0.3, seed=3)
    assert trained.sample(TEXTS, 0.3, seed=3) == first
    assert trained.sample(TEXTS, 0.3, seed=4) != first


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_lines_are_normalized_before_they_are_split(model_type):
    tokenizer = SubwordTokenizer.train_from_lines(TEXTS, 290, model_type, "nfkc")
    lines = ["e\u0301te\u0301 \ufb01n", "\u3000 a\t"]
    composed = ["\xe9t\xe9 fin", "  a\t"]
    ids = tokenizer.sample(lines, 0.5, seed=7)
    assert ids == tokenizer.sample(composed, 0.5, seed=7)
    assert tokenizer.decode(ids) == composed


def test_earlier_samples_do_not_change_later_ones(trained):
    fresh = SubwordTokenizer(trained.serialized_model)
    for seed in range(5):
        trained.sample(TEXTS, 0.3, seed=seed)
    assert trained.sample(TEXTS, 0.3, seed=7) == fresh.sample(TEXTS, 0.3, seed=7)
    assert trained.sample(TEXTS, 0.6, seed=7) == fresh.sample(TEXTS, 0.6, seed=7)


def test_another_process_draws_the_same_samples(tmp_path):
    model = SubwordTokenizer.train_from_lines(TEXTS, 290, "unigram")
    model.save(tmp_path / "tokenizer.model")
    program = (
        "import sys\n"
        "from keras_transformer.text.subword_tokenizer import SubwordTokenizer\n"
        "from tests.random_models import TEXTS\n"
        "print(SubwordTokenizer.load(sys.argv[1]).sample(TEXTS, 0.3, seed=11))\n"
    )
    expected = str(model.sample(TEXTS, 0.3, seed=11))
    assert output_of(program, tmp_path / "tokenizer.model") == expected


def test_empty_lines_and_empty_lists_have_no_ids(trained):
    assert trained.sample([], 0.1, seed=0) == []
    assert trained.sample(["", ""], 0.1, seed=0) == [[], []]


@pytest.mark.parametrize(
    ("rate", "seed"), [(0, 1), (-0.1, 1), (math.nan, 1), (math.inf, 1), (1, -1)]
)
def test_settings_out_of_range_are_refused(trained, rate, seed):
    with pytest.raises(InputError, match=r"rate must be greater than 0, and seed .* Choose"):
        trained.sample(["a"], rate, seed=seed)


def test_half_a_surrogate_pair_is_refused(trained):
    with pytest.raises(InputError, match=r"text must be .* that UTF-8 can encode\. .* Pass str"):
        trained.sample(["a", "\ud800"], 0.1, seed=0)


def test_sub_words_across_a_space_are_refused():
    with pytest.raises(InputError, match=r"do not cross a space\. .* Use one that"):
        subword_sampler(Pieces({"\u2581": 0.0, "a": -1.0, "a\u2581": -2.0}), 0.1)


# BPE-dropout


def test_without_dropout_joins_equal_those_of_sentencepiece(tokenizer):
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.serialized_model)
    sampler = BytePairDropout(processor, 0.1)
    lines = TEXTS + HARD_LINES
    for line in itertools.chain(lines, *map(str.split, lines)):
        word = line.replace(" ", "\u2581")
        assert sampler.joined(word, itertools.repeat(False))[0] == processor.encode(line)


# The joins are ab, then abc. "bc" was learned too, but later.
JOINS = {"ab": 0.0, "abc": -1.0, "bc": -2.0, "a": -3.0, "b": -4.0, "c": -5.0}


def test_joins_are_skipped_with_the_given_probability():
    # "abc" with p = 0.3 left out: ab (0.7), then abc (0.7) or not (0.3). Without ab (0.3), bc is
    # joined (0.7), and then abc, the only pair, (0.7) or not (0.3); or nothing is (0.3).
    expected = {
        ("abc",): 0.7 * 0.7 + 0.3 * 0.7 * 0.7,
        ("ab", "c"): 0.7 * 0.3,
        ("a", "bc"): 0.3 * 0.7 * 0.3,
        ("a", "b", "c"): 0.3 * 0.3,
    }
    drawn = Counter()
    # Each word of 16 ways goes its own, and these are many words: "abc", "abcc", "abccc" and so on.
    for split, share in joined_shares(0.3).items():
        drawn[split] += share
    assert set(drawn) == set(expected)
    for split, share in expected.items():
        assert abs(drawn[split] - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


def joined_shares(rate, num_draws=20_000):
    """Splits "abc" by the joins only, without the stored splits."""
    import random

    chances = random.Random(3)
    sampler = BytePairDropout(Pieces(JOINS), rate)
    left_out = iter(lambda: chances.random() < rate, None)
    rows = [sampler.joined("abc", left_out)[0] for _ in range(num_draws)]
    counts = Counter(tuple(sampler_pieces(sampler, row)) for row in rows)
    return {split: count / num_draws for split, count in counts.items()}


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_a_word_is_split_only_if_a_join_is_skipped(rate):
    # The first join is left out, the second, or neither, whatever the ways that follow.
    drawn = shares(BytePairDropout(Pieces(JOINS), rate), "abc")
    assert abs(drawn["ab", "c"] - (1 - rate) * rate) < 0.012
    first_left_out = drawn.get(("a", "bc"), 0) + drawn.get(("a", "b", "c"), 0)
    assert first_left_out <= rate + 0.012
    assert drawn["abc",] >= (1 - rate) ** 2 - 0.012


def test_over_many_words_each_split_has_its_probability():
    # 26 ** 2 words "abc" with other letters: the ways of each are few, those of all are many.
    letters = [chr(ord("a") + number) for number in range(26)]
    scores, words = {}, []
    for one, other in itertools.product(letters, letters):
        parts = [one.upper(), other, "."]
        words.append("".join(parts))
        scores[parts[0] + parts[1]] = 0.0
        scores[words[-1]] = -1.0
        scores[parts[1] + parts[2]] = -2.0
        scores |= dict.fromkeys(parts, -3.0)
    sampler = BytePairDropout(Pieces(scores), 0.3)
    rows = sampler.sample(words * 60, seed=2)
    lengths = Counter(len(row) for row in rows)
    whole = lengths[1] / len(rows)
    letters_alone = lengths[3] / len(rows)
    assert abs(whole - (0.7 * 0.7 + 0.3 * 0.7 * 0.7)) < 0.01
    assert abs(letters_alone - 0.3 * 0.3) < 0.01


def test_a_rate_of_one_leaves_single_characters():
    sampler = BytePairDropout(Pieces(JOINS), 1.0)
    assert shares(sampler, "abc", 100) == {("a", "b", "c"): 1.0}


# Unigram sampling

PROBABILITIES = {"a": 0.2, "b": 0.1, "c": 0.15, "ab": 0.3, "bc": 0.05, "abc": 0.2}


@pytest.mark.parametrize("rate", [0.2, 1.0, 3.0])
def test_splits_are_drawn_in_proportion_to_a_power_of_their_probability(rate):
    sampler = UnigramSampling(Pieces({p: math.log(q) for p, q in PROBABILITIES.items()}), rate)
    splits = [("abc",), ("ab", "c"), ("a", "bc"), ("a", "b", "c")]
    weights = {
        split: math.prod(PROBABILITIES[piece] for piece in split) ** rate for split in splits
    }
    drawn = shares(sampler, "abc")
    for split, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(drawn.get(split, 0) - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


def test_a_high_exponent_leaves_the_most_likely_split():
    model = SubwordTokenizer.train_from_lines(TEXTS, 290, "unigram")
    assert model.sample(TEXTS, 1000.0, seed=1) == model.encode(TEXTS)
