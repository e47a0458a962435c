"""Exponents and crossings of made-up lines, for which they are known."""

import pytest

from training.experiments.slopes import crossing, slope

LENGTHS = [3, 10, 45, 100]


@pytest.mark.parametrize("exponent", [-0.5, 0, 1, 2.5])
def test_the_slope_of_a_power_is_its_exponent(exponent):
    assert slope(LENGTHS, [7 * n**exponent for n in LENGTHS]) == pytest.approx(exponent)


def test_the_slope_is_the_least_squares_slope():
    # Logarithms 0, 1, 2 and 0, 0, 3: mean products (-1 * -1 + 0 + 1 * 2) over (1 + 0 + 1).
    assert slope([1, 10, 100], [1, 1, 1000]) == pytest.approx(3 / 2)


def test_lines_cross_where_both_powers_are_equal():
    # 2 n^2 = 60 n at n = 30, between two lengths.
    x, y, is_above = crossing(LENGTHS, [2 * n**2 for n in LENGTHS], [60 * n for n in LENGTHS])
    assert (x, y, is_above) == (pytest.approx(30), pytest.approx(1800), True)


def test_a_crossing_is_where_the_line_stays_above():
    # Above, below, then above for good between 45 and 100; halfway, on a logarithmic scale.
    x, y, _ = crossing(LENGTHS, [2, 1, 1, 2], [1, 2, 2, 1])
    assert (x, y) == (pytest.approx((45 * 100) ** 0.5), pytest.approx(2**0.5))


@pytest.mark.parametrize(
    ("rising", "is_above"), [([1, 1, 1, 1], False), ([3, 3, 3, 3], True), ([3, 1, 3, 1], False)]
)
def test_lines_that_end_below_or_begin_above_do_not_cross(rising, is_above):
    assert crossing(LENGTHS, rising, [2, 2, 2, 2]) == (None, None, is_above)
