"""Random, reproducible splits into sub-words: BPE-dropout and subword regularization.

SentencePiece can sample too, but seeds its generator differently in each process, whatever seed it
is given: a resumed run would see different data.

Sub-words never cross a space, so lines are split word by word, and splits of words are cached.
"""

import functools
import itertools
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import sentencepiece

from keras_transformer.errors import InputError

# SentencePiece writes this character for a space. It begins a word.
_SPACE = "\u2581"
_WORDS = re.compile(f"{_SPACE}?[^{_SPACE}]+|{_SPACE}")

# The most ways in which byte-pair encoding continues after the first join that is dropped.
_WAYS = 16

# Random numbers shared by all ways: a generator for each would take longer than the joins.
_CHANCES = np.random.default_rng(0).random(2**12).tolist()

# Cached words and ways to split them: less than 100 MB.
_WORDS_KEPT, _WAYS_KEPT = 2**15, 2**17

_BELOW_1 = math.nextafter(1.0, 0.0)


class SubwordSampler:
    """Splits lines into sub-words at random; see `subword_sampler`."""

    def __init__(
        self,
        processor: sentencepiece.SentencePieceProcessor,
        rate: float,
        symbols: Sequence[str] = (),
    ) -> None:
        numbers = range(processor.get_piece_size())
        self.rate = rate
        # SentencePiece prefers the longest symbol that begins at a place.
        longest_first = sorted(symbols, key=len, reverse=True)
        self._symbols = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._symbol_ids = {symbol: processor.piece_to_id(symbol) for symbol in symbols}
        self._ids = {
            processor.id_to_piece(number): number
            for number in numbers
            if not (processor.is_control(number) or processor.is_unknown(number))
            and not processor.is_byte(number)
            and processor.id_to_piece(number) not in self._symbol_ids
        }
        self._scores = {piece: processor.get_score(n) for piece, n in self._ids.items()}
        self._byte_ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        if any(_SPACE in piece[1:] for piece in self._ids):
            raise InputError(
                "sampling needs sub-words that do not cross a space."
                " Received: a tokenizer with sub-words that do."
                " Use one that SubwordTokenizer.train made, or no sampling."
            )
        self.prepare()

    def prepare(self) -> None:
        """Sets up what a kind of sampling needs besides; the constructor calls it last."""

    def sample(self, lines: Sequence[str], seed: int) -> list[list[int]]:
        """Returns the ids of each line, which depend only on the lines and the seed."""
        words = [list(self._words_of(line.replace(" ", _SPACE))) for line in lines]
        chances = iter(np.random.default_rng(seed).random(sum(map(len, words))).tolist())
        return [
            list(itertools.chain.from_iterable(map(self._ids_of_word, words_of_line, chances)))
            for words_of_line in words
        ]

    def _words_of(self, line: str) -> Iterator[str]:
        """Yields the words of a line, and the symbols between and within them."""
        for place, part in enumerate(self._symbols.split(line)):
            if place % 2:
                yield part
            else:
                yield from _WORDS.findall(part)

    def _ids_of_word(self, word: str, chance: float) -> Sequence[int]:
        symbol_id = self._symbol_ids.get(word)
        return self._split(word, chance) if symbol_id is None else [symbol_id]

    def _split(self, word: str, chance: float) -> Sequence[int]:
        """Returns the ids of a word; `chance` is a random number from [0, 1)."""
        raise NotImplementedError

    def _ids_of(self, parts: Iterable[str]) -> list[int]:
        """Returns the ids of sub-words; spells unknown characters in bytes."""
        ids = []
        for part in parts:
            if part in self._ids:
                ids.append(self._ids[part])
            else:
                ids += [self._byte_ids[byte] for byte in part.encode()]
        return ids


