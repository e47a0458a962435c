"""Checks of options that several experiments have."""

from collections.abc import Collection

from training.command_line.errors import UsageError
from training.command_line.parser import option_name


def check_least(options, **least: int) -> None:
    """Refuses numbers, or lists of numbers, below their least value."""
    for name, number in least.items():
        value = options[name]
        lowest = min(value) if isinstance(value, list) else value
        if lowest < number:
            raise UsageError(
                f"{option_name(name)} must be at least {number}. Received: {lowest}. Choose more."
            )


def check_positive(options, name: str, example: float) -> None:
    """Refuses a number that is not above 0."""
    if not options[name] > 0:
        raise UsageError(
            f"{option_name(name)} must be above 0. Received: {options[name]:g}. Choose for example"
            f" {example}."
        )


def check_names(options, name: str, known: Collection[str]) -> None:
    """Refuses unknown names."""
    unknown = [one for one in options[name] if one not in known]
    if unknown:
        raise UsageError(
            f"{option_name(name)} must be among {', '.join(known)}. Received: {unknown[0]}. Choose"
            " from these."
        )
