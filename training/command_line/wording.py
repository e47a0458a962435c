"""Suggests the option that a typo meant, and cuts long text short."""

import difflib
import itertools
from collections.abc import Iterable

# Below this likeness, from 0 (nothing in common) to 1.5 (identical), nothing is suggested.
LEAST_LIKENESS = 0.8


def closest(name: str, names: Iterable[str]) -> str | None:
    """Returns the name that a typo most probably meant; None if no name is similar.

    Weights the beginning of a name, or a part of it, since people remember these best:
    --batchsize is closer to --batch-tokens than to --beam-size, and --heads means --num-heads.
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
    """Cuts long text for display: a model that has learned little may never end a sentence."""
    return text if len(text) <= most_characters else text[: most_characters - 3] + "..."


def _letters(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower() or name
