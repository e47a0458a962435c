"""Checks the bytes of a SentencePiece model before a library reads them.

SentencePiece before 0.2.1, and the copies of it in TensorFlow Text and TensorFlow Serving, read
or write outside their memory if a model is malicious. This reader knows the fields that
SentencePiece writes and refuses everything else. It takes time and memory in proportion to the
bytes.

Source: `sentencepiece_model.proto`, `normalizer.cc` and `model_interface.cc` of SentencePiece, and
the double array of `darts.h`, in which the model's normalization rules are stored.
"""

import math
import struct
from collections.abc import Iterable, Iterator

import numpy as np

from keras_transformer.errors import InputError

MOST_PIECES = 2**18

# SentencePiece takes over a second per MiB of pieces. Trained ones have 16 characters at most.
_BYTES_PER_PIECE = 48
_OTHER_BYTES = 2**20  # settings and normalization rules, of which NFKC's have 240 KB

# SentencePiece looks for at most 1,024 pieces that begin at the same place.
_LONGEST_TEXT_BYTES = 1000
# It has room for a chain of 64 user-defined pieces, or of 32 rules, that each begin the next.
MOST_NESTED_PIECES = 64
_MOST_NESTED_RULES = 32

_LONGEST_REPLACEMENT_BYTES = 256
_LARGEST_SCORE = 1e9

_NUMBER, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # the wire types of protocol buffers
_FIXED_BYTES = {_DOUBLE: 8, _FLOAT: 4}

_PIECES, _TRAINER, _NORMALIZER, _SELF_TEST, _DENORMALIZER = 1, 2, 3, 4, 5
_NORMAL, _UNKNOWN, _USER_DEFINED, _BYTE = 1, 2, 4, 6
_PIECE_TYPES = range(1, 7)
_BYTE_PIECES = {f"<0x{byte:02X}>".encode() for byte in range(256)}

# The fields of each message by number, with their wire types.
_MODEL_FIELDS = dict.fromkeys((_PIECES, _TRAINER, _NORMALIZER, _SELF_TEST, _DENORMALIZER), _BYTES)
_PIECE_FIELDS = {1: _BYTES, 2: _FLOAT, 3: _NUMBER}
_MODEL_TYPE, _BYTE_FALLBACK = 3, 35
_TRAINER_FIELDS = (
    dict.fromkeys((3, 4, 6, *range(11, 15), *range(16, 27), *range(32, 36)), _NUMBER)
    | dict.fromkeys((*range(40, 44), 49, 50, 52, 55), _NUMBER)
    | dict.fromkeys((1, 2, 5, 7, 30, 31, 36, *range(44, 49), 53, 54), _BYTES)
    | dict.fromkeys((10, 15, 51), _FLOAT)
)
_TRAINER_LISTS = (1, 5, 30, 31)
_REQUIRED_CHARACTERS, _CHARSMAP = 36, 2
_NORMALIZER_FIELDS = {1: _BYTES, _CHARSMAP: _BYTES, 3: _NUMBER, 4: _NUMBER, 5: _NUMBER, 6: _BYTES}


class _Malformed(Exception):
    """Says what is wrong with the bytes."""


def most_bytes(most_pieces: int) -> int:
    """Returns the most bytes that a model of so many pieces may have."""
    return _OTHER_BYTES + _BYTES_PER_PIECE * min(most_pieces, MOST_PIECES)


def check_sentencepiece_model(model: bytes, *, most_pieces: int = MOST_PIECES) -> None:
    """Refuses bytes that are not a SentencePiece model as SentencePiece writes it.

    Args:
        model: The bytes.
        most_pieces: The most pieces that the model may have; never more than `MOST_PIECES`.

    Raises:
        InputError: The bytes are something else, or exceed a limit.
    """
    try:
        _check(model, min(most_pieces, MOST_PIECES))
    except _Malformed as fault:
        raise InputError(
            "a tokenizer must be a whole SentencePiece model, as SentencePiece writes it. Received:"
            f" {len(model):,} bytes: {fault}. Train or copy it again."
        ) from None


def user_defined_pieces(model: bytes) -> list[str]:
    """Returns the symbols in a model, checked before, that are never split."""
    fields = _fields(model, _MODEL_FIELDS, "the model")
    pieces = (_piece(value) for number, value, _ in fields if number == _PIECES)
    return [text.decode() for text, _, kind in pieces if kind == _USER_DEFINED]


