"""Lossless sub-words: a SentencePiece model, for Python and for the TensorFlow graph.

Axes: batch = lines, length = sub-words of a line.
"""

import functools
import io
import itertools
import logging
import math
import numbers
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import sentencepiece

from keras_transformer.errors import InputError
from keras_transformer.text.blank import BLANK_CHARACTERS, is_blank
from keras_transformer.text.bpe_dropout import SubwordSampler, subword_sampler
from keras_transformer.text.compressed import PathName
from keras_transformer.text.graph_tokenizer import GraphTokenizer
from keras_transformer.text.lines import describe_os_error, read_lines, refuse_pipe
from keras_transformer.text.sentencepiece_file import (
    MOST_NESTED_PIECES,
    MOST_PIECES,
    check_sentencepiece_model,
    most_bytes,
    num_nested,
    user_defined_pieces,
)

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_text

MODEL_TYPES = ("bpe", "unigram")
NORMALIZATIONS = ("none", "nfkc")

_LOGGER = logging.getLogger("keras_transformer")

# The longest line that SentencePiece learns from. By default, it silently drops lines of more than
# 4,192 bytes.
_LONGEST_LINE_BYTES = 2**30

# SentencePiece's mark for a rare character, and our replacement for it in text to learn from.
_RARE_MARK, _RARE = "\u2585".encode(), b"\0"

# White space and letters that normalization would change, a character outside any alphabet, and
# words that another model may read as its special pieces.
_PROBE = (
    "  two  Spaces\t\u2028\u00ad \N{LATIN SMALL LIGATURE FI} \N{EXTRATERRESTRIAL ALIEN} <s></s> "
)
_NORMALIZATION_OF_PROBED = {_PROBE: "none", unicodedata.normalize("NFKC", _PROBE): "nfkc"}


