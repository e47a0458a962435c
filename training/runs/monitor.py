"""Ranks epochs, trials and sets of weights."""

import math
from collections.abc import Mapping
from typing import Any, Literal

Monitor = Literal["val_perplexity", "val_bleu", "val_chrf"]

LABELS = {
    "val_perplexity": "validation perplexity",
    "val_bleu": "validation BLEU",
    "val_chrf": "validation chrF",
}


def sign_of(monitor: str) -> int:
    """1 where less is better, -1 where more is."""
    return 1 if monitor == "val_perplexity" else -1


def needs_translations(monitor: str) -> bool:
    """Whether it is measured on translations of the validation text."""
    return monitor != "val_perplexity"


def badness(numbers: Mapping[str, Any], monitor: str) -> tuple[float, float]:
    """A sort key that puts the better one first: by monitor and, between equals, by perplexity.

    Args:
        numbers: A line of metrics.jsonl, or what is measured like one.
        monitor: One of `Monitor`.
    """
    return sign_of(monitor) * numbers[monitor], numbers.get("val_perplexity", math.inf)
