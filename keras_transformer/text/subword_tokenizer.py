"""Sub-words that keep the text: a SentencePiece model, used in Python and in the TensorFlow graph.

Shapes: batch = lines, length = sub-words of a line.
"""

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
from typing import TYPE_CHECKING, Union

import sentencepiece

from keras_transformer.errors import InputError
from keras_transformer.forks import check_not_forked
from keras_transformer.quiet import without_information
from keras_transformer.text.blank import is_blank
from keras_transformer.text.bpe_dropout import subword_sampler
from keras_transformer.text.lines import describe_os_error, read_lines, refuse_pipe

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_text

PathName = Union[str, "os.PathLike[str]"]

MODEL_TYPES = ("bpe", "unigram")
NORMALIZATIONS = ("none", "nfkc")

_LOGGER = logging.getLogger("keras_transformer")

# The longest line that SentencePiece learns from. Its default of 4,192 bytes drops longer lines
# without a word.
_LONGEST_LINE_BYTES = 2**30

# SentencePiece's mark of a rare character, and how we write it in text to learn from.
_RARE_MARK, _RARE = "\u2585".encode(), b"\0"

# White space and letters that normalisation would change, a character that no alphabet covers, and
# the words that a foreign model may take for its special pieces.
_PROBE = (
    "  two  Spaces\t\u2028\u00ad \N{LATIN SMALL LIGATURE FI} \N{EXTRATERRESTRIAL ALIEN} <s></s> "
)
_NORMALIZATION_OF_PROBED = {_PROBE: "none", unicodedata.normalize("NFKC", _PROBE): "nfkc"}