class SubwordTokenizer:
    """Splits text into sub-words and joins them again without losing a character.

    `decode(encode(line)) == line` for every line of valid UTF-8 without U+2581, which SentencePiece
    writes for a space: text is not normalized, white space is kept, and characters outside the
    alphabet are spelled in bytes. With `normalization="nfkc"`, `decode(encode(line)) ==
    normalize(line)`. The special ids are padding 0, unknown 1 (never produced, thanks to bytes),
    start 2 and end 3. Text cannot spell them: `</s>` is three or more ordinary sub-words.

    `encode` and `decode` work on Python strings, without TensorFlow. `tokenize` and `detokenize`
    do the same in the TensorFlow graph, and import TensorFlow Text when first used.

    Source: sub-words shared by both languages, section 5.1 of the paper (byte-pair encoding).

    Args:
        serialized_model: The bytes of a SentencePiece model. They are checked before SentencePiece
            or TensorFlow Text reads them; see `check_sentencepiece_model`.
        most_ids: The most ids that the model may have; never more than 2**18.

    Attributes:
        serialized_model: The same bytes.
        normalization: The normalization of text before it is split: "none" or "nfkc".

    Raises:
        InputError: The bytes are not a SentencePiece model that keeps the text.

    Example:
        >>> tokenizer = SubwordTokenizer.train(["train.en", "train.de"], vocabulary_size=10_000)
        >>> tokenizer.decode(tokenizer.encode("A man rides a bicycle."))
        'A man rides a bicycle.'
    """

    padding_id = 0
    unknown_id = 1
    start_id = 2
    end_id = 3

    def __init__(self, serialized_model: bytes, *, most_ids: int = MOST_PIECES) -> None:
        check_sentencepiece_model(serialized_model, most_pieces=most_ids)
        self._processor, self.normalization = _processor_and_normalization(serialized_model)
        self.serialized_model = serialized_model
        self._graph_tokenizer = GraphTokenizer(serialized_model)
        self._sampler: SubwordSampler | None = None

    def __reduce__(self) -> tuple[type, tuple[bytes]]:
        # Everything else follows from the bytes, and TensorFlow's tokenizer belongs to one process.
        return type(self), (self.serialized_model,)

    @classmethod
    def train(
        cls,
        files: Iterable[PathName] | PathName,
        vocabulary_size: int,
        model_type: str = "bpe",
        normalization: str = "none",
        user_symbols: Sequence[str] = (),
    ) -> "SubwordTokenizer":
        """Learns sub-words from text files; the same text always gives the same model.

        If the text has fewer sub-words than `vocabulary_size`, the tokenizer has all of them, and
        logs a warning. U+2585, which SentencePiece reserves, is always spelled in bytes.

        Args:
            files: The text files, plain or compressed; both languages for a shared vocabulary.
            vocabulary_size: The most ids: sub-words, 256 bytes and 4 special ids; at most 2**18.
            model_type: "bpe" or "unigram".
            normalization: "none" keeps text unchanged. "nfkc" converts it to Unicode's form NFKC
                here and whenever text is encoded: composed and decomposed accents become the same,
                "\ufb01" becomes "fi", and full-width letters become ordinary ones.
            user_symbols: Texts that are never split, such as the language tag `>>de<<` or the
                markup `<b>`. Each is one sub-word wherever it stands, and only that text gives it.
                Where two begin at the same place, the longer one counts. They need "none" as
                normalization, because NFKC would turn other text into symbols.

        Raises:
            InputError: A file can't be read, a setting is out of range, or the text has too many
                different characters for the vocabulary size.
        """
        if isinstance(files, str | os.PathLike):
            files = [files]
        lines = itertools.chain.from_iterable([read_lines(path) for path in files])
        return cls.train_from_lines(lines, vocabulary_size, model_type, normalization, user_symbols)

    @classmethod
    def train_from_lines(
        cls,
        lines: Iterable[str],
        vocabulary_size: int,
        model_type: str = "bpe",
        normalization: str = "none",
        user_symbols: Sequence[str] = (),
    ) -> "SubwordTokenizer":
        """Learns sub-words from lines of text; see `train`."""
        _check_settings(vocabulary_size, model_type, normalization)
        symbols = checked_symbols(user_symbols, normalization)
        faults: list[Exception] = []
        try:
            learnable = _learnable(lines, faults)
            model = _train(learnable, vocabulary_size, model_type, normalization, symbols)
            tokenizer = cls(model)
        except RuntimeError as error:
            if faults:
                raise faults[0] from None
            raise _training_error(str(error), vocabulary_size, len(symbols)) from error
        if tokenizer.vocabulary_size < vocabulary_size:
            _LOGGER.warning(
                "vocabulary_size=%d is more than the text gives: the tokenizer has %d sub-words",
                vocabulary_size,
                tokenizer.vocabulary_size,
            )
        return tokenizer

    @classmethod
    def load(cls, path: PathName, *, most_ids: int = MOST_PIECES) -> "SubwordTokenizer":
        """Reads a tokenizer that `save` wrote.

        Args:
            path: The file.
            most_ids: The most ids that it may have, such as the vocabulary size of its model.

        Raises:
            InputError: The file is missing, a pipe, cut short, or not a tokenizer.
        """
        refuse_pipe(path)
        try:
            with open(path, "rb") as file:
                return cls(file.read(most_bytes(most_ids) + 1), most_ids=most_ids)
        except OSError as error:
            raise InputError(
                f"{path}: must be a tokenizer that SubwordTokenizer.save wrote."
                f" Received: {describe_os_error(error)}. Check the path."
            ) from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def save(self, path: PathName) -> None:
        """Writes the tokenizer to a file, completely or not at all."""
        write_whole(path, self.serialized_model)

    @functools.cached_property
    def user_symbols(self) -> tuple[str, ...]:
        """The texts that are never split; see `train`."""
        return tuple(user_defined_pieces(self.serialized_model))

    @property
    def source(self) -> "SubwordTokenizer":
        """The tokenizer itself, which is the same for the source as for the target."""
        return self

    @property
    def target(self) -> "SubwordTokenizer":
        """The tokenizer itself."""
        return self

    @property
    def shares_vocabulary(self) -> bool:
        """Whether each id means the same sub-word on both sides: always True."""
        return True

    @property
    def source_vocabulary_size(self) -> int:
        """The number of ids of the source, as of the target."""
        return self.vocabulary_size

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, including special ids and bytes."""
        return self._processor.get_piece_size()

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
        """Returns an id's sub-word as SentencePiece writes it: spaces as U+2581, bytes `<0x0A>`."""
        if not 0 <= token_id < self.vocabulary_size:
            raise id_error(f"token_id={token_id}", self.vocabulary_size)
        return self._processor.id_to_piece(int(token_id))

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        """Returns the sub-words of several ids; see `id_to_piece`."""
        return [self.id_to_piece(token_id) for token_id in token_ids]

    @overload
    def encode(self, text: str) -> list[int]: ...  # type: ignore[overload-overlap]  # as above

    @overload
    def encode(self, text: Sequence[str]) -> list[list[int]]: ...

    def encode(self, text: str | Sequence[str]) -> list[int] | list[list[int]]:
        """Splits a line, or each of several, into ids, without start and end ids.

        Encoding many lines in one call is about ten times faster than one by one.

        Raises:
            InputError: A line is not a string, or has half of a surrogate pair.
        """
        try:
            return self._processor.encode(text if isinstance(text, str) else list(text))
        except (RuntimeError, TypeError) as error:
            raise text_error(text) from error

    def sample(self, lines: Sequence[str], rate: float, *, seed: int) -> list[list[int]]:
        """Splits each of several lines into ids at random, for training.

        A model that sees a word split in several ways learns what its parts mean. The same lines
        and seed give the same splits in any process; `decode` still restores the text. See
        `keras_transformer.text.bpe_dropout`.

        Args:
            lines: The lines.
            rate: For byte-pair encoding, the probability of dropping each possible join, above 0;
                1 leaves single characters. For unigram models, the exponent of a split's
                probability, above 0; lower values make splits differ more. 0.1 suits both.
            seed: Determines the splits; 0 or more.

        Returns:
            The ids of each line, without start and end ids.

        Raises:
            InputError: A setting is out of range, or a line has half of a surrogate pair.
        """
        if not 0 < rate < math.inf or seed < 0:
            raise InputError(
                "rate must be greater than 0, and seed at least 0."
                f" Received: rate={rate}, seed={seed}. Choose rate=0.1 and seed=0, for example."
            )
        sampler = self._sampler
        if sampler is None or sampler.rate != rate:
            sampler = subword_sampler(self._processor, rate, self.user_symbols)
            self._sampler = sampler
        if self.normalization != "none":
            lines = self.normalize(lines)
        try:
            return sampler.sample(lines, seed)
        except UnicodeEncodeError as error:
            raise text_error(lines) from error

    @overload
    def decode(self, token_ids: Iterable[int]) -> str: ...

    @overload
    def decode(self, token_ids: Iterable[Iterable[int]]) -> list[str]: ...

    def decode(self, token_ids: Iterable[int] | Iterable[Iterable[int]]) -> str | list[str]:
        """Joins ids into a line, or each of several lists of ids into a line.

        Padding, start and end ids disappear. A line break, which bytes can spell, becomes a space,
        so the result is always one line. Bytes that are not UTF-8 become U+FFFD. An empty list
        becomes one empty line.
        """
        ids = [_plain(item) for item in token_ids]
        try:
            text = self._processor.decode(ids)
        except IndexError as error:
            raise id_error(f"token_ids={ids!r:.200}", self.vocabulary_size) from error
        return one_line(text) if isinstance(text, str) else [one_line(line) for line in text]

    @property
    def graph_tokenizer(self) -> "tensorflow_text.SentencepieceTokenizer":
        """The TensorFlow Text tokenizer behind `tokenize` and `detokenize`; see `GraphTokenizer`.

        Raises:
            RuntimeError: The process was forked from one that had used TensorFlow.
        """
        return self._graph_tokenizer.trackable

    @property
    def trackables(self) -> list[Any]:
        """What an export that uses the tokenizer must track."""
        return [self.graph_tokenizer]

    def tokenize(self, text: "tf.Tensor") -> "tf.RaggedTensor":
        """`encode` in the TensorFlow graph.

        Call arguments:
            text: String (batch,), UTF-8.

        Returns:
            Ragged int32 (batch, length).
        """
        return self._graph_tokenizer.tokenize(text)

    def detokenize(self, token_ids: "tf.RaggedTensor | tf.Tensor") -> "tf.Tensor":
        """`decode` in the TensorFlow graph.

        Call arguments:
            token_ids: Int (batch, length), ragged or padded with the padding id.

        Returns:
            String (batch,), UTF-8.
        """
        import tensorflow as tf

        text = self._graph_tokenizer.detokenize(tf.cast(token_ids, tf.int32))  # (batch,)
        return tf.strings.regex_replace(text, LINE_BREAK, " ")


