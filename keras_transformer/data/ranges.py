"""Range checks for the settings of batches."""

from keras_transformer.errors import InputError


def check_at_least(least: int, **settings: int) -> None:
    """Raises an InputError if a setting is below `least`."""
    for name, value in settings.items():
        if value < least:
            raise InputError(
                f"{name} must be at least {least}. Received: {name}={value}. Choose a larger value."
            )


def check_batch_settings(
    *, max_tokens: int, max_length: int, max_length_ratio: float | None, seed: int
) -> None:
    """Raises an InputError for settings that no batch can satisfy."""
    check_at_least(2, max_tokens=max_tokens, max_length=max_length)  # a word and the end id
    check_at_least(0, seed=seed)
    if max_length_ratio is not None and not max_length_ratio > 1:
        raise InputError(
            "max_length_ratio must be greater than 1, or None for no limit."
            f" Received: max_length_ratio={max_length_ratio}. Choose 3, for example."
        )
