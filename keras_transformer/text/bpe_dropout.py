"""Sub-words left to chance: BPE-dropout and subword regularization, the same in each process.

SentencePiece samples, too, but its chance can't be repeated: its generator is salted anew in each
process, whatever its seed, so that a training that is taken up again would go on with other data.

Sub-words never reach over a space, so that a line is split word by word. What is known of a word
is kept and used again.
"""

import functools
import itertools
import math
import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece

from keras_transformer.errors import InputError

# SentencePiece writes a space as this character, which begins a word.
_SPACE = "\u2581"
_WORDS = re.compile(f"{_SPACE}?[^{_SPACE}]+|{_SPACE}")

# In how many ways at most byte-pair encoding goes on after the first join that is left out.
_WAYS = 16

# What these ways draw from, because a generator for each would take longer than the joins.
_CHANCES = np.random.default_rng(0).random(2**12).tolist()

# Words, and ways to split them, that are kept: less than 100 MB.
_WORDS_KEPT, _WAYS_KEPT = 2**15, 2**17

_BELOW_1 = math.nextafter(1.0, 0.0)


class SubwordSampler:
    """Splits lines into sub-words in a way left to chance; see `subword_sampler`."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, rate: float):
        numbers = range(processor.get_piece_size())
        self.rate = rate
        self._ids = {
            processor.id_to_piece(number): number
            for number in numbers
            if not (processor.is_control(number) or processor.is_unknown(number))
            and not processor.is_byte(number)
        }
        self._scores = {piece: processor.get_score(n) for piece, n in self._ids.items()}
        self._byte_ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        if any(_SPACE in piece[1:] for piece in self._ids):
            raise InputError(
                "sampling needs sub-words that do not reach over a space. "
                "Received: a tokenizer with some that do. "
                "Use one that SubwordTokenizer.train made, or no sampling."
            )

    def sample(self, lines: Sequence[str], seed: int) -> list[list[int]]:
        """The ids of each line; a function of the lines and the seed alone."""
        words = [_WORDS.findall(line.replace(" ", _SPACE)) for line in lines]
        chances = iter(np.random.default_rng(seed).random(sum(map(len, words))).tolist())
        return [
            list(itertools.chain.from_iterable(map(self._split, words_of_line, chances)))
            for words_of_line in words
        ]

    def _split(self, word: str, chance: float) -> Sequence[int]:
        """The ids of a word; `chance` is drawn evenly from [0, 1)."""
        raise NotImplementedError

    def _ids_of(self, parts: Iterable[str]) -> list[int]:
        """The ids of sub-words, and of the bytes of a character that is none."""
        ids = []
        for part in parts:
            if part in self._ids:
                ids.append(self._ids[part])
            else:
                ids += [self._byte_ids[byte] for byte in part.encode()]
        return ids


class BytePairDropout(SubwordSampler):
    """Byte-pair encoding that leaves joins out.

    Byte-pair encoding joins neighbours, the pair learnt first of those that there are, until no
    pair has been learnt. Here each pair is left out with probability `rate`, drawn anew before
    each join, and a word is done when all that are left are left out.

    Source: BPE-dropout, algorithm 1 of Provilkov et al., 2020.

    Deviation: Once the first pair is left out, a word goes on in one of 16 ways that are drawn
    once and for all and kept, because drawing anew takes several times as long.
    """

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, rate: float):
        super().__init__(processor, rate)
        self._whole = functools.lru_cache(_WORDS_KEPT)(self._without_chance)
        self._way = functools.lru_cache(_WAYS_KEPT)(self._after_the_first)

    def joined(self, word: str, is_left_out: Iterable[bool]) -> tuple[list[int], int]:
        """Joins the characters of a word.

        Args:
            word: The word, its space written as SentencePiece does.
            is_left_out: Says of each pair that is about to be joined whether it is left out.

        Returns:
            The ids, and how many joins were made.
        """
        scores, parts, is_left_out = self._scores, list(word), iter(is_left_out)
        ranks = [-scores.get(one + other, -math.inf) for one, other in itertools.pairwise(parts)]
        for num_joins in itertools.count():
            place = _first_not_left_out(ranks, is_left_out)
            if place is None:
                return self._ids_of(parts), num_joins
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
            del ranks[place]
            for near in (place - 1, place):
                if 0 <= near < len(ranks):
                    ranks[near] = -scores.get(parts[near] + parts[near + 1], -math.inf)

    def _split(self, word: str, chance: float) -> Sequence[int]:
        """All n joins that come first are made with probability (1 - rate) ** n."""
        ids, num_joins = self._whole(word)
        chance = 1 - chance
        is_made = max(0.0, 1 - self.rate)
        if chance <= is_made**num_joins:
            return ids
        # The first k joins are made, and the next is left out, if chance is between the powers.
        num_made = int(math.log(chance) / math.log(is_made)) if is_made else 0
        return self._way(word, min(num_made, num_joins - 1), int(chance * 2**40) % _WAYS)

    def _without_chance(self, word: str) -> tuple[list[int], int]:
        return self.joined(word, itertools.repeat(False))

    def _after_the_first(self, word: str, num_made: int, way: int) -> list[int]:
        first = zlib.crc32(f"{num_made} {way} {word}".encode())
        later = (_CHANCES[number % len(_CHANCES)] < self.rate for number in itertools.count(first))
        return self.joined(word, itertools.chain([False] * num_made, [True], later))[0]


class UnigramSampling(SubwordSampler):
    """Splits drawn from a unigram model.

    The model gives a split s of a word the probability p(s), the product of its sub-words'. Here a
    split is drawn with a probability in proportion to p(s) ** rate.

    Source: Subword regularization, section 3.2 of Kudo, 2018, with l of infinity.
    """

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, rate: float):
        super().__init__(processor, rate)
        self._longest = max(map(len, self._ids))
        self._last_parts = functools.lru_cache(_WORDS_KEPT)(self._weigh)

    def _split(self, word: str, chance: float) -> Sequence[int]:
        """Draws the last sub-word, then the one before it. Each takes its part of the chance."""
        last_parts = self._last_parts(word)
        parts, end = [], len(word)
        while end:
            choices = last_parts[end]
            start, least, share = next(
                (choice for choice in choices if chance < choice[1] + choice[2]), choices[-1]
            )
            chance = min(max(0.0, (chance - least) / share), _BELOW_1)
            parts.append(word[start:end])
            end = start
        return self._ids_of(reversed(parts))

    def _weigh(self, word: str) -> list[list[tuple[int, float, float]]]:
        """Where the last sub-word of a word's first characters can begin, and how likely.

        Returns:
            For each number of characters: where it begins, how likely it is to begin earlier than
            that, and how likely to begin there.
        """
        logarithms, last_parts = [0.0], [[]]  # of the sum over all splits of the first characters
        for end in range(1, len(word) + 1):
            starts = [
                (start, logarithms[start] + self.rate * self._scores.get(word[start:end], 0.0))
                for start in range(max(0, end - self._longest), end)
                if word[start:end] in self._ids or start == end - 1
            ]
            most = max(logarithm for _, logarithm in starts)
            weights = [math.exp(logarithm - most) for _, logarithm in starts]
            total = sum(weights)
            sums = itertools.accumulate(weights, initial=0.0)
            last_parts.append(
                [
                    (start, before / total, weight / total)
                    for (start, _), before, weight in zip(starts, sums, weights, strict=False)
                    if weight
                ]
            )
            logarithms.append(most + math.log(total))
        return last_parts


def subword_sampler(processor: sentencepiece.SentencePieceProcessor, rate: float) -> SubwordSampler:
    """The way of sampling that fits a SentencePiece model.

    Args:
        processor: The model.
        rate: The probability with which a pair is left out, or the exponent; above 0.

    Raises:
        InputError: The model has sub-words that reach over a space.
    """
    # Byte-pair encoding has the order of its joins for scores: 0, -1, -2 and so on.
    scores = map(processor.get_score, range(processor.get_piece_size()))
    is_bpe = all(score == int(score) for score in scores)
    return BytePairDropout(processor, rate) if is_bpe else UnigramSampling(processor, rate)


def _first_not_left_out(ranks: Sequence[float], is_left_out) -> int | None:
    """The place of the pair learnt first of those that are not left out, or None."""
    ranks = list(ranks)
    while ranks:
        place = ranks.index(min(ranks))
        if ranks[place] == math.inf:
            return None
        if not next(is_left_out):
            return place
        ranks[place] = math.inf
    return None
