"""Moses' normalization of punctuation, which OPUS-MT applies to text before it is split.

It replaces typographic quotes, dashes and ellipses by ASCII and removes spaces before punctuation.
The rules are patterns that Python and TensorFlow read alike.

Source: the rules of `normalize-punctuation.perl` in Moses.

Deviation: the quote U+2019 always becomes an apostrophe. Moses makes it a double quote unless it
stands between letters, but OPUS-MT replaces it before it runs Moses' rules.
"""

import functools
import re
from typing import TYPE_CHECKING

from keras_transformer.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

_NO_BREAK = "\u00a0"
_SPACES = (" +", " ")

_SPACES_AND_BRACKETS = (
    ("\u2019", "'"),
    ("\r", ""),
    (r"\(", " ("),
    (r"\)", ") "),
    _SPACES,
    (r"\) ([.!:?;,])", r")\1"),
    (r"\( ", "("),
    (r" \)", ")"),
    ("([0-9]) %", r"\1%"),
    (" :", ":"),
    (" ;", ";"),
)
_QUOTES_AND_DASHES = (
    ("`", "'"),
    ("''", ' " '),
    ("[\u201e\u201c\u201d]", '"'),
    ("\N{EN DASH}", "-"),
    ("\N{EM DASH}", " - "),
    _SPACES,
    ("\N{ACUTE ACCENT}", "'"),
    ("[\u2018\u201a]", "'"),
    ("''", '"'),
    ("\N{HORIZONTAL ELLIPSIS}", "..."),
    (f"{_NO_BREAK}«{_NO_BREAK}", ' "'),
    (f"«{_NO_BREAK}?", '"'),
    (f"{_NO_BREAK}»{_NO_BREAK}", '" '),
    (f"{_NO_BREAK}?»", '"'),
)
_SPACES_THAT_DO_NOT_BREAK = (
    (f"{_NO_BREAK}%", "%"),
    (f"nº{_NO_BREAK}", "nº "),
    (f"{_NO_BREAK}([:?!;])", r"\1"),
    (f"{_NO_BREAK}(ºC|cm)", r" \1"),
    (f",{_NO_BREAK}", ", "),
    _SPACES,
)
# Moves commas and periods into or out of a quotation.
_INSIDE_QUOTES = (('"([,.]+)', r'\1"'),)
_OUTSIDE_QUOTES = ((',"', '",'), (r'([.]+)"([\t-\r ]*[^<]|$)', r'"\1\2'))
_DECIMAL_COMMA = ("de", "es", "cz", "cs", "fr")


def check_punctuation(language: str | None) -> None:
    """Refuses what is neither a language's code nor None."""
    if language is not None and not re.fullmatch("[a-z]{2,3}", str(language)):
        raise InputError(
            "punctuation must be the code of a language, in two or three letters, or None."
            f" Received: punctuation={language!a:.100}. Choose 'en', for example."
        )


@functools.cache
def rules_of(language: str) -> tuple[tuple[str, str], ...]:
    """Returns the pattern and the replacement of each rule for a language, in order."""
    between_digits = "," if language in _DECIMAL_COMMA else "."
    quotes = () if language in ("cs", "cz") else _OUTSIDE_QUOTES
    return (
        *_SPACES_AND_BRACKETS,
        *_QUOTES_AND_DASHES,
        *_SPACES_THAT_DO_NOT_BREAK,
        *(_INSIDE_QUOTES if language == "en" else quotes),
        (f"([0-9]){_NO_BREAK}([0-9])", rf"\1{between_digits}\2"),
    )


def normalized(text: str, language: str) -> str:
    """Normalizes the punctuation of a line in this language."""
    for pattern, replacement in rules_of(language):
        text = re.sub(pattern, replacement, text)
    return text


def normalized_in_graph(text: "tf.Tensor", language: str) -> "tf.Tensor":
    """`normalized` in the TensorFlow graph: String (batch,) to String (batch,)."""
    import tensorflow as tf

    for pattern, replacement in rules_of(language):
        text = tf.strings.regex_replace(text, pattern, replacement)
    return text
