"""Prefixes: beginnings of translations, and how these continue after a space.

A sub-word includes the space before it: "the house" is "the" and "▁house". For a prefix that ends
in a space, the search gets the prefix without the space, and the next sub-word must begin with one.
"""

import functools
import itertools
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from keras_transformer.text.blank import WHITE_SPACE
from keras_transformer.text.tokenizer_pair import TokenizerSide

if TYPE_CHECKING:
    import tensorflow as tf

_SPACE = "\u2581"  # how SentencePiece spells a space

# Scripts without spaces between words, besides the East Asian ones.
_SCRIPTS_WITHOUT_SPACES = ("THAI ", "LAO ", "KHMER ", "MYANMAR ")

_NO_SCRIPTS_FROM = 0x40000  # Unicode has no scripts in its later planes


class Prefix(NamedTuple):
    """The beginning of a translation.

    Attributes:
        text: The whole prefix.
        stem: The text without white space at its end, with which the search must begin.
    """

    text: str
    stem: str

    @classmethod
    def of(cls, text: str, tokenizer: TokenizerSide) -> "Prefix":
        """Makes the prefix from the text as the tokenizer decodes it, without line breaks."""
        text = tokenizer.decode(tokenizer.encode(text)) if text else ""
        return cls(text, text.rstrip())

    @property
    def needs_new_word(self) -> bool:
        """Whether the next sub-word must begin a new word."""
        return 0 < len(self.stem) < len(self.text) and not _has_no_spaces(self.stem[-1])

    def begin(self, translation: str) -> str:
        """Replaces the stem at the beginning of a translation with the whole prefix."""
        if self.text == self.stem:
            return translation
        rest = translation[len(self.stem) :]
        return self.text + (rest[1:] if rest[:1].isspace() else rest)


class PrefixesInGraph(NamedTuple):
    """`Prefix` for each row of a batch, in the TensorFlow graph: both String (batch,)."""

    text: "tf.Tensor"
    stem: "tf.Tensor"

    @classmethod
    def of(cls, text: "tf.Tensor", tokenizer: TokenizerSide) -> "PrefixesInGraph":
        """Makes prefixes, as the tokenizer decodes them, from String (batch,), UTF-8."""
        import tensorflow as tf

        text = tokenizer.detokenize(tokenizer.tokenize(text))
        return cls(text, tf.strings.regex_replace(text, f"[{WHITE_SPACE}]+$", ""))

    def of_rows(self, rows: "tf.Tensor") -> "PrefixesInGraph":
        """Returns the prefixes of the given rows, Integer (rows,)."""
        import tensorflow as tf

        return PrefixesInGraph(tf.gather(self.text, rows), tf.gather(self.stem, rows))

    @property
    def need_new_word(self) -> "tf.Tensor":
        """`Prefix.needs_new_word` of each row, Boolean (batch,)."""
        import tensorflow as tf

        last_of_stem = f"[^{WHITE_SPACE}{_characters_without_spaces()}]"
        return tf.strings.regex_full_match(self.text, f"(?s:.*){last_of_stem}[{WHITE_SPACE}]+")

    def begin(self, translations: "tf.Tensor") -> "tf.Tensor":
        """`Prefix.begin` for String (batch, n): each begins with its row's stem or is empty."""
        import tensorflow as tf

        text, stem = self.text[:, None], self.stem[:, None]  # each (batch, 1)
        stem_bytes = tf.minimum(tf.strings.length(stem), tf.strings.length(translations))
        rest = tf.strings.substr(translations, stem_bytes, tf.strings.length(translations))
        rest = tf.where(
            tf.equal(text, stem), rest, tf.strings.regex_replace(rest, f"^[{WHITE_SPACE}]", "")
        )
        return tf.strings.join([tf.broadcast_to(text, tf.shape(rest)), rest])


def new_word_ids(tokenizer: TokenizerSide) -> list[int]:
    """Returns the sub-words that begin a word: with a space, or in a script without spaces.

    The same holds for a user's symbol: `<b>` begins no word. After a space, it follows the sub-word
    that is only that space.
    """
    pieces = tokenizer.pieces(range(tokenizer.vocabulary_size))
    return [
        token_id
        for token_id, piece in enumerate(pieces)
        if piece[0] == _SPACE or _has_no_spaces(piece[0])
    ]


def _has_no_spaces(character: str) -> bool:
    """Whether a character's script has no spaces between words, as in Chinese."""
    if unicodedata.category(character) == "Cn":  # unassigned; older Pythons call it wide
        return False
    name = unicodedata.name(character, "")
    is_wide = unicodedata.east_asian_width(character) in ("F", "H", "W")
    return (is_wide and "HANGUL" not in name) or name.startswith(_SCRIPTS_WITHOUT_SPACES)


@functools.cache
def _characters_without_spaces() -> str:
    """Returns the characters of `_has_no_spaces` as a character class of a regular expression."""
    codes = [code for code in range(_NO_SCRIPTS_FROM) if _has_no_spaces(chr(code))]
    groups = itertools.groupby(enumerate(codes), key=lambda item: item[1] - item[0])
    runs = [[code for _, code in run] for _, run in groups]
    return "".join(f"\\x{{{run[0]:x}}}-\\x{{{run[-1]:x}}}" for run in runs)
