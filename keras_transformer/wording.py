"""Numbers and lists in sentences."""

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Returns a number with its noun: "1 epoch", "2,000 epochs".

    Args:
        number: The number.
        noun: The singular.
        plural: The plural; None adds an s to the noun.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], last: str = "and") -> str:
    """Lists names as in a sentence: `a`, `a and b`, `a, b and c`.

    Args:
        names: At least one name.
        last: The word before the last name.
    """
    *others, final = names
    return f"{', '.join(others)} {last} {final}" if others else final
