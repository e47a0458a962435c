"""One side of the tokenizer of a Marian model: a SentencePiece model and a vocabulary.

Axes: batch = lines, length = sub-words of a line.
"""

import collections
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, overload

import sentencepiece

from keras_transformer.errors import InputError
from keras_transformer.text.graph_tokenizer import GraphTokenizer
from keras_transformer.text.punctuation import check_punctuation, normalized, normalized_in_graph
from keras_transformer.text.sentencepiece_file import MOST_PIECES, check_sentencepiece_model
from keras_transformer.text.subword_tokenizer import (
    LINE_BREAK,
    id_error,
    one_line,
    text_error,
)

if TYPE_CHECKING:
    import tensorflow as tf

# Padding, unknown, start and end, the first pieces of every vocabulary.
SPECIAL_PIECES = ("<pad>", "<unk>", "<s>", "</s>")

_SPACE = "\u2581"  # how SentencePiece spells a space
_UNKNOWN = "\u2047"  # written for an unknown sub-word
_LANGUAGE_TAG = r"^>>[^<>]+<<"
_MOST_BYTES_OF_A_PIECE = 1000

_Pickled: TypeAlias = tuple[Any, tuple[bytes, tuple[str, ...], str | None]]


class MarianTokenizer:
    """Splits text of one language as a Marian or OPUS-MT model does, and joins it again.

    A SentencePiece model splits text into pieces, which are looked up in a vocabulary by their
    text: the vocabulary may be that of both languages, in any order. Pieces that it lacks become
    the unknown id. Text is normalized as the SentencePiece model says, so spaces at the ends and
    repeated ones disappear.

    A language tag such as `>>fra<<` at the beginning of a line becomes one id, if the vocabulary
    has it.

    Args:
        serialized_model: The bytes of a SentencePiece model. They are checked before SentencePiece
            or TensorFlow Text reads them; see `check_sentencepiece_model`.
        pieces: The vocabulary: the piece of each id. The first four are `<pad>`, `<unk>`, `<s>`
            and `</s>`.
        punctuation: The language whose punctuation to normalize before splitting, as Moses does;
            None keeps punctuation. See `keras_transformer.text.punctuation`.

    Attributes:
        serialized_model, vocabulary, punctuation: The arguments.

    Raises:
        InputError: The bytes are not a SentencePiece model, or the pieces are not a vocabulary.
    """

    padding_id = 0
    unknown_id = 1
    start_id = 2
    end_id = 3
    normalization = "none"

    def __init__(
        self, serialized_model: bytes, pieces: Sequence[str], *, punctuation: str | None = None
    ) -> None:
        check_punctuation(punctuation)
        self.vocabulary = _checked_vocabulary(pieces)
        self.serialized_model = serialized_model
        self.punctuation = punctuation
        self._processor = processor_of(serialized_model)
        self._spells_bytes = any(
            self._processor.is_byte(piece_id)
            for piece_id in range(self._processor.get_piece_size())
        )
        # Text cannot spell the special pieces.
        self._ids = {
            piece: token_id
            for token_id, piece in enumerate(self.vocabulary)
            if token_id >= len(SPECIAL_PIECES)
        }
        self._graph_tokenizer = GraphTokenizer(serialized_model, as_text=True)
        self._table: Any = None

    def __reduce__(self) -> _Pickled:
        return _restored, (self.serialized_model, self.vocabulary, self.punctuation)

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, including the special ones."""
        return len(self.vocabulary)

    # A str is a Sequence[str], too: the first type that fits is the result's.
    @overload
    def normalize(self, text: str) -> str: ...  # type: ignore[overload-overlap]

    @overload
    def normalize(self, text: Sequence[str]) -> list[str]: ...

    def normalize(self, text: str | Sequence[str]) -> str | list[str]:
        """Returns a line, or each of several, as the tokenizer reads it; raises like `encode`."""
        ids = self.encode(text)
        return self.decode(ids) if ids or isinstance(text, str) else []

    def id_to_piece(self, token_id: int) -> str:
        """Returns an id's piece, with spaces as U+2581."""
        if not 0 <= token_id < self.vocabulary_size:
            raise id_error(f"token_id={token_id}", self.vocabulary_size)
        return self.vocabulary[token_id]

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        """Returns the pieces of several ids; see `id_to_piece`."""
        return [self.id_to_piece(token_id) for token_id in token_ids]

    @overload
    def encode(self, text: str) -> list[int]: ...  # type: ignore[overload-overlap]  # as above

    @overload
    def encode(self, text: Sequence[str]) -> list[list[int]]: ...

    def encode(self, text: str | Sequence[str]) -> list[int] | list[list[int]]:
        """Splits a line, or each of several, into ids, without start and end ids.

        Raises:
            InputError: A line is not a string, or has half of a surrogate pair.
        """
        lines = _lines_of(text)
        if self.punctuation is not None:
            lines = [normalized(line, self.punctuation) for line in lines]
        tags = [self._tag_of(line) for line in lines]
        try:
            split = self._processor.encode(
                [line[len(tag) :] for line, tag in zip(lines, tags, strict=True)], out_type=str
            )
        except (RuntimeError, TypeError, UnicodeEncodeError) as error:
            raise text_error(text) from error
        encoded = [
            [self._ids.get(piece, self.unknown_id) for piece in ([tag] if tag else []) + pieces]
            for tag, pieces in zip(tags, split, strict=True)
        ]
        return encoded[0] if isinstance(text, str) else encoded

    def _tag_of(self, line: str) -> str:
        """Returns the language tag that a line begins with, or ""."""
        match = re.match(_LANGUAGE_TAG, line)
        return match[0] if match and match[0] in self._ids else ""

    def sample(self, lines: Sequence[str], rate: float, *, seed: int) -> NoReturn:
        """Refuses to split at random, which needs a `SubwordTokenizer`."""
        raise InputError(
            "sampling needs a tokenizer that SubwordTokenizer.train made. Received:"
            f" sampling={rate}, with the tokenizer of a Marian model. Choose sampling=0."
        )

    @overload
    def decode(self, token_ids: Iterable[int]) -> str: ...

    @overload
    def decode(self, token_ids: Iterable[Iterable[int]]) -> list[str]: ...

    def decode(self, token_ids: Iterable[int] | Iterable[Iterable[int]]) -> str | list[str]:
        """Joins ids into a line, or each of several lists of ids into a line.

        Padding, start and end ids disappear, unknown ones become U+2047. A line break becomes a
        space. An empty list becomes one empty line.
        """
        items: list[Any] = list(token_ids)
        if items and not isinstance(items[0], int) and hasattr(items[0], "__iter__"):
            return [self._line(ids) for ids in items]
        return self._line(items)

    def _line(self, token_ids: Iterable[Any]) -> str:
        pieces = []
        for token_id in map(int, token_ids):
            piece = self.id_to_piece(token_id)
            if token_id == self.unknown_id:
                pieces.append(_SPACE + _UNKNOWN)
            elif token_id >= len(SPECIAL_PIECES):
                pieces.append(piece)
        if self._spells_bytes:
            return one_line(self._processor.decode_pieces(pieces))
        return one_line("".join(pieces)).replace(_SPACE, " ").strip(" ")

    @property
    def trackables(self) -> list[Any]:
        """What an export that uses this tokenizer must track."""
        return [self._graph_tokenizer.trackable, self._ids_in_graph]

    @property
    def _ids_in_graph(self) -> Any:
        import tensorflow as tf

        if self._table is None:
            with tf.init_scope():
                entries = tf.lookup.KeyValueTensorInitializer(
                    tf.constant(list(self._ids)), tf.constant(list(self._ids.values()), tf.int32)
                )
                self._table = tf.lookup.StaticHashTable(entries, self.unknown_id)
        return self._table

    def tokenize(self, text: "tf.Tensor") -> "tf.RaggedTensor":
        """`encode` in the TensorFlow graph: String (batch,) to ragged int32 (batch, length)."""
        import tensorflow as tf

        if self.punctuation is not None:
            text = normalized_in_graph(text, self.punctuation)
        if not any(re.fullmatch(_LANGUAGE_TAG, piece) for piece in self._ids):
            return self._looked_up(self._graph_tokenizer.tokenize(text))
        begins_with_tag = tf.strings.regex_full_match(text, f"(?s){_LANGUAGE_TAG}.*")
        first = tf.strings.regex_replace(text, f"(?s)({_LANGUAGE_TAG}).*", r"\1")
        tag_id = self._ids_in_graph.lookup(first)  # (batch,)
        is_tag = begins_with_tag & (tag_id != self.unknown_id)
        rest = tf.where(is_tag, tf.strings.regex_replace(text, _LANGUAGE_TAG, ""), text)
        tags = tf.ragged.boolean_mask(tag_id[:, None], is_tag[:, None])  # (batch, 0 or 1)
        return tf.concat([tags, self._looked_up(self._graph_tokenizer.tokenize(rest))], axis=1)

    def _looked_up(self, pieces: "tf.RaggedTensor") -> "tf.RaggedTensor":
        return pieces.with_flat_values(self._ids_in_graph.lookup(pieces.flat_values))

    def detokenize(self, token_ids: "tf.RaggedTensor | tf.Tensor") -> "tf.Tensor":
        """`decode` in the TensorFlow graph.

        Call arguments:
            token_ids: Int (batch, length), ragged or padded with the padding id.

        Returns:
            String (batch,), UTF-8.
        """
        import tensorflow as tf

        if not isinstance(token_ids, tf.RaggedTensor):
            token_ids = tf.RaggedTensor.from_tensor(token_ids)
        is_text = (token_ids == self.unknown_id) | (token_ids >= len(SPECIAL_PIECES))
        token_ids = tf.cast(tf.ragged.boolean_mask(token_ids, is_text), tf.int32)
        texts = ["", _SPACE + _UNKNOWN, "", "", *self.vocabulary[len(SPECIAL_PIECES) :]]
        pieces = token_ids.with_flat_values(tf.gather(tf.constant(texts), token_ids.flat_values))
        if self._spells_bytes:
            text = self._graph_tokenizer.detokenize(pieces)
            return tf.strings.regex_replace(text, LINE_BREAK, " ")
        text = tf.strings.reduce_join(pieces, axis=-1)  # (batch,)
        text = tf.strings.regex_replace(text, f"{LINE_BREAK}|{_SPACE}", " ")
        return tf.strings.regex_replace(text, "^ +| +$", "")