class BytePairDropout(SubwordSampler):
    """Byte-pair encoding that drops joins at random.

    Byte-pair encoding repeatedly joins the pair of neighboring parts that was learned first, until
    no learned pair is left. Here each pair is dropped with probability `rate` before each join, and
    a word is done once all its pairs are dropped.

    Source: BPE-dropout, algorithm 1 of Provilkov et al., 2020.

    Deviation: After its first dropped pair, a word continues in one of 16 ways that are drawn only
    once, because drawing a new one each time takes several times as long.
    """

    def prepare(self) -> None:
        self._whole = functools.lru_cache(_WORDS_KEPT)(
            lambda word: self.joined(word, itertools.repeat(False))
        )
        self._way = functools.lru_cache(_WAYS_KEPT)(self._after_the_first)

    def joined(self, word: str, is_dropped: Iterable[bool]) -> tuple[list[int], int]:
        """Joins the characters of a word.

        Args:
            word: The word, with SentencePiece's character for a space.
            is_dropped: For each pair that is about to be joined, whether to drop it instead.

        Returns:
            The ids, and the number of joins.
        """
        scores, parts, is_dropped = self._scores, list(word), iter(is_dropped)
        ranks = [-scores.get(one + other, -math.inf) for one, other in itertools.pairwise(parts)]
        num_joins = 0
        while (place := _first_not_dropped(ranks, is_dropped)) is not None:
            num_joins += 1
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
            del ranks[place]
            for near in (place - 1, place):
                if 0 <= near < len(ranks):
                    ranks[near] = -scores.get(parts[near] + parts[near + 1], -math.inf)
        return self._ids_of(parts), num_joins

    def _split(self, word: str, chance: float) -> Sequence[int]:
        """Uses that the first n joins are all made with probability (1 - rate) ** n."""
        ids, num_joins = self._whole(word)
        chance = 1 - chance
        is_made = max(0.0, 1 - self.rate)
        if chance <= is_made**num_joins:
            return ids
        # Between two powers: the first k joins are made, and the next is dropped.
        num_made = int(math.log(chance) / math.log(is_made)) if is_made else 0
        return self._way(word, min(num_made, num_joins - 1), int(chance * 2**40) % _WAYS)

    def _after_the_first(self, word: str, num_made: int, way: int) -> list[int]:
        first = zlib.crc32(f"{num_made} {way} {word}".encode())
        later = (_CHANCES[number % len(_CHANCES)] < self.rate for number in itertools.count(first))
        return self.joined(word, itertools.chain([False] * num_made, [True], later))[0]


class UnigramSampling(SubwordSampler):
    """Draws splits from a unigram model.

    The model gives a split s of a word the probability p(s), the product over its sub-words. Splits
    are drawn with probabilities proportional to p(s) ** rate.

    Source: Subword regularization, section 3.2 of Kudo, 2018, with l = infinity.
    """

    def prepare(self) -> None:
        self._longest = max(map(len, self._ids))
        self._last_parts = functools.lru_cache(_WORDS_KEPT)(self._weigh)

    def _split(self, word: str, chance: float) -> Sequence[int]:
        """Draws the sub-words from last to first, all with the one random number `chance`."""
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
        """Computes where the last sub-word begins, for each number of a word's first characters.

        Returns:
            For each number of characters, all places where the last sub-word can begin: the place,
            the probability that it begins earlier, and the probability that it begins there.
        """
        logarithms = [0.0]  # of the sums over all splits so far
        last_parts: list[list[tuple[int, float, float]]] = [[]]
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


def subword_sampler(
    processor: sentencepiece.SentencePieceProcessor, rate: float, symbols: Sequence[str] = ()
) -> SubwordSampler:
    """Returns the sampler for a SentencePiece model.

    Args:
        processor: The model.
        rate: Above 0: the probability of dropping a pair, or for unigram models the exponent.
        symbols: The user's symbols, which are never split.

    Raises:
        InputError: The model has sub-words that cross a space.
    """
    # The scores of byte-pair encoding are the order of its joins: 0, -1, -2 and so on.
    scores = map(processor.get_score, range(processor.get_piece_size()))
    is_bpe = all(score == int(score) for score in scores)
    sampler = BytePairDropout if is_bpe else UnigramSampling
    return sampler(processor, rate, symbols)


def _first_not_dropped(ranks: Sequence[float], is_dropped: Iterator[bool]) -> int | None:
    """Returns the place of the first-learned pair that is not dropped, or None."""
    ranks = list(ranks)
    while ranks:
        place = ranks.index(min(ranks))
        if ranks[place] == math.inf:
            return None
        if not next(is_dropped):
            return place
        ranks[place] = math.inf
    return None