LINE_BREAK = "\r?\n"


def one_line(text: str) -> str:
    """Replaces each line break with a space."""
    return re.sub(LINE_BREAK, " ", text)


def write_whole(path: PathName, data: bytes) -> None:
    """Writes a file, completely or not at all."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _plain(item: Any) -> Any:
    """Converts an id or a list of ids to Python numbers: SentencePiece accepts no others."""
    if isinstance(item, numbers.Integral):
        return int(item)
    return [int(token_id) for token_id in item]


def _processor_and_normalization(
    serialized_model: bytes,
) -> tuple[sentencepiece.SentencePieceProcessor, str]:
    """Loads a model and tells which of NORMALIZATIONS it applies; refuses other models."""
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=serialized_model)
    except RuntimeError as error:
        raise InputError(
            "a tokenizer must be a whole SentencePiece model."
            f" Received: {len(serialized_model)} bytes that are not. Train or copy it again."
        ) from error
    names = "pad", "unk", "bos", "eos"
    special_ids = tuple(getattr(processor, f"{name}_id")() for name in names)
    normalization = None
    if special_ids == (0, 1, 2, 3):
        normalization = _NORMALIZATION_OF_PROBED.get(processor.decode(processor.encode(_PROBE)))
    if normalization is None:
        raise InputError(
            "a tokenizer must keep the text, with ids 0 to 3 for padding, unknown, start and end."
            f" Received: a SentencePiece model with the ids {special_ids} that doesn't."
            " Use one that SubwordTokenizer.train made."
        )
    return processor, normalization


def _check_settings(vocabulary_size: int, model_type: str, normalization: str) -> None:
    for name, value, known in (
        ("normalization", normalization, NORMALIZATIONS),
        ("model_type", model_type, MODEL_TYPES),
    ):
        if value not in known:
            raise InputError(
                f"{name} must be one of {', '.join(known)}."
                f" Received: {name}={value!r}. Choose {name}={known[0]!r}."
            )
    if not isinstance(vocabulary_size, int) or not 1 <= vocabulary_size <= MOST_PIECES:
        raise InputError(
            f"vocabulary_size must be a whole number from 1 to {MOST_PIECES}."
            f" Received: vocabulary_size={vocabulary_size!r}. Choose 10000, for example."
        )


_LONGEST_SYMBOL = 100
# Twice as many, since a model lists its symbols twice, fit into any file that `load` accepts.
_MOST_BYTES_OF_SYMBOLS = 2**18
_RESERVED = re.compile(r"<(pad|unk|s|/s|0x[0-9A-Fa-f]{2})>")


def checked_symbols(symbols: Sequence[str], normalization: str) -> list[str]:
    """Returns the user's symbols as a list; refuses those that could not be told from text."""
    symbols = list(symbols) if not isinstance(symbols, str) else [symbols]
    if symbols and normalization != "none":
        raise InputError(
            "user_symbols need normalization=none, because NFKC turns other text into symbols, such"
            f" as full-width letters. Received: normalization={normalization}. Normalize the text"
            " yourself, or leave one of them out."
        )
    seen: set[str] = set()
    for symbol in symbols:
        fault = _fault_of(symbol) or ("is there twice" if symbol in seen else None)
        if fault:
            raise InputError(
                "user_symbols must be different texts without white space, such as >>de<< or <b>."
                f" Received: {symbol!a:.200}, which {fault}. Choose another symbol."
            )
        seen.add(symbol)
    _check_together([symbol.encode() for symbol in symbols])
    return symbols