def _lines_of(text: Any) -> list[str]:
    lines = [text] if isinstance(text, str) else text
    lines = list(lines) if isinstance(lines, Iterable) else [lines]
    if not all(isinstance(line, str) for line in lines):
        raise text_error(text)
    return lines


def processor_of(serialized_model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Checks and loads a SentencePiece model.

    Raises:
        InputError: The bytes are not one.
    """
    check_sentencepiece_model(serialized_model)
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=serialized_model)
    except RuntimeError as error:
        raise InputError(
            "a tokenizer must be a whole SentencePiece model. Received:"
            f" {len(serialized_model):,} bytes, of which it says: {error}. Copy it again."
        ) from error


def _restored(model: bytes, pieces: tuple[str, ...], punctuation: str | None) -> MarianTokenizer:
    return MarianTokenizer(model, pieces, punctuation=punctuation)


def _checked_vocabulary(pieces: Sequence[str]) -> tuple[str, ...]:
    """Returns the pieces as a tuple; refuses what is not a vocabulary."""
    pieces = tuple(pieces)
    fault = None
    if pieces[: len(SPECIAL_PIECES)] != SPECIAL_PIECES:
        fault = f"the first pieces {pieces[:4]!a:.200}"
    elif not len(SPECIAL_PIECES) < len(pieces) <= MOST_PIECES:
        fault = f"{len(pieces):,} pieces"
    elif bad := next((piece for piece in pieces if not _is_piece(piece)), None):
        fault = f"the piece {bad!a:.100}"
    elif "" in pieces:
        fault = "an empty piece"
    elif len({*pieces}) < len(pieces):
        [(twice, _)] = collections.Counter(pieces).most_common(1)
        fault = f"the piece {twice!a:.100} twice"
    if fault:
        raise InputError(
            f"a vocabulary must begin with {', '.join(SPECIAL_PIECES)} and have up to"
            f" {MOST_PIECES:,} different pieces of text. Received: {fault}. Check the vocabulary."
        )
    return pieces


def _is_piece(piece: Any) -> bool:
    try:
        return isinstance(piece, str) and len(piece.encode()) <= _MOST_BYTES_OF_A_PIECE
    except UnicodeEncodeError:
        return False