def num_nested(texts: Iterable[bytes]) -> int:
    """Returns the most different texts that each begin the next."""
    nested: list[bytes] = []
    most = 0
    for text in sorted(texts):
        while nested and not text.startswith(nested[-1]):
            nested.pop()
        nested.append(text)
        most = max(most, len(nested))
    return most


def _check(model: bytes, most_pieces: int) -> None:
    most = most_bytes(most_pieces)
    _require(len(model) <= most, f"{most_pieces:,} pieces may have at most {most:,}")
    pieces: list[tuple[bytes, bytes, int]] = []
    parts: dict[int, bytes] = {}
    for number, value, _ in _fields(model, _MODEL_FIELDS, "the model"):
        if number == _PIECES:
            _require(len(pieces) < most_pieces, f"there are more than {most_pieces:,} pieces")
            pieces.append(_piece(value))
        else:
            _require(number not in parts, f"the model has field {number} twice")
            parts[number] = value
    _require(not parts.get(_SELF_TEST), "there are self-tests, which are not supported")
    trainer, _ = _message(
        parts.get(_TRAINER, b""),
        _TRAINER_FIELDS,
        "trainer_spec",
        long=_REQUIRED_CHARACTERS,
        lists=_TRAINER_LISTS,
    )
    _require(trainer.get(_MODEL_TYPE, 1) in range(1, 5), "the model's type is unknown")
    byte_fallback = trainer.get(_BYTE_FALLBACK, 0)
    _require(byte_fallback in (0, 1), "byte_fallback is neither 0 nor 1")
    _check_pieces(pieces, bool(byte_fallback))
    for number in (_NORMALIZER, _DENORMALIZER):
        _, rules = _message(
            parts.get(number, b""), _NORMALIZER_FIELDS, "normalizer_spec", long=_CHARSMAP
        )
        if rules.get(_CHARSMAP):
            _check_charsmap(rules[_CHARSMAP])


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise _Malformed(fault)


def _fields(data: bytes, known: dict[int, int], name: str) -> Iterator[tuple[int, bytes, int]]:
    """Yields the number of each field with its bytes, or with its value if it is a whole number."""
    place, end = 0, len(data)
    while place < end:
        tag = data[place]
        tag, place = (tag, place + 1) if tag < 0x80 else _varint(data, place)
        number, wire_type = tag >> 3, tag & 7
        if known.get(number) != wire_type:
            raise _Malformed(f"{name} has an unknown field")
        if wire_type == _NUMBER:
            value, place = _varint(data, place)
            yield number, b"", value
            continue
        size = _FIXED_BYTES.get(wire_type)
        if size is None:
            size, place = _varint(data, place)
        start, place = place, place + size
        if place > end:
            raise _Malformed(f"{name} is cut short")
        yield number, data[start:place], 0


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Reads a number of 1 to 10 bytes; returns it and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _Malformed("a number is cut short")


def _message(
    data: bytes, known: dict[int, int], name: str, *, long: int, lists: Iterable[int] = ()
) -> tuple[dict[int, int], dict[int, bytes]]:
    """Reads a message of settings.

    Args:
        data: The message.
        known: Its fields, with their wire types.
        name: Its name, for errors.
        long: The field whose text may be long. Others may not: the text of the unknown piece, for
            example, is repeated in translations.
        lists: The fields that may occur more than once.

    Returns:
        The whole numbers, and the texts and bytes, by field.
    """
    numbers: dict[int, int] = {}
    texts: dict[int, bytes] = {}
    seen = set()
    for number, part, value in _fields(data, known, name):
        _require(number not in seen or number in lists, f"{name} has field {number} twice")
        seen.add(number)
        if known[number] == _NUMBER:
            numbers[number] = value
        elif known[number] == _FLOAT:
            is_finite = math.isfinite(*struct.unpack("<f", part))
            _require(is_finite, f"{name} has a number that is not finite")
        else:
            is_short = number == long or len(part) <= _LONGEST_TEXT_BYTES
            _require(is_short, f"{name} has a text that is too long")
            texts[number] = part
    return numbers, texts


def _piece(data: bytes) -> tuple[bytes, bytes, int]:
    """Returns the text, the score's bytes and the type of a piece."""
    # The form that SentencePiece writes, without a loop: 0x0A LENGTH TEXT 0x15 SCORE [0x18 TYPE].
    if len(data) > 8 and data[0] == 0x0A:
        after = data[1] + 2
        rest = len(data) - after
        if data[1] < 0x80 and rest in (5, 7) and data[after] == 0x15:
            if rest == 5:
                return data[2:after], data[after + 1 :], _NORMAL
            if data[after + 5] == 0x18:
                return data[2:after], data[after + 1 : after + 5], data[after + 6]
    text, score, kind, seen = b"", bytes(4), _NORMAL, set()
    for number, part, value in _fields(data, _PIECE_FIELDS, "a piece"):
        _require(number not in seen, f"a piece has field {number} twice")
        seen.add(number)
        if number == 1:
            text = part
        elif number == 2:
            score = part
        else:
            kind = value
    return text, score, kind


