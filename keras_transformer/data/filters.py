"""Drops pairs that do not help training, and counts them by reason."""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from keras_transformer.errors import InputError
from keras_transformer.text.blank import is_blank
from keras_transformer.wording import counted

_LOGGER = logging.getLogger("keras_transformer")


class PairFilter:
    """Drops pairs, and counts them.

    A blank side (see `is_blank`) teaches the model to translate something to nothing, a long line
    costs memory, and a side many times as long as the other is seldom its translation.

    Args:
        longest: The longest line to keep, in tokens, including the end id.
        max_length_ratio: The largest ratio to keep between the tokens of a pair's two sides,
            without end ids; None for any.
    """

    def __init__(self, longest: int, max_length_ratio: float | None = None) -> None:
        self._longest, self._max_length_ratio = longest, max_length_ratio
        self._reasons = ["with a blank side", f"longer than {longest} tokens"]
        if max_length_ratio is not None:
            self._reasons.append(f"one side more than {max_length_ratio:g} times the other")
        self._left_out: Counter[str] = Counter()
        self.num_kept = 0

    @property
    def num_pairs(self) -> int:
        """The number of pairs seen."""
        return self.num_kept + self._left_out.total()

    def not_blank(
        self, source: Sequence[str], target: Sequence[str]
    ) -> tuple[list[str], list[str]]:
        """Returns the pairs of lines that have no blank side."""
        pairs = zip(source, target, strict=True)
        kept = [(one, other) for one, other in pairs if not (is_blank(one) or is_blank(other))]
        self._left_out[self._reasons[0]] += len(source) - len(kept)
        return [one for one, _ in kept], [other for _, other in kept]

    def kept(self, source_lengths: np.ndarray, target_lengths: np.ndarray) -> np.ndarray:
        """Returns the indices of the pairs to keep, Int (kept,), judging by their lengths.

        Args:
            source_lengths: Int (pairs,), including end ids.
            target_lengths: Int (pairs,), including end ids.
        """
        longer = np.maximum(source_lengths, target_lengths)
        kept = longer <= self._longest
        self._left_out[self._reasons[1]] += int(np.count_nonzero(~kept))
        if self._max_length_ratio is not None:
            shorter = np.minimum(source_lengths, target_lengths)
            even = longer - 1 <= self._max_length_ratio * (shorter - 1)
            self._left_out[self._reasons[2]] += int(np.count_nonzero(kept & ~even))
            kept &= even
        self.num_kept += int(np.count_nonzero(kept))
        return np.flatnonzero(kept)

    def report(self, where: str = "", level: int = logging.WARNING) -> None:
        """Logs how many pairs were dropped for each reason; each line begins with `where`."""
        for reason, num_pairs in self._counts():
            verb = "is" if num_pairs == 1 else "are"
            _LOGGER.log(
                level, "%s%s %s left out: %s.", where, counted(num_pairs, "pair"), verb, reason
            )

    def require_some(self, what: str = "the text") -> None:
        """Raises an InputError if no pair was kept."""
        if not self.num_kept:
            left_out = ", ".join(f"{num_pairs} {reason}" for reason, num_pairs in self._counts())
            raise InputError(
                f"{what} must hold at least one pair to train on."
                f" Received: {counted(self.num_pairs, 'pair')}, all left out: {left_out}."
                " Raise max_length, max_tokens or max_length_ratio, or check the text."
            )

    def _counts(self) -> list[tuple[str, int]]:
        return [
            (reason, self._left_out[reason]) for reason in self._reasons if self._left_out[reason]
        ]
