"""Ranks epochs, trials and sets of weights."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

LABELS = {
    "val_perplexity": "validation perplexity",
    "val_bleu": "validation BLEU",
    "val_chrf": "validation chrF",
}


def sign_of(monitor: str) -> int:
    """Returns 1 if lower values of `monitor` are better, -1 if higher values are."""
    return 1 if monitor == "val_perplexity" else -1


def needs_translations(monitor: str) -> bool:
    """Whether measuring `monitor` needs translations of the validation text."""
    return monitor != "val_perplexity"


def badness(numbers: Mapping[str, Any], monitor: str) -> tuple[float, float]:
    """Returns a sort key that puts the best first: by `monitor`, then by perplexity.

    Args:
        numbers: A line of metrics.jsonl, or measurements with the same names.
        monitor: One of `training.settings.Monitor`; where it is missing, nothing is worse.
    """
    sign = sign_of(monitor)
    value = sign * numbers.get(monitor, sign * math.inf)
    return value, numbers.get("val_perplexity", math.inf)


def best_epoch(metrics: Iterable[Mapping[str, Any]], monitor: str) -> int | None:
    """Returns the first best epoch in the lines of metrics.jsonl; None if they have no epoch."""
    lines = [line for line in metrics if "epoch" in line]
    best = min(lines, key=lambda line: badness(line, monitor), default=None)
    return best and best["epoch"]
