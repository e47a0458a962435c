"""Numbers and lists in sentences."""

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: 1 epoch, 2,000 epochs.

    Args:
        number: The number.
        noun: The singular.
        plural: The plural; the noun with an s if None.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names listed as in a sentence: `a`, `a and b`, `a, b and c`.

    Args:
        names: At least one.
        last: The word before the last name.
    """
    *others, final = names
    return f"{', '.join(others)} {last} {final}" if others else final
