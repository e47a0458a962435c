"""Checks of options that several experiments share."""

from collections.abc import Collection

from training.command_line.errors import UsageError
from training.command_line.parser import option_name


def check_least(options, **least: int) -> None:
    """Raises UsageError if a number, or one in a list, is below its minimum in `least`."""
    for name, number in least.items():
        value = options[name]
        lowest = min(value) if isinstance(value, list) else value
        if lowest < number:
            raise UsageError(
                f"{option_name(name)} must be at least {number}. Received: {lowest}. Increase it."
            )


def check_positive(options, name: str, example: float) -> None:
    """Raises UsageError if a number is not above 0."""
    if not options[name] > 0:
        raise UsageError(
            f"{option_name(name)} must be above 0. Received: {options[name]:g}. For example, choose"
            f" {example}."
        )


def check_names(options, name: str, known: Collection[str]) -> None:
    """Raises UsageError if an option has a value that is not in `known`."""
    unknown = [one for one in options[name] if one not in known]
    if unknown:
        raise UsageError(
            f"{option_name(name)} must be among {', '.join(known)}. Received: {unknown[0]}. Choose"
            " one of these."
        )
