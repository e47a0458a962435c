"""How a translation must begin, and how it continues after a space.

A sub-word includes the space before it: "the house" is "the" and "▁house". If a prefix ends in a
space, the search is held to the prefix without it, and the next sub-word must begin with one.
"""

import functools
import itertools
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from keras_transformer.text.blank import WHITE_SPACE
from keras_transformer.text.subword_tokenizer import SubwordTokenizer

if TYPE_CHECKING:
    import tensorflow as tf

_SPACE = "\u2581"  # how SentencePiece spells a space

# Scripts without spaces between words that are not East Asian.
_SCRIPTS_WITHOUT_SPACES = ("THAI ", "LAO ", "KHMER ", "MYANMAR ")

# All scripts without spaces stand before; Unicode gives later planes to none of them.
_NO_SCRIPTS_FROM = 0x40000


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


class PrefixesInGraph(NamedTuple):
    """`Prefix` for each row of a batch, inside the TensorFlow graph.

    Attributes:
        text: String (batch,), as the translations spell them.
        stem: String (batch,), without the white space at their ends.
    """

    text: "tf.Tensor"
    stem: "tf.Tensor"

    @classmethod
    def of(cls, text: "tf.Tensor", tokenizer: SubwordTokenizer) -> "PrefixesInGraph":
        """The prefixes String (batch,), UTF-8, as the tokenizer writes them."""
        import tensorflow as tf

        text = tokenizer.detokenize(tokenizer.tokenize(text))
        return cls(text, tf.strings.regex_replace(text, f"[{WHITE_SPACE}]+$", ""))

    def of_rows(self, rows: "tf.Tensor") -> "PrefixesInGraph":
        """Those of some rows, Integer (some,)."""
        import tensorflow as tf

        return PrefixesInGraph(tf.gather(self.text, rows), tf.gather(self.stem, rows))

    @property
    def need_new_word(self) -> "tf.Tensor":
        """Boolean (batch,), see `Prefix.needs_new_word`."""
        import tensorflow as tf

        last_of_stem = f"[^{WHITE_SPACE}{_characters_without_spaces()}]"
        return tf.strings.regex_full_match(self.text, f"(?s:.*){last_of_stem}[{WHITE_SPACE}]+")

    def begin(self, translations: "tf.Tensor") -> "tf.Tensor":
        """The translations with the whole prefixes at their beginnings: String (batch, n).

        Call arguments:
            translations: String (batch, n), each beginning with the stem of its row, or empty.
        """
        import tensorflow as tf

        text, stem = self.text[:, None], self.stem[:, None]  # each (batch, 1)
        stem_bytes = tf.minimum(tf.strings.length(stem), tf.strings.length(translations))
        rest = tf.strings.substr(translations, stem_bytes, tf.strings.length(translations))
        rest = tf.where(
            tf.equal(text, stem), rest, tf.strings.regex_replace(rest, f"^[{WHITE_SPACE}]", "")
        )
        return tf.strings.join([tf.broadcast_to(text, tf.shape(rest)), rest])


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
    if unicodedata.category(character) == "Cn":  # none yet; older versions of Python call it wide
        return False
    name = unicodedata.name(character, "")
    is_wide = unicodedata.east_asian_width(character) in ("F", "H", "W")
    return (is_wide and "HANGUL" not in name) or name.startswith(_SCRIPTS_WITHOUT_SPACES)


@functools.cache
def _characters_without_spaces() -> str:
    """The characters of `_has_no_spaces`, as ranges that stand inside the brackets of a regex."""
    codes = [code for code in range(_NO_SCRIPTS_FROM) if _has_no_spaces(chr(code))]
    runs = itertools.groupby(enumerate(codes), key=lambda item: item[1] - item[0])
    runs = [[code for _, code in run] for _, run in runs]
    return "".join(f"\\x{{{run[0]:x}}}-\\x{{{run[-1]:x}}}" for run in runs)