def _check_pieces(pieces: list[tuple[bytes, bytes, int]], byte_fallback: bool) -> None:
    _require(bool(pieces), "there are no pieces")
    texts, scores, types = zip(*pieces, strict=True)
    _require(min(map(len, texts)) > 0, "a piece is empty")
    longest = max(map(len, texts))
    _require(
        longest <= _LONGEST_TEXT_BYTES, f"a piece is longer than {_LONGEST_TEXT_BYTES:,} bytes"
    )
    # A line break cannot belong to another character, so it keeps pieces apart.
    joined = b"\n".join(texts)
    _require(_is_utf_8(joined), "a piece is not UTF-8")
    _require(b"\0" not in joined, "a piece has the character NUL")
    _require(len(set(texts)) == len(texts), "a piece is there twice")
    _require(set(types) <= set(_PIECE_TYPES), "a piece has an unknown type")
    with np.errstate(invalid="ignore"):
        sizes = np.abs(np.frombuffer(b"".join(scores), "<f4"))
        _require(bool(np.all(sizes <= _LARGEST_SCORE)), "a score is too large or not finite")
    _require(types.count(_UNKNOWN) == 1, "not exactly one piece is the unknown one")
    spelled = {text for text, kind in zip(texts, types, strict=True) if kind == _BYTE}
    _require(
        spelled == (_BYTE_PIECES if byte_fallback else set()),
        "the pieces for single bytes do not fit byte_fallback",
    )
    symbols = (text for text, kind in zip(texts, types, strict=True) if kind == _USER_DEFINED)
    _require(num_nested(symbols) <= MOST_NESTED_PIECES, "too many pieces begin one another")


def _check_charsmap(data: bytes) -> None:
    """Checks normalization rules: the size of a double array, the array, and replacements.

    The array is a trie in units of 32 bits. Bit 31 marks the end of a rule; the other bits are then
    the place of its replacement. Without it, bits 0 to 7 are the unit's label, bit 8 says whether a
    rule ends here, and the rest leads to the children.
    """
    size = int.from_bytes(data[:4], "little")
    is_whole = size >= 1024 and size % 1024 == 0 and 4 + size < len(data)
    _require(is_whole, "the size of the normalization rules is wrong")
    units = np.frombuffer(data, "<u4", size // 4, 4)
    replacements = data[4 + size :]
    is_text = replacements[-1] == 0 and _is_utf_8(replacements)
    _require(is_text, "a rule's replacement is damaged")
    is_end = np.frombuffer(replacements, "u1") == 0
    sizes = np.diff(np.flatnonzero(is_end), prepend=-1)
    _require(sizes.max() <= 1 + _LONGEST_REPLACEMENT_BYTES, "a rule's replacement is too long")
    is_inner = units >> 31 == 0
    is_inner[0] = True  # the root, whatever it says
    places = np.arange(len(units), dtype="u4")
    # A child's place is its parent's base XOR the child's label.
    bases = places ^ (units >> 10 << ((units & 0x200) >> 6))
    _require(bool(np.all(bases[is_inner] < len(units))), "a rule leads outside the rules")
    values = units[bases[is_inner & (units >> 8 & 1 == 1)]] & 0x7FFFFFFF
    is_start = np.roll(is_end, 1)
    _require(
        bool(np.all(values < len(is_start)) and np.all(is_start[values])),
        "a rule has a place where no replacement begins",
    )
    _check_depth(bases, places ^ (units & 0xFF), is_inner)


def _check_depth(bases: np.ndarray, parents: np.ndarray, is_inner: np.ndarray) -> None:
    """Refuses circles, and rules longer than may be nested, by following all rules at once."""
    reached = np.zeros(len(bases), bool)
    reached[0] = True
    for _ in range(_MOST_NESTED_RULES + 1):
        is_base = np.zeros(len(bases), bool)
        is_base[bases[reached]] = True
        reached = is_inner & is_base[parents]
        if not reached.any():
            return
    raise _Malformed("a rule is too long or leads back to itself")


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