def _check_together(symbols: list[bytes]) -> None:
    """Refuses symbols for which a SentencePiece model has no room."""
    size, nested = sum(map(len, symbols)), num_nested(symbols)
    if size > _MOST_BYTES_OF_SYMBOLS or nested > MOST_NESTED_PIECES:
        raise InputError(
            f"user_symbols may have {_MOST_BYTES_OF_SYMBOLS:,} bytes in all, and at most"
            f" {MOST_NESTED_PIECES} of them may each begin the next. Received: {len(symbols):,}"
            f" symbols of {size:,} bytes, {nested:,} of which each begin the next. Choose fewer or"
            " shorter symbols."
        )


def _fault_of(symbol: Any) -> str | None:
    """Returns the reason why a text cannot be a symbol, or None."""
    if not isinstance(symbol, str) or not symbol:
        return "is empty or not text"
    if len(symbol) > _LONGEST_SYMBOL:
        return f"has more than {_LONGEST_SYMBOL} characters"
    if _RESERVED.fullmatch(symbol):
        return "is reserved"
    try:
        data = symbol.encode()
    except UnicodeEncodeError:
        return "has half of a surrogate pair"
    has_space = any(c in BLANK_CHARACTERS or unicodedata.category(c) == "Cc" for c in symbol)
    if has_space or "\u2581" in symbol or _RARE_MARK in data:
        return "has white space, a control character, or a character of SentencePiece's own"
    return None


