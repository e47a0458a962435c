"""Numbers in sentences."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: 1 epoch, 2,000 epochs.

    Args:
        number: How many.
        noun: The word for one.
        plural: The word for several; the noun with an s if not given.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