class SubwordTokenizer:
    """Splits text into sub-words and joins them again without losing a character.

    `decode(encode(line)) == line` for every line of valid UTF-8 without U+2581, the character
    that SentencePiece writes for a space: text is not normalised, white space is kept, and a
    character outside the alphabet is spelled in bytes. With `normalization="nfkc"`,
    `decode(encode(line)) == normalize(line)`. Padding is id 0, unknown 1 (never produced,
    thanks to the bytes), start 2 and end 3; none of them can be written in text: "</s>" is three
    or more ordinary sub-words.

    `encode` and `decode` work on Python strings and need no TensorFlow. `tokenize` and
    `detokenize` give the same answers inside the TensorFlow graph, and import TensorFlow Text when
    first used.

    Source: sub-words shared by both languages, section 5.1 of the paper (byte-pair encoding).

    Args:
        serialized_model: The bytes of a SentencePiece model, as `serialized_model` returns them.

    Raises:
        InputError: The bytes are no SentencePiece model, or one that doesn't keep the text.

    Example:
        >>> tokenizer = SubwordTokenizer.train(["train.en", "train.de"], vocabulary_size=10_000)
        >>> tokenizer.decode(tokenizer.encode("A man rides a bicycle."))
        'A man rides a bicycle.'
    """

    padding_id = 0
    unknown_id = 1
    start_id = 2
    end_id = 3

    def __init__(self, serialized_model: bytes):
        self._processor, self._normalization = _processor_and_normalization(serialized_model)
        self._serialized_model = serialized_model
        self._graph_tokenizer = None
        self._sampler = None

    def __reduce__(self):
        # All else is made from this, and TensorFlow's part of it belongs to one process.
        return type(self), (self._serialized_model,)

    @classmethod
    def train(
        cls,
        files: Iterable[PathName] | PathName,
        vocabulary_size: int,
        model_type: str = "bpe",
        normalization: str = "none",
    ) -> "SubwordTokenizer":
        """Learns sub-words from text files; the same text always gives the same model.

        If the text gives fewer sub-words than `vocabulary_size`, the tokenizer has all that it
        gives, and a warning is logged. U+2585, which SentencePiece reserves for itself, is part of
        no sub-word; it is always spelled in bytes, as rare characters are.

        Args:
            files: The text files, plain or compressed; both languages, for a shared vocabulary.
            vocabulary_size: The number of ids at most: sub-words, 256 bytes and 4 special ids.
            model_type: "bpe" or "unigram".
            normalization: "none" keeps text as it is. "nfkc" makes SentencePiece convert it to
                Unicode's form NFKC first, here and whenever text is encoded: accents are the same
                composed or decomposed, "\ufb01" becomes "fi", and full-width letters usual ones.

        Returns:
            The tokenizer.

        Raises:
            InputError: A file can't be read, a setting is out of range, or the text has too many
                different characters for the vocabulary size.
        """
        if isinstance(files, str | os.PathLike):
            files = [files]
        lines = itertools.chain.from_iterable([read_lines(path) for path in files])
        return cls.train_from_lines(lines, vocabulary_size, model_type, normalization)

    @classmethod
    def train_from_lines(
        cls,
        lines: Iterable[str],
        vocabulary_size: int,
        model_type: str = "bpe",
        normalization: str = "none",
    ) -> "SubwordTokenizer":
        """Learns sub-words from lines of text; see `train`."""
        _check_settings(vocabulary_size, model_type, normalization)
        faults = []
        try:
            learnable = _learnable(lines, faults)
            tokenizer = cls(_train(learnable, vocabulary_size, model_type, normalization))
        except RuntimeError as error:
            if faults:
                raise faults[0] from None
            raise _training_error(str(error), vocabulary_size) from error
        if tokenizer.vocabulary_size < vocabulary_size:
            _LOGGER.warning(
                "vocabulary_size=%d is more than the text gives: the tokenizer has %d sub-words",
                vocabulary_size,
                tokenizer.vocabulary_size,
            )
        return tokenizer

    @classmethod
    def load(cls, path: PathName) -> "SubwordTokenizer":
        """Reads a tokenizer that `save` wrote.

        Raises:
            InputError: The file is missing, a pipe, cut short, or something else.
        """
        refuse_pipe(path)
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise InputError(
                f"{path}: must be a tokenizer that SubwordTokenizer.save wrote. "
                f"Received: {describe_os_error(error)}. Check the path."
            ) from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def save(self, path: PathName) -> None:
        """Writes the tokenizer to a file: all of it, or nothing."""
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
        try:
            unfinished.write_bytes(self._serialized_model)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    @property
    def serialized_model(self) -> bytes:
        """The SentencePiece model as bytes."""
        return self._serialized_model

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, special ids and bytes included."""
        return self._processor.get_piece_size()

    @property
    def normalization(self) -> str:
        """How text is normalised before it is split: "none" or "nfkc"."""
        return self._normalization

    def normalize(self, text: str | Sequence[str]) -> str | list[str]:
        """A line, or each of several lines, as the tokenizer reads it; see `normalization`.

        Raises:
            InputError: A line is no string, or has half of a surrogate pair.
        """
        ids = self.encode(text)
        return self.decode(ids) if ids or isinstance(text, str) else []

    def id_to_piece(self, token_id: int) -> str:
        """The sub-word of an id as SentencePiece writes it: spaces are U+2581, bytes `<0x0A>`."""
        if not 0 <= token_id < self.vocabulary_size:
            raise _id_error(f"token_id={token_id}", self.vocabulary_size)
        return self._processor.id_to_piece(int(token_id))

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        """The sub-words of several ids; see `id_to_piece`."""
        return [self.id_to_piece(token_id) for token_id in token_ids]

    def encode(self, text: str | Sequence[str]) -> list[int] | list[list[int]]:
        """Splits a line into ids, or each of several lines; neither start nor end id is added.

        Args:
            text: A line, or lines.

        Returns:
            The ids of the line, or a list with the ids of each line. Many lines in one call are
            split about ten times faster than one by one.

        Raises:
            InputError: A line is no string, or has half of a surrogate pair.
        """
        try:
            return self._processor.encode(text if isinstance(text, str) else list(text))
        except (RuntimeError, TypeError) as error:
            raise _text_error(text) from error

    def sample(self, lines: Sequence[str], rate: float, *, seed: int) -> list[list[int]]:
        """Splits each of several lines into ids in a way left to chance, for training.

        A model that has seen a word split in several ways learns what its parts mean. The same
        lines with the same seed are split in the same way, in any process; `decode` gives back the
        same text as without chance. See `keras_transformer.text.bpe_dropout`.

        Args:
            lines: The lines.
            rate: For byte-pair encoding, with which probability each possible join is left out, 0
                to 1; 1 leaves single characters. For unigram models, the exponent of a split's
                probability, above 0: the lower, the more the splits differ. 0.1 suits both.
            seed: Which splits, from 0.

        Returns:
            A list with the ids of each line, without start and end ids.

        Raises:
            InputError: A setting is out of range, or a line has half of a surrogate pair.
        """
        if not 0 < rate < math.inf or seed < 0:
            raise InputError(
                "rate must be greater than 0, and seed at least 0. "
                f"Received: rate={rate}, seed={seed}. Choose for example rate=0.1, seed=0."
            )
        sampler = self._sampler
        if sampler is None or sampler.rate != rate:
            sampler = self._sampler = subword_sampler(self._processor, rate)
        if self.normalization != "none":
            lines = self.normalize(lines)
        try:
            return sampler.sample(lines, seed)
        except UnicodeEncodeError as error:
            raise _text_error(lines) from error

    def decode(self, token_ids: Sequence[int] | Sequence[Sequence[int]]) -> str | list[str]:
        """Joins ids into a line, or each of several lists of ids into lines.

        Padding, start and end ids leave no trace. A line break, which no line has but which bytes
        can spell, becomes one space, so that a decoded line is always one line. Bytes that are
        not UTF-8 become U+FFFD.

        Args:
            token_ids: Ids, or lists of ids. An empty list is one empty line.

        Returns:
            The line, or the list of lines.
        """
        token_ids = [_plain(item) for item in token_ids]
        try:
            text = self._processor.decode(token_ids)
        except IndexError as error:
            raise _id_error(f"token_ids={token_ids!r:.200}", self.vocabulary_size) from error
        return _one_line(text) if isinstance(text, str) else [_one_line(line) for line in text]

    @property
    def graph_tokenizer(self) -> "tensorflow_text.SentencepieceTokenizer":
        """The one TensorFlow Text tokenizer behind `tokenize` and `detokenize`: what exports track.

        It is made when first asked for. `keras.utils.set_random_seed`, `tf.random.set_seed` and
        `keras.utils.clear_session` destroy it (TensorFlow drops every kernel, and the tokenizer
        lives in one): seed first, then trace functions that tokenize. Functions and datasets that
        were traced before raise `NotFoundError` from then on and have to be built again; `tokenize`
        and `detokenize` called outside a function make a new one by themselves.

        Raises:
            RuntimeError: In a process forked from one that has used TensorFlow.
        """
        check_not_forked()
        if self._graph_tokenizer is None:
            import tensorflow as tf
            import tensorflow_text

            # Not inside the function being traced, where it would die with it.
            with tf.init_scope(), without_information():
                self._graph_tokenizer = tensorflow_text.SentencepieceTokenizer(
                    model=self._serialized_model, out_type=tf.int32
                )
        return self._graph_tokenizer

    def tokenize(self, text: "tf.Tensor") -> "tf.RaggedTensor":
        """`encode` inside the TensorFlow graph.

        Call arguments:
            text: String (batch,), UTF-8.

        Returns:
            Ragged int32 (batch, length).
        """
        return self._in_graph("tokenize", text)

    def detokenize(self, token_ids: "tf.RaggedTensor | tf.Tensor") -> "tf.Tensor":
        """`decode` inside the TensorFlow graph.

        Call arguments:
            token_ids: Int (batch, length), ragged or padded with the padding id.

        Returns:
            String (batch,), UTF-8.
        """
        import tensorflow as tf

        text = self._in_graph("detokenize", tf.cast(token_ids, tf.int32))  # (batch,)
        return tf.strings.regex_replace(text, _LINE_BREAK, " ")

    def _in_graph(self, method: str, values):
        import tensorflow as tf

        try:
            return getattr(self.graph_tokenizer, method)(values)
        except tf.errors.NotFoundError:  # its kernel was dropped: see graph_tokenizer
            self._graph_tokenizer = None
            return getattr(self.graph_tokenizer, method)(values)


_LINE_BREAK = "\r?\n"


def _one_line(text: str) -> str:
    return re.sub(_LINE_BREAK, " ", text)


def _plain(item):
    """An id or a list of ids as Python numbers, which is all that sentencepiece takes."""
    if isinstance(item, numbers.Integral):
        return int(item)
    return [int(token_id) for token_id in item]


def _processor_and_normalization(
    serialized_model: bytes,
) -> tuple[sentencepiece.SentencePieceProcessor, str]:
    """The model, and which of NORMALIZATIONS it applies.

    Raises:
        InputError: It is no model, or does something else to text.
    """
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=serialized_model)
    except RuntimeError as error:
        raise InputError(
            "a tokenizer must be a whole SentencePiece model. "
            f"Received: {len(serialized_model)} bytes that are none. Train or copy it again."
        ) from error
    special_ids = (
        processor.pad_id(),
        processor.unk_id(),
        processor.bos_id(),
        processor.eos_id(),
    )
    normalization = None
    if special_ids == (0, 1, 2, 3):
        normalization = _NORMALIZATION_OF_PROBED.get(processor.decode(processor.encode(_PROBE)))
    if normalization is None:
        raise InputError(
            "a tokenizer must keep the text, with ids 0 to 3 for padding, unknown, start and end. "
            f"Received: a SentencePiece model with the ids {special_ids} that doesn't. "
            "Use one that SubwordTokenizer.train made."
        )
    return processor, normalization


def _check_settings(vocabulary_size: int, model_type: str, normalization: str) -> None:
    if normalization not in NORMALIZATIONS:
        raise InputError(
            f"normalization must be one of {', '.join(NORMALIZATIONS)}. "
            f"Received: normalization={normalization!r}. Choose normalization='none'."
        )
    if model_type not in MODEL_TYPES:
        raise InputError(
            f"model_type must be one of {', '.join(MODEL_TYPES)}. "
            f"Received: model_type={model_type!r}. Choose model_type='bpe'."
        )
    if not isinstance(vocabulary_size, int) or vocabulary_size < 1:
        raise InputError(
            "vocabulary_size must be a positive whole number. "
            f"Received: vocabulary_size={vocabulary_size!r}. Choose for example 10000."
        )


def _learnable(lines: Iterable[str], faults: list[Exception]) -> Iterator[bytes]:
    """The lines, changed so that SentencePiece drops none.

    It drops each line that contains its own mark for a rare character. A NUL, which it never puts
    into a sub-word either, takes the mark's place. It cannot learn from NULs alone, so a space
    follows them.

    Args:
        lines: Lines to learn from.
        faults: Receives the exception, which SentencePiece replaces with one of its own.

    Raises:
        InputError: A line is no string, or has half of a surrogate pair.
    """
    has_some, is_rare_only = False, True
    try:
        for line in lines:
            data = _as_bytes(line).replace(_RARE_MARK, _RARE)
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


def _as_bytes(line: str) -> bytes:
    try:
        return line.encode("utf-8")
    except (AttributeError, UnicodeEncodeError) as error:
        raise _text_error(line) from error


def _train(
    lines: Iterator[bytes], vocabulary_size: int, model_type: str, normalization: str
) -> bytes:
    """Returns the bytes of a SentencePiece model; only options that every version knows."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        # Fewer than the special ids are refused without saying how many are needed.
        vocab_size=max(vocabulary_size, 4),
        hard_vocab_limit=False,
        model_type=model_type,
        pad_id=SubwordTokenizer.padding_id,
        unk_id=SubwordTokenizer.unknown_id,
        bos_id=SubwordTokenizer.start_id,
        eos_id=SubwordTokenizer.end_id,
        normalization_rule_name={"none": "identity"}.get(normalization, normalization),
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        # The rarest 0.01% of all characters are spelled in bytes. At 1.0 each character that
        # occurs once would hold an embedding that is never learnt, and a Chinese text would need
        # more ids for its characters alone than a small vocabulary has. SentencePiece's 0.9995
        # spells even "Q" and "Ü" of English and German in bytes.
        character_coverage=0.9999,
        # A space that is rarer than that, as in Chinese, would be spelled in the bytes of U+2581
        # and come back as U+2581.
        required_chars="\u2581",
        max_sentence_length=_LONGEST_LINE_BYTES,
        num_threads=1,  # the sums of "unigram", and so its pieces, depend on how work is split
        minloglevel=2,
    )
    return model.getvalue()


def _training_error(message: str, vocabulary_size: int) -> InputError:
    received = f"Received: vocabulary_size={vocabulary_size}"
    if smallest := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return InputError(
            "vocabulary_size must hold 4 special ids, 256 bytes and the text's characters. "
            f"{received}, and the text needs {smallest[1]}. "
            f"Choose vocabulary_size={smallest[1]} or more."
        )
    if "sentences_.empty()" in message:
        return InputError(
            "lines must hold some text. Received: no line that is not empty. Check the text."
        )
    return InputError(
        f"SentencePiece must be able to learn from the text. {received}, and it says: {message!r}. "
        "Check the text and the settings."
    )


def _text_error(text) -> InputError:
    return InputError(
        "text must be a string, or strings, that UTF-8 can write. "
        f"Received: text={text!a:.200}. Pass str without half surrogate pairs."
    )


def _id_error(received: str, vocabulary_size: int) -> InputError:
    return InputError(
        f"ids must be at least 0 and less than the vocabulary size of {vocabulary_size}. "
        f"Received: {received}. Use the tokenizer that the ids came from."
    )