def _learnable(lines: Iterable[str], faults: list[Exception]) -> Iterator[bytes]:
    """Yields the lines, changed so that SentencePiece drops none.

    It drops lines that contain its mark for a rare character. A NUL, which it never puts into a
    sub-word either, replaces the mark. It cannot learn from NULs alone, so a space follows them.

    Args:
        lines: Lines to learn from.
        faults: Collects an exception, which SentencePiece would replace with its own.
    """
    has_some, is_rare_only = False, True
    try:
        for line in lines:
            try:
                data = line.encode("utf-8").replace(_RARE_MARK, _RARE)
            except (AttributeError, UnicodeEncodeError) as error:
                raise text_error(line) from error
            if is_blank(line):
                continue
            has_some = True
            is_rare_only = is_rare_only and not data.strip(_RARE)
            yield data
    except Exception as error:
        faults.append(error)
        raise
    if has_some and is_rare_only:
        yield b" "


def _train(
    lines: Iterator[bytes],
    vocabulary_size: int,
    model_type: str,
    normalization: str,
    symbols: list[str],
) -> bytes:
    """Trains a SentencePiece model and returns its bytes; any version knows the options."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        # Below the number of special ids, the error would not say how many ids the text needs.
        vocab_size=max(vocabulary_size, 4),
        hard_vocab_limit=False,
        model_type=model_type,
        pad_id=SubwordTokenizer.padding_id,
        unk_id=SubwordTokenizer.unknown_id,
        bos_id=SubwordTokenizer.start_id,
        eos_id=SubwordTokenizer.end_id,
        user_defined_symbols=symbols,
        normalization_rule_name={"none": "identity"}.get(normalization, normalization),
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        # Spells the rarest 0.01% of all characters in bytes. At 1.0, each character that occurs
        # once would get an embedding that is never learned, and the characters of a Chinese text
        # could exceed a small vocabulary. SentencePiece's default of 0.9995 would spell even "Q"
        # and "Ü" of English and German in bytes.
        character_coverage=0.9999,
        # A rarer space, as in Chinese, would be spelled in bytes and come back as U+2581.
        required_chars="\u2581",
        max_sentence_length=_LONGEST_LINE_BYTES,
        num_threads=1,  # the sums of "unigram", and so its pieces, depend on the split of work
        minloglevel=2,
    )
    return model.getvalue()


def _training_error(message: str, vocabulary_size: int, num_symbols: int) -> InputError:
    received = f"Received: vocabulary_size={vocabulary_size}"
    symbols = f", {num_symbols} symbols" if num_symbols else ""
    if smallest := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return InputError(
            f"vocabulary_size must hold 4 special ids, 256 bytes{symbols} and the characters of the"
            " text."
            f" {received}, and the text needs {smallest[1]}."
            f" Choose vocabulary_size={smallest[1]} or more."
        )
    if "sentences_.empty()" in message:
        return InputError("lines must hold some text. Received: only blank lines. Check the text.")
    return InputError(
        f"SentencePiece must be able to learn from the text. {received}, and it says: {message!r}."
        " Check the text and the settings."
    )


def text_error(text: object) -> InputError:
    """Returns the error for text that cannot be encoded."""
    return InputError(
        "text must be a string, or several, that UTF-8 can encode."
        f" Received: text={text!a:.200}. Pass strings without unpaired surrogates."
    )


def id_error(received: str, vocabulary_size: int) -> InputError:
    """Returns the error for ids outside the vocabulary."""
    return InputError(
        f"ids must be at least 0 and less than the vocabulary size of {vocabulary_size}."
        f" Received: {received}. Use the tokenizer that made the ids."
    )
