"""The slope of a measured line on two logarithmic scales, and the crossing of two lines."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Crossing(NamedTuple):
    """The point from which a line stays above another line.

    Attributes:
        x: None if the line ends below the other, or is above it everywhere.
        y: None if x is None.
        is_above: Whether the line ends above the other.
    """

    x: float | None
    y: float | None
    is_above: bool


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Fits y = a x**b to positive numbers by least squares of logarithms, and returns b."""
    log_xs, log_ys = [[math.log(value) for value in values] for values in (xs, ys)]
    mean_x, mean_y = sum(log_xs) / len(log_xs), sum(log_ys) / len(log_ys)
    products = sum((x - mean_x) * (y - mean_y) for x, y in zip(log_xs, log_ys, strict=True))
    return products / sum((x - mean_x) ** 2 for x in log_xs)


def crossing(xs: Sequence[float], rising: Sequence[float], other: Sequence[float]) -> Crossing:
    """Finds the point from which the rising line stays above the other.

    All numbers must be positive, and xs must ascend. Lines are straight between points on
    logarithmic scales.
    """
    gaps = [math.log(a) - math.log(b) for a, b in zip(rising, other, strict=True)]
    is_above = gaps[-1] >= 0
    if not is_above or min(gaps) >= 0:
        return Crossing(None, None, is_above)
    below = max(place for place, gap in enumerate(gaps) if gap < 0)
    share = gaps[below] / (gaps[below] - gaps[below + 1])

    def between(values):
        return values[below] * (values[below + 1] / values[below]) ** share

    return Crossing(between(xs), between(other), is_above)
