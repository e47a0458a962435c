"""How a translation must begin, and how it continues after a space.

A sub-word includes the space before it: "the house" is "the" and "▁house". If a prefix ends in a
space, the search is held to the prefix without it, and the next sub-word must begin with one.
"""

import unicodedata
from typing import NamedTuple

from keras_transformer.tokenizer import SubwordTokenizer

_SPACE = "\u2581"  # how SentencePiece spells a space

# Scripts without spaces between words that are not East Asian.
_SCRIPTS_WITHOUT_SPACES = ("THAI ", "LAO ", "KHMER ", "MYANMAR ")


class Prefix(NamedTuple):
    """How a translation must begin.

    Attributes:
        text: The beginning of the translation, in full.
        stem: The text without the white space at its end; the search is held to it.
    """

    text: str
    stem: str

    @classmethod
    def of(cls, text: str, tokenizer: SubwordTokenizer) -> "Prefix":
        """The prefix as the tokenizer writes it, so without line breaks."""
        text = tokenizer.decode(tokenizer.encode(text)) if text else ""
        return cls(text, text.rstrip())

    @property
    def needs_new_word(self) -> bool:
        """Whether what follows must not continue the last word."""
        return 0 < len(self.stem) < len(self.text) and not _has_no_spaces(self.stem[-1])

    def begin(self, translation: str) -> str:
        """The translation, which begins with the stem, with the whole prefix at its beginning."""
        if self.text == self.stem:
            return translation
        rest = translation[len(self.stem) :]
        return self.text + (rest[1:] if rest[:1].isspace() else rest)


def new_word_ids(tokenizer: SubwordTokenizer) -> list[int]:
    """The sub-words that continue no word: they begin with a space, or their script has none."""
    pieces = tokenizer.pieces(range(tokenizer.vocabulary_size))
    return [
        token_id
        for token_id, piece in enumerate(pieces)
        if piece[0] == _SPACE or _has_no_spaces(piece[0])
    ]


def _has_no_spaces(character: str) -> bool:
    """Whether a character is of a script without spaces between words, such as Chinese."""
    name = unicodedata.name(character, "")
    is_wide = unicodedata.east_asian_width(character) in ("F", "H", "W")
    return (is_wide and "HANGUL" not in name) or name.startswith(_SCRIPTS_WITHOUT_SPACES)
