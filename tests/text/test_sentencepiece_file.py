"""A malicious SentencePiece model is refused before a library reads it."""

import io
import struct

import numpy as np
import pytest
import sentencepiece

from keras_transformer.errors import InputError
from keras_transformer.text.sentencepiece_file import check_sentencepiece_model
from keras_transformer.text.subword_tokenizer import SubwordTokenizer

LINES = ["the cat sat on the mat", "a dog ran to the fine old house", "Übermut tut selten gut"]


def trained(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 100, **options},
    )
    return model.getvalue()


def varint(number):
    data = b""
    while number >= 0x80:
        data += bytes([number & 0x7F | 0x80])
        number >>= 7
    return data + bytes([number])


def field(number, value):
    """Encodes a field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text, score=0.0, kind=None):
    data = field(1, text) + field(2, score) + (b"" if kind is None else field(3, kind))
    return field(1, data)


def model_of(*pieces, trainer=b"", normalizer=b"", more=b""):
    pieces = pieces or (piece(b"a"),)
    return (
        b"".join([piece(b"<unk>", 0.0, 2), *pieces])
        + field(2, trainer)
        + field(3, normalizer)
        + more
    )


def rules(units, replacements=b"x\0", size=None):
    """Encodes normalization rules."""
    units = np.array(units, "<u4").tobytes()
    size = len(units) if size is None else size
    return field(2, struct.pack("<I", size) + units + replacements)


def inner(label, offset, leaf=False):
    """Returns a unit of a double array."""
    return offset << 10 | leaf << 8 | label


def array(changes, length=256):
    """Returns a double array whose other units are ends of rules."""
    units = np.full(length, 2**31, "u4")
    for place, unit in changes.items():
        units[place] = unit
    return units


@pytest.mark.parametrize("model_type", ["bpe", "unigram", "char", "word"])
@pytest.mark.parametrize("rule", ["identity", "nfkc", "nmt_nfkc", "nmt_nfkc_cf"])
def test_any_model_that_sentencepiece_trains_is_accepted(model_type, rule):
    options = {"model_type": model_type, "normalization_rule_name": rule}
    check_sentencepiece_model(trained(**options))
    if model_type in ("bpe", "unigram"):
        options |= {"byte_fallback": True, "vocab_size": 400, "user_defined_symbols": ["<a>", "é"]}
        check_sentencepiece_model(trained(**options))


def test_a_model_as_small_as_it_gets_is_accepted():
    check_sentencepiece_model(model_of())
    check_sentencepiece_model(model_of(field(1, field(2, -1.0) + field(1, b"a" * 1000))))
    sentencepiece.SentencePieceProcessor(model_proto=model_of())


# A rule from "a" to "x": the root's children are at 1 XOR their labels.
RULE = {0: inner(0, 1), 1 ^ 0x61: inner(0x61, 0x20 ^ 1 ^ 0x61, leaf=True), 0x20: 1 << 31}


def test_rules_are_accepted():
    model = model_of(normalizer=rules(array(RULE)))
    check_sentencepiece_model(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert processor.normalize("banana").endswith("bxnxnx")


ROUND = {0: inner(0, 1), 1 ^ 0x61: inner(0x61, 0x60 ^ 1, leaf=False)}
HOSTILE = {
    "nothing": b"",
    "text": b"the cat sat on the mat",
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00",
    "a length beyond the end": b"\x0a\x05ab",
    "a length of 2**62": b"\x0a" + varint(2**62),
    "a number without an end": b"\x0a" + b"\xff" * 11,
    "an unknown field": model_of(more=field(6, b"")),
    "an extension": model_of(more=field(200, b"")),
    "a field of another type": model_of(more=field(2, 1)),
    "a group": model_of(more=b"\x0b\x0c"),
    "an unknown field of a piece": model_of(field(1, field(1, b"a") + field(4, 1))),
    "a text twice": model_of(field(1, field(1, b"a") + field(1, b"b"))),
    "an unknown setting": model_of(trainer=field(60, 1)),
    "a setting twice": model_of(trainer=field(3, 1) + field(3, 2)),
    "a long text for the unknown piece": model_of(trainer=field(44, b"x" * 1001)),
    "an infinite setting": model_of(trainer=field(10, float("inf"))),
    "settings twice": model_of(more=field(2, b"")),
    "an unknown type of model": model_of(trainer=field(3, 7)),
    "self-tests": model_of(more=field(4, field(1, field(1, b"a")))),
    "no pieces": field(2, b""),
    "an empty piece": model_of(piece(b"")),
    "a piece without a text": model_of(field(1, field(2, 1.0))),
    "a long piece": model_of(piece(b"a" * 1001)),
    "a piece that is not UTF-8": model_of(piece(b"\xc3"), piece(b"\xa9")),
    "a surrogate": model_of(piece(b"\xed\xa0\x80")),
    "a NUL": model_of(piece(b"a\0b")),
    "a piece twice": model_of(piece(b"a"), piece(b"a", 1.0, 4)),
    "a score of infinity": model_of(piece(b"a", float("inf"))),
    "a score that is no number": model_of(piece(b"a", float("nan"))),
    "a huge score": model_of(piece(b"a", 1e30)),
    "an unknown type of piece": model_of(piece(b"a", 0.0, 7)),
    "the type 0": model_of(piece(b"a", 0.0, 0)),
    "two unknown pieces": model_of(piece(b"a", 0.0, 2)),
    "no unknown piece": piece(b"a"),
    "a byte without fallback": model_of(piece(b"<0x41>", 0.0, 6)),
    "fallback without bytes": model_of(piece(b"<0x41>", 0.0, 6), trainer=field(35, 1)),
    "nested pieces": model_of(*(piece(b"a" * n, 0.0, 4) for n in range(1, 66))),
    "rules of two bytes": model_of(normalizer=field(2, b"\0\4")),
    "rules larger than they are": model_of(normalizer=rules(array(RULE), size=2**31)),
    "rules that do not fill blocks": model_of(normalizer=rules(array(RULE)[:200])),
    "rules without replacements": model_of(normalizer=rules(array(RULE), b"")),
    "a replacement without an end": model_of(normalizer=rules(array(RULE), b"x")),
    "a replacement that is not UTF-8": model_of(normalizer=rules(array(RULE), b"\xff\0")),
    "a long replacement": model_of(normalizer=rules(array(RULE), b"x" * 300 + b"\0")),
    "a replacement outside": model_of(normalizer=rules(array(RULE | {0x20: 1 << 31 | 2**20}))),
    "a replacement within one": model_of(
        normalizer=rules(array(RULE | {0x20: 1 << 31 | 1}), b"xy\0")
    ),
    "rules outside": model_of(normalizer=rules(array(RULE | {0: inner(0, 2**20)}))),
    "a root outside": model_of(normalizer=rules(array(RULE | {0: 1 << 31 | 0x7FFFFE00}))),
    "rules in a circle": model_of(normalizer=rules(array(ROUND))),
}


@pytest.mark.parametrize("model", HOSTILE.values(), ids=HOSTILE)
def test_a_malicious_model_is_refused(model):
    message = r"^a tokenizer must be a whole SentencePiece model, .* Received: .* bytes: .*\.$"
    with pytest.raises(InputError, match=message) as error:
        SubwordTokenizer(model)
    assert "\n" not in str(error.value)


def test_the_number_of_pieces_is_limited(tmp_path):
    tokenizer = SubwordTokenizer.train_from_lines(LINES, 300)
    tokenizer.save(tmp_path / "tokenizer.model")
    size = tokenizer.vocabulary_size
    assert SubwordTokenizer.load(tmp_path / "tokenizer.model", most_ids=size)
    with pytest.raises(InputError, match=rf"tokenizer\.model: .* more than {size - 1} pieces"):
        SubwordTokenizer.load(tmp_path / "tokenizer.model", most_ids=size - 1)


def test_a_file_of_any_size_takes_bounded_memory(tmp_path):
    path = tmp_path / "large.model"
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"large\.model: .* 262,144 pieces may have at most 13,6"):
        SubwordTokenizer.load(path)
    with pytest.raises(InputError, match=r"large\.model: .* 5 pieces may have at most 1,048,816"):
        SubwordTokenizer.load(path, most_ids=5)
    with pytest.raises(InputError, match=r"large\.model: .* 262,144 pieces may have"):
        SubwordTokenizer.load(path, most_ids=2**31)
