"""Blank lines, defined once for training, translating and the exported graph."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

# As defined by `str.isspace` and `str.strip`. Unicode's last white space is U+3000.
WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))

# Adds the zero-width space and the byte order mark.
BLANK_CHARACTERS = WHITE_SPACE + "\u200b\ufeff"


def is_blank(text: str) -> bool:
    """Whether a text holds nothing but white space, U+200B and U+FEFF."""
    return not text.strip(BLANK_CHARACTERS)


def is_blank_in_graph(text: "tf.Tensor") -> "tf.Tensor":
    """`is_blank` in the TensorFlow graph: from String (batch,), UTF-8, to Boolean (batch,)."""
    import tensorflow as tf

    blank = "".join(f"\\x{{{ord(character):x}}}" for character in BLANK_CHARACTERS)
    return tf.strings.regex_full_match(text, f"[{blank}]*")
