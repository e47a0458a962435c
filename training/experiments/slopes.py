"""The slope of a measured line on two logarithmic scales, and where two lines cross."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Crossing(NamedTuple):
    """Where a line rises above another for good.

    Attributes:
        x: None if it is below the other in the end, or above it everywhere.
        y: None if x is.
        is_above: Whether it is above the other in the end.
    """

    x: float | None
    y: float | None
    is_above: bool


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent b of y = a x**b, by least squares over logarithms of positive numbers."""
    log_xs, log_ys = [[math.log(value) for value in values] for values in (xs, ys)]
    mean_x, mean_y = sum(log_xs) / len(log_xs), sum(log_ys) / len(log_ys)
    products = sum((x - mean_x) * (y - mean_y) for x, y in zip(log_xs, log_ys, strict=True))
    return products / sum((x - mean_x) ** 2 for x in log_xs)


def crossing(xs: Sequence[float], rising: Sequence[float], other: Sequence[float]) -> Crossing:
    """Where the rising line gets above the other for good.

    All numbers are positive, and xs ascend; between them lines are straight on logarithmic scales.
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
