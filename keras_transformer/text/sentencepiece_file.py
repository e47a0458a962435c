"""Checks the bytes of a SentencePiece model before a library reads them.

SentencePiece before 0.2.1, and the copies of it in TensorFlow Text and TensorFlow Serving, read
outside their memory if a model is malicious. This reader knows the fields that SentencePiece writes
and refuses everything else. It takes time and memory in proportion to the bytes.

Source: `sentencepiece_model.proto`, `normalizer.cc` and `model_interface.cc` of SentencePiece, and
the double array of `darts.h`, in which the model's normalization rules are stored.
"""

import math
import struct
from collections.abc import Iterable, Iterator

import numpy as np

from keras_transformer.errors import InputError

MOST_BYTES = 64 * 2**20
MOST_PIECES = 2**20

# SentencePiece looks for at most 1,024 pieces that begin at the same place.
_LONGEST_PIECE_BYTES = 1000
# It has room for 64 pieces of the user that begin another, and for 32 rules that do.
_MOST_NESTED_PIECES = 64
_MOST_NESTED_RULES = 32

_LONGEST_SETTING_BYTES = 4 * 2**20
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
_CHARSMAP = 2
_NORMALIZER_FIELDS = {1: _BYTES, _CHARSMAP: _BYTES, 3: _NUMBER, 4: _NUMBER, 5: _NUMBER, 6: _BYTES}


class _Malformed(Exception):
    """Says what is wrong with the bytes."""


def check_sentencepiece_model(model: bytes, *, most_pieces: int = MOST_PIECES) -> None:
    """Refuses bytes that are not a SentencePiece model as SentencePiece writes it.

    Args:
        model: The bytes.
        most_pieces: The most pieces that the model may have.

    Raises:
        InputError: The bytes are something else, or exceed a limit.
    """
    try:
        _check(model, most_pieces)
    except _Malformed as fault:
        raise InputError(
            "a tokenizer must be a whole SentencePiece model, as SentencePiece writes it. Received:"
            f" {len(model):,} bytes in which {fault}. Train or copy it again."
        ) from None


def _check(model: bytes, most_pieces: int) -> None:
    _require(len(model) <= MOST_BYTES, f"more than the {MOST_BYTES:,} that are allowed are")
    pieces: list[tuple[bytes, bytes, int]] = []
    parts: dict[int, bytes] = {}
    for number, value, _ in _fields(model, _MODEL_FIELDS, "the model"):
        if number == _PIECES:
            _require(len(pieces) < most_pieces, f"there are more than {most_pieces:,} pieces")
            pieces.append(_piece(value))
        else:
            _require(number not in parts, f"field {number} of the model is there twice")
            parts[number] = value
    _require(not parts.get(_SELF_TEST), "there are self-tests, which are not supported")
    trainer, _ = _message(parts.get(_TRAINER, b""), _TRAINER_FIELDS, "trainer_spec", _TRAINER_LISTS)
    _require(trainer.get(_MODEL_TYPE, 1) in range(1, 5), "the model's type is unknown")
    byte_fallback = trainer.get(_BYTE_FALLBACK, 0)
    _require(byte_fallback in (0, 1), "byte_fallback is neither 0 nor 1")
    _check_pieces(pieces, bool(byte_fallback))
    for number in (_NORMALIZER, _DENORMALIZER):
        _, rules = _message(parts.get(number, b""), _NORMALIZER_FIELDS, "normalizer_spec")
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
    data: bytes, known: dict[int, int], name: str, lists: Iterable[int] = ()
) -> tuple[dict[int, int], dict[int, bytes]]:
    """Reads a message of settings; fields not in `lists` may occur once.

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
            _require(math.isfinite(*struct.unpack("<f", part)), f"{name} has a number not finite")
        else:
            _require(len(part) <= _LONGEST_SETTING_BYTES, f"{name} has a text that is too long")
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
    _require(
        max(map(len, texts)) <= _LONGEST_PIECE_BYTES,
        f"a piece is longer than {_LONGEST_PIECE_BYTES:,} bytes",
    )
    # A line break cannot belong to another character, so it keeps pieces apart.
    joined = b"\n".join(texts)
    _require(_is_utf_8(joined), "a piece is not UTF-8")
    _require(b"\0" not in joined, "a piece has the character NUL")
    _require(len(set(texts)) == len(texts), "a piece is there twice")
    _require(set(types) <= set(_PIECE_TYPES), "a piece has an unknown type")
    with np.errstate(invalid="ignore"):
        sizes = np.abs(np.frombuffer(b"".join(scores), "<f4"))
        _require(bool(np.all(sizes <= _LARGEST_SCORE)), "a score is not finite or too large")
    _require(types.count(_UNKNOWN) == 1, "there is not exactly one unknown piece")
    spelled = {text for text, kind in zip(texts, types, strict=True) if kind == _BYTE}
    _require(
        spelled == (_BYTE_PIECES if byte_fallback else set()),
        "the pieces for single bytes do not fit byte_fallback",
    )
    _check_nesting(text for text, kind in zip(texts, types, strict=True) if kind == _USER_DEFINED)


def _check_nesting(texts: Iterable[bytes]) -> None:
    nested: list[bytes] = []
    for text in sorted(texts):
        while nested and not text.startswith(nested[-1]):
            nested.pop()
        nested.append(text)
        _require(len(nested) <= _MOST_NESTED_PIECES, "too many pieces begin other ones")


def _check_charsmap(data: bytes) -> None:
    """Checks normalization rules: the size of a double array, the array, and replacements.

    Each unit of 32 bits of the array has a label of 8 bits, the bit 8 if a rule ends there, the
    bit 9 and above the distance to its children, by XOR, or the bit 31 if it is a rule's end: the
    place of its replacement.
    """
    size = int.from_bytes(data[:4], "little")
    is_whole = size >= 1024 and size % 1024 == 0 and 4 + size < len(data)
    _require(is_whole, "the sizes of the rules do not fit")
    units = np.frombuffer(data, "<u4", size // 4, 4)
    replacements = data[4 + size :]
    _require(
        replacements[-1] == 0 and _is_utf_8(replacements), "the rules' replacements are damaged"
    )
    longest = max(map(len, replacements.split(b"\0")))
    _require(longest <= _LONGEST_REPLACEMENT_BYTES, "a rule's replacement is too long")
    is_inner = units >> 31 == 0
    is_inner[0] = True  # the root, whatever it says
    places = np.arange(len(units), dtype="u4")
    # Children are at these places XOR their label.
    bases = places ^ (units >> 10 << ((units & 0x200) >> 6))
    _require(bool(np.all(bases[is_inner] < len(units))), "a rule leads outside the rules")
    values = units[bases[is_inner & (units >> 8 & 1 == 1)]] & 0x7FFFFFFF
    begins = np.frombuffer(b"\0" + replacements[:-1], "u1") == 0
    _require(
        bool(np.all(values < len(begins)) and np.all(begins[values])),
        "a rule's replacement is not where it must be",
    )
    _check_depth(bases, places ^ (units & 0xFF), is_inner)


def _check_depth(bases: np.ndarray, parents: np.ndarray, is_inner: np.ndarray) -> None:
    """Refuses longer rules than may be nested, and circles, by following all rules at once."""
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
