"""Words for a user: what a mistyped name may have meant, text cut to be shown."""

import difflib
import itertools
from collections.abc import Iterable

# From 0, nothing in common, to 1.5, the same: what is less alike is not suggested.
LEAST_LIKENESS = 0.8


def closest(name: str, names: Iterable[str]) -> str | None:
    """What a mistyped name was most probably meant to be; None if nothing is like it.

    People are surer of how a name begins, or of a part of it, than of all of it: --batchsize is
    nearer to --batch-tokens than to --beam-size, and --heads means --num-heads.
    """
    mine = _letters(name)

    def likeness(other: str) -> float:
        pairs = zip(mine, _letters(other), strict=False)
        beginning = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        whole = len(mine) if len(mine) > 2 and mine in _letters(other) else beginning
        return difflib.SequenceMatcher(None, mine, _letters(other)).ratio() + whole / len(mine) / 2

    best = max(names, key=likeness)
    return best if likeness(best) >= LEAST_LIKENESS else None


def shortened(text: str, most_characters: int = 200) -> str:
    """Text to show, cut where it gets long: a model that has learned little may write on and on."""
    if len(text) <= most_characters:
        return text
    return text[: most_characters - 3] + "..."


def _letters(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower() or name
