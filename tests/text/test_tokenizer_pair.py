"""A tokenizer for each side, and the file that holds both."""

import copy
import io
import json
import pickle
import zipfile

import pytest

from keras_transformer.errors import InputError
from keras_transformer.marian.import_marian import import_marian
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from keras_transformer.text.tokenizer_pair import TokenizerPair, load_tokenizer, tokenizer_from
from tests.marian.folders import MODELS
from tests.mutated_bytes import KINDS, mutants

SOURCE = SubwordTokenizer.train_from_lines(["one two three one two"], 300)
TARGET = SubwordTokenizer.train_from_lines(["eins zwei drei eins zwei"], 290)


@pytest.fixture(scope="module", params=["own", "marian"])
def pair(request):
    if request.param == "own":
        return TokenizerPair(SOURCE, TARGET)
    return import_marian(MODELS / "separate", punctuation=("fr", None)).tokenizer


def answers(pair):
    text = "one « two » three"
    return pair.source.encode(text), pair.target.encode(text), pair.serialized_model


def test_each_side_has_its_own_sub_words():
    pair = TokenizerPair(SOURCE, TARGET)
    assert pair.source.encode("one two") == SOURCE.encode("one two")
    assert pair.target.encode("eins") == TARGET.encode("eins")
    assert pair.source_vocabulary_size == SOURCE.vocabulary_size
    assert pair.vocabulary_size == TARGET.vocabulary_size
    assert not pair.shares_vocabulary
    assert TokenizerPair(SOURCE, SOURCE).shares_vocabulary


def test_one_tokenizer_is_the_same_on_both_sides():
    assert SOURCE.source is SOURCE.target is SOURCE
    assert SOURCE.shares_vocabulary
    assert SOURCE.source_vocabulary_size == SOURCE.vocabulary_size


def test_a_saved_pair_is_equal(pair, tmp_path):
    pair.save(tmp_path / "tokenizer.model")
    assert answers(load_tokenizer(tmp_path / "tokenizer.model")) == answers(pair)
    assert answers(TokenizerPair.load(tmp_path / "tokenizer.model")) == answers(pair)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]


def test_copies_and_pickles_are_equal(pair):
    for twin in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert answers(twin) == answers(pair)


def test_a_file_of_one_tokenizer_is_read_too(tmp_path):
    path = tmp_path / "tokenizer.model"
    SOURCE.save(path)
    assert load_tokenizer(path).encode("one") == SOURCE.encode("one")
    with pytest.raises(InputError, match=r"must hold a pair of tokenizers\. Received: one"):
        TokenizerPair.load(path)


def members(pair):
    with zipfile.ZipFile(io.BytesIO(pair.serialized_model)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(parts, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return file.getvalue()


PAIR = members(TokenizerPair(SOURCE, TARGET))


def about(**changes):
    return {**PAIR, "pair.json": json.dumps({**json.loads(PAIR["pair.json"]), **changes})}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zipped(PAIR)[:-30], "does not end as"),
        (zipped(PAIR, zipfile.ZIP_DEFLATED), "compressed"),
        (zipped({**PAIR, "other.spm": b""}), "an archive of"),
        (zipped({"pair.json": b"{}"}), "an archive of"),
        (zipped({**PAIR, "pair.json": b"{"}), r"pair\.json that does not describe"),
        (zipped({**PAIR, "pair.json": b"[" * 100_000}), r"pair\.json that does not describe"),
        (zipped({**PAIR, "pair.json": b"[" * 1_200_000}), r"pair\.json of more than"),
        (zipped(about(format=2)), "format 2, of a later version"),
        (zipped(about(source=7)), r"pair\.json that does not describe"),
        (zipped(about(source={"pieces": 7, "punctuation": None})), "does not describe"),
        (zipped(about(source={"pieces": None, "punctuation": 7})), "does not describe"),
        (zipped(about(source={"pieces": ["a"] * 5, "punctuation": None})), "a vocabulary must"),
        (zipped(about(source={"pieces": ["a"] * 400, "punctuation": None})), "400 pieces where"),
        (zipped({**PAIR, "source.spm": b"\x00" * 9}), "a whole SentencePiece model"),
    ],
)
def test_a_damaged_file_is_refused(data, message, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        load_tokenizer(path, most_ids=300)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_tokenizer(tmp_path / "nothing")


def test_a_file_larger_than_the_model_allows_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"PK\x03\x04" + bytes(2**26))
    with pytest.raises(InputError, match="more than"):
        load_tokenizer(path, most_ids=300)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_or_read_but_never_crashes(kind):
    content = TokenizerPair(SOURCE, TARGET).serialized_model
    for mutant in list(mutants(content, kind))[:100]:
        try:
            tokenizer_from(mutant)
        except InputError as error:
            assert "\n" not in str(error)
