import gzip
import io
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_transformer.errors import InputError
from keras_transformer.text.lines import iterate_lines
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from tests.new_process import output_of

ENGLISH = [
    "The cat sat on the mat, and the cats sat there.",
    "A man rides a bicycle past 17 cafés.",
    "the  man and\tthe bicycle",
    "The bicycle of the man stood at the mat of the cat.",
]
GERMAN = [
    "Die Katze saß auf der Matte.",
    "Ein Mann fährt Fahrrad.",
    "der Mann und das Fahrrad",
    "Das Fahrrad des Mannes stand an der Matte der Katze.",
]

HARD_LINES = [
    "",
    " ",
    "   ",
    " leading and trailing ",
    "two  three   four    spaces",
    "a\ttab\t\tand another\t",
    "a carriage return\rin the middle, and one at the end\r",
    "\x00 \x01\x02 \x1b[0m \x7f",
    "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029",
    "\xa0no\u202fbreak\u3000wide\u200bnone\ufeff",
    "👩‍👩‍👧 🏳️‍🌈 👍🏽 🇰🇷",
    "שלום עולם مرحبا \u202eabc\u202c",
    "한국어 日本語 中文",
    "e\u0301 é ﬁ ﬀ Å Å ½ ² ① ｱ",
    "<s> </s> <unk> <pad>",
    "<s></s><unk><pad><0x41><0x0A>",
    "⁇ \ufffd \ufffe \uffff \U0010ffff",
    "\u2585 ▅▆ \u2585\u2585",
    "x" * 5000,
]

# Ids 0 to 3 are special and the 256 bytes come next, in order.
FIRST_BYTE_ID = 4

lines = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\u2581"))
    | st.sampled_from(["<s>", "</s>", "<unk>", "<pad>", "  ", "\t", "\r", "👩‍👧", "the ", " Mann"])
).map("".join)


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request):
    return SubwordTokenizer.train_from_lines(ENGLISH + GERMAN, 317, request.param)


@pytest.fixture(scope="module")
def serialized_model():
    return SubwordTokenizer.train_from_lines(ENGLISH + GERMAN, 317).serialized_model


def spell(data: bytes) -> list[int]:
    return [FIRST_BYTE_ID + byte for byte in data]


# Round trips


@given(line=lines)
@settings(max_examples=150, deadline=None)
def test_decoding_the_ids_of_a_line_gives_the_line(tokenizer, line):
    assert tokenizer.decode(tokenizer.encode(line)) == line


@pytest.mark.parametrize("line", HARD_LINES, ids=lambda line: ascii(line[:20]))
def test_hard_lines_are_decoded_unchanged(tokenizer, line):
    assert tokenizer.decode(tokenizer.encode(line)) == line


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_spaces_survive_a_tokenizer_trained_without_spaces(model_type):
    tokenizer = SubwordTokenizer.train_from_lines(["日本語の文字列を学ぶ"] * 3, 271, model_type)
    assert tokenizer.decode(tokenizer.encode(" 日本 a  b ")) == " 日本 a  b "


def test_spaces_survive_even_if_rarer_than_characters_spelled_in_bytes():
    tokenizer = SubwordTokenizer.train_from_lines(["x" * 50_000 + " y"], 263)
    assert tokenizer.decode(tokenizer.encode("x x  y ")) == "x x  y "


def test_no_text_is_encoded_with_special_ids(tokenizer):
    text = "<s></s><unk><pad> <s> </s> <unk> <pad> \U0010ffff \x00"
    assert min(tokenizer.encode(text)) >= FIRST_BYTE_ID


def test_ids_of_several_lines_are_the_ids_of_each(tokenizer):
    assert tokenizer.encode(HARD_LINES) == [tokenizer.encode(line) for line in HARD_LINES]


# In the graph


@given(batch=st.lists(lines, max_size=11))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_graph_and_python_agree_on_ids_and_text(tokenizer, batch):
    import tensorflow as tf

    ids = tokenizer.tokenize(tf.constant([line.encode() for line in batch], tf.string))
    assert ids.to_list() == tokenizer.encode(batch)
    assert [line.decode() for line in tokenizer.detokenize(ids).numpy()] == batch


def test_graph_and_python_agree_on_hard_lines(tokenizer):
    ids = tokenizer.tokenize([line.encode() for line in HARD_LINES])
    assert ids.to_list() == tokenizer.encode(HARD_LINES)
    assert [line.decode() for line in tokenizer.detokenize(ids).numpy()] == HARD_LINES


@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_graph_and_python_agree_on_the_text_of_any_ids(tokenizer, data):
    import tensorflow as tf

    any_id = st.integers(0, tokenizer.vocabulary_size - 1) | st.integers(0, FIRST_BYTE_ID + 255)
    ids = data.draw(st.lists(st.lists(any_id, max_size=13), min_size=1, max_size=7))
    in_graph = tokenizer.detokenize(tf.ragged.constant(ids, tf.int32, ragged_rank=1))
    assert [line.decode() for line in in_graph.numpy()] == tokenizer.decode(ids)


def test_detokenize_accepts_padded_ids(tokenizer):
    batch = ["the cat", "", "der Mann und das Fahrrad"]
    padded = tokenizer.tokenize(batch).to_tensor()
    assert [line.decode() for line in tokenizer.detokenize(padded).numpy()] == batch


def test_ids_are_int32_and_the_batch_may_be_empty(tokenizer):
    import tensorflow as tf

    ids = tokenizer.tokenize(tf.zeros([0], tf.string))
    assert ids.dtype == tf.int32
    assert ids.to_list() == []
    assert tokenizer.detokenize(ids).shape == (0,)
    assert tokenizer.detokenize(tf.zeros([0, 5], tf.int32)).shape == (0,)


def test_a_tokenizer_first_used_inside_a_function_works_outside_it_too(serialized_model):
    import tensorflow as tf

    tokenizer = SubwordTokenizer(serialized_model)
    lengths = tf.function(lambda text: tokenizer.tokenize(text).row_lengths())
    expected = [len(ids) for ids in tokenizer.encode(ENGLISH)]
    assert lengths(tf.constant(ENGLISH)).numpy().tolist() == expected
    assert tokenizer.tokenize(ENGLISH).to_list() == tokenizer.encode(ENGLISH)


def test_there_is_one_graph_tokenizer(serialized_model):
    tokenizer = SubwordTokenizer(serialized_model)
    assert tokenizer.graph_tokenizer is tokenizer.graph_tokenizer


def test_seeding_keras_does_not_break_tokenizing(serialized_model):
    import keras

    tokenizer = SubwordTokenizer(serialized_model)
    before = tokenizer.tokenize(ENGLISH).to_list()
    keras.utils.set_random_seed(7)
    assert tokenizer.tokenize(ENGLISH).to_list() == before
    keras.utils.clear_session()
    text = tokenizer.detokenize(tokenizer.tokenize(ENGLISH))
    assert [line.decode() for line in text.numpy()] == ENGLISH


# Normalization


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def nfkc_tokenizer(request):
    return SubwordTokenizer.train_from_lines(ENGLISH + GERMAN, 317, request.param, "nfkc")


@pytest.mark.parametrize(
    ("line", "normalized"),
    [
        ("e\u0301 o\u0308 A\u030a", "é ö Å"),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"),
        ("ﬁ \uff21 \uff11 ① ½ ㍿ ｶﾞ …", "fi A 1 1 1\u20442 株式会社 ガ ..."),
        ("a\u3000b\xa0c\u2003d", "a b c d"),
        (
            "  two  spaces\t\ttabs \r\u2028\u200b\ufeff ",
            "  two  spaces\t\ttabs \r\u2028\u200b\ufeff ",
        ),
        ("\u3000", " "),
        ("", ""),
    ],
    ids=ascii,
)
def test_nfkc_follows_unicode_and_changes_nothing_else(nfkc_tokenizer, line, normalized):
    assert nfkc_tokenizer.normalize(line) == normalized == unicodedata.normalize("NFKC", line)
    assert nfkc_tokenizer.encode(line) == nfkc_tokenizer.encode(normalized)
    assert nfkc_tokenizer.decode(nfkc_tokenizer.encode(line)) == normalized


@given(line=st.text(st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\n\u2581")))
@settings(max_examples=150, deadline=None)
def test_normalized_lines_are_decoded_unchanged(nfkc_tokenizer, line):
    line = unicodedata.normalize("NFKC", line)
    assert nfkc_tokenizer.decode(nfkc_tokenizer.encode(line)) == line


@given(batch=st.lists(lines, max_size=11))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_graph_and_python_agree_on_normalized_text(nfkc_tokenizer, batch):
    import tensorflow as tf

    batch = [*batch, *HARD_LINES, "e\u0301 ﬁ \u3000"]
    ids = nfkc_tokenizer.tokenize(tf.constant([line.encode() for line in batch], tf.string))
    assert ids.to_list() == nfkc_tokenizer.encode(batch)
    text = [line.decode() for line in nfkc_tokenizer.detokenize(ids).numpy()]
    assert text == nfkc_tokenizer.normalize(batch)


def test_without_normalization_text_is_unchanged(tokenizer):
    assert tokenizer.normalization == "none"
    assert tokenizer.normalize(HARD_LINES) == HARD_LINES
    assert tokenizer.normalize([]) == []
    assert tokenizer.encode("e\u0301") != tokenizer.encode("é")


def test_the_normalization_is_stored_in_the_model(nfkc_tokenizer, tmp_path):
    assert nfkc_tokenizer.normalization == "nfkc"
    nfkc_tokenizer.save(tmp_path / "tokenizer.model")
    loaded = SubwordTokenizer.load(tmp_path / "tokenizer.model")
    assert loaded.normalization == "nfkc"
    assert loaded.encode("ﬁ e\u0301") == loaded.encode("fi é")


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_sub_words_are_learned_from_normalized_text(model_type):
    composed, decomposed = (
        [unicodedata.normalize(form, line) for line in GERMAN * 3] for form in ("NFC", "NFD")
    )
    tokenizers = [
        SubwordTokenizer.train_from_lines(text, 299, model_type, "nfkc")
        for text in (composed, decomposed)
    ]
    assert len({tokenizer.serialized_model for tokenizer in tokenizers}) == 1


def test_an_unknown_normalization_is_refused():
    with pytest.raises(InputError, match=r"none, nfkc\. Received: normalization='nfc'. Choose"):
        SubwordTokenizer.train_from_lines(ENGLISH, 299, normalization="nfc")


# Special ids and line breaks


def test_special_ids_leave_no_trace_in_text(tokenizer):
    cat = tokenizer.encode("cat")
    ids = [tokenizer.start_id, *cat, tokenizer.end_id, tokenizer.padding_id, tokenizer.padding_id]
    assert tokenizer.decode(ids) == "cat"
    assert tokenizer.detokenize([ids]).numpy().tolist() == [b"cat"]


def test_special_ids_are_the_first_four_and_bytes_follow(tokenizer):
    special = (tokenizer.padding_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id)
    assert special == (0, 1, 2, 3)
    assert tokenizer.pieces(special) == ["<pad>", "<unk>", "<s>", "</s>"]
    assert tokenizer.pieces(spell(b"\n\xff")) == ["<0x0A>", "<0xFF>"]


@pytest.mark.parametrize(
    ("spelled", "text"),
    [
        (b"\n", " "),
        (b"\r\n", " "),
        (b"\n\n", "  "),
        (b"a\nb\r\nc", "a b c"),
        (b"\r", "\r"),
        (b"\n\r", " \r"),
        ("\u2028".encode(), "\u2028"),
    ],
)
def test_a_line_break_spelled_in_bytes_becomes_one_space(tokenizer, spelled, text):
    assert tokenizer.decode(spell(spelled)) == text
    assert tokenizer.decode([spell(spelled)]) == [text]
    assert tokenizer.detokenize([spell(spelled)]).numpy().tolist() == [text.encode()]


def test_bytes_that_are_not_utf8_become_the_replacement_character(tokenizer):
    assert tokenizer.decode(spell(b"a\xffb")) == "a\ufffdb"


# encode and decode mirror their input


def test_encode_and_decode_mirror_their_input(tokenizer):
    ids = tokenizer.encode("the cat")
    assert all(type(token_id) is int for token_id in ids)
    assert tokenizer.encode(("the cat", "")) == [ids, []]
    assert tokenizer.decode([ids, []]) == ["the cat", ""]
    assert tokenizer.decode([[]]) == [""]
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode([]) == []


def test_decode_accepts_numpy_arrays(tokenizer):
    ids = np.array(tokenizer.encode("the cat"), "int32")
    assert tokenizer.decode(ids) == "the cat"
    assert tokenizer.decode(np.stack([ids, ids])) == ["the cat", "the cat"]


@pytest.mark.parametrize("text", ["\ud800", ["a", "\udc80"], 5, [5], None, b"bytes"], ids=ascii)
def test_encode_refuses_values_that_are_not_text(tokenizer, text):
    with pytest.raises(InputError, match=r"text must be a string, .* Received: text=.* Pass str"):
        tokenizer.encode(text)


@pytest.mark.parametrize("ids", [[317], [-1], [5, 1000]])
def test_decode_refuses_ids_outside_the_vocabulary(tokenizer, ids):
    with pytest.raises(
        InputError, match=r"less than the vocabulary size of 317\. Received: token_i"
    ):
        tokenizer.decode(ids)


@pytest.mark.parametrize("token_id", [317, -1])
def test_id_to_piece_refuses_ids_outside_the_vocabulary(tokenizer, token_id):
    with pytest.raises(InputError, match=f"vocabulary size of 317. Received: token_id={token_id}"):
        tokenizer.id_to_piece(token_id)


# Training


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_the_same_text_gives_the_same_model_in_any_folder(tmp_path, model_type):
    (tmp_path / "plain.en").write_bytes("\n".join(ENGLISH).encode())
    (tmp_path / "windows.en").write_bytes("\r\n".join(ENGLISH).encode())
    (tmp_path / "packed.en.gz").write_bytes(gzip.compress("\n".join(ENGLISH).encode()))
    models = {
        SubwordTokenizer.train([path], 299, model_type).serialized_model
        for path in [*tmp_path.iterdir(), str(tmp_path / "plain.en")]
    }
    models.add(SubwordTokenizer.train(tmp_path / "plain.en", 299, model_type).serialized_model)
    models.add(SubwordTokenizer.train_from_lines(ENGLISH, 299, model_type).serialized_model)
    assert len(models) == 1


def test_the_tokenizer_learns_from_all_files(tmp_path):
    for name, text in (("a", "qqqq qqqq"), ("b", "zzzz zzzz")):
        (tmp_path / name).write_text(text)
    tokenizer = SubwordTokenizer.train([tmp_path / "a", tmp_path / "b"], 267)
    assert len(tokenizer.encode("qqqq")) < 4
    assert len(tokenizer.encode("zzzz")) < 4


def test_the_tokenizer_learns_from_lines_longer_than_sentencepieces_limit():
    assert len("ab" * 2500) > 4192
    tokenizer = SubwordTokenizer.train_from_lines(["ab" * 2500], 264)
    assert "ab" in tokenizer.pieces(range(264))


# U+2585 is SentencePiece's own mark for a rare character, and NUL its own for the end of a line.


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("mark", ["\u2585", "\0"], ids=ascii)
def test_the_tokenizer_learns_from_lines_with_characters_that_sentencepiece_reserves(
    model_type, mark
):
    tokenizer = SubwordTokenizer.train_from_lines(["a", *[f"qqqq{mark}qqqq"] * 7], 300, model_type)
    pieces = tokenizer.pieces(range(260, tokenizer.vocabulary_size))
    assert {"q", "qqqq", "a", "\u2581"} <= {*pieces}
    assert not any(mark in piece for piece in pieces)
    line = f" {mark}qa{mark}{mark} q"
    assert tokenizer.decode(tokenizer.encode(line)) == line
    assert tokenizer.encode(mark) == spell(mark.encode())


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("line", ["\u2585", "\0\0", "\u2585\0\u2585"], ids=ascii)
def test_text_of_only_such_characters_gives_bytes_and_the_space(model_type, line):
    tokenizer = SubwordTokenizer.train_from_lines([line, "", line], 261, model_type)
    assert tokenizer.pieces([260]) == ["\u2581"]
    assert tokenizer.encode(f"{line} a") == [*spell(line.encode()), 260, *spell(b"a")]
    assert tokenizer.decode(tokenizer.encode(f"{line} a")) == f"{line} a"


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("line", ["\ud800", 5, None, b"bytes"], ids=ascii)
def test_training_refuses_values_that_are_not_text(line, place):
    lines = ["a", "b"]
    lines.insert(place, line)
    with pytest.raises(InputError, match=r"^text must be a string, .* Received: text=.* Pass str"):
        SubwordTokenizer.train_from_lines(lines, 300)


def test_an_error_of_the_lines_iterator_is_raised_unchanged(tmp_path):
    (tmp_path / "train.en").write_bytes(b"good\nb\xe4d\n")
    with pytest.raises(InputError, match=r"train\.en:2: a line must be valid UTF-8"):
        SubwordTokenizer.train_from_lines(iterate_lines(tmp_path / "train.en"), 299)


def test_training_is_silent(capfd):
    SubwordTokenizer.train_from_lines(ENGLISH, 299)
    assert capfd.readouterr() == ("", "")


# "ab ab" has the characters a, b and the space, and the merges ab, " a" and " ab":
# 4 special ids + 256 bytes + 3 characters = 263, and with the merges 266.


@pytest.mark.parametrize(("model_type", "most"), [("bpe", 266), ("unigram", 264)])
def test_a_text_with_fewer_sub_words_than_requested_gives_all_it_has(model_type, most, caplog):
    text = ["ab ab", "b"]
    tokenizer = SubwordTokenizer.train_from_lines(text, 10_000, model_type)
    assert caplog.messages == [
        f"vocabulary_size=10000 is more than the text gives: the tokenizer has {most} sub-words"
    ]
    assert tokenizer.vocabulary_size == most
    exact = SubwordTokenizer.train_from_lines(text, most, model_type)
    assert len(caplog.messages) == 1
    assert exact.pieces(range(most)) == tokenizer.pieces(range(most))


def test_a_vocabulary_too_small_for_the_characters_is_refused_with_the_smallest_that_works():
    with pytest.raises(InputError, match="vocabulary_size=262, and the text needs 263") as error:
        SubwordTokenizer.train_from_lines(["ab ab", "b"], 262)
    assert "Choose vocabulary_size=263 or more" in str(error.value)
    assert isinstance(error.value.__cause__, RuntimeError)
    assert SubwordTokenizer.train_from_lines(["ab ab", "b"], 263).vocabulary_size == 263


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("vocabulary_size", [1, 3, 4, 5, 100, 259, 260, 262])
def test_the_error_for_any_smaller_vocabulary_names_the_smallest_size(model_type, vocabulary_size):
    with pytest.raises(InputError, match=r"the text needs 263\. Choose vocabulary_size=263"):
        SubwordTokenizer.train_from_lines(["ab ab", "b"], vocabulary_size, model_type)


@pytest.mark.parametrize("vocabulary_size", [0, -5, 2**18 + 1, 300.0, "300", None])
def test_a_vocabulary_size_out_of_range_is_refused(vocabulary_size):
    with pytest.raises(
        InputError, match=r"a whole number from 1 to 262144\. Received: vocabulary_size=.*Choo"
    ):
        SubwordTokenizer.train_from_lines(ENGLISH, vocabulary_size)


def test_an_unknown_model_type_is_refused():
    with pytest.raises(InputError, match=r"bpe, unigram\. Received: model_type='word'. Choose"):
        SubwordTokenizer.train_from_lines(ENGLISH, 299, "word")


@pytest.mark.parametrize("text", [[], [""], ["", ""]])
def test_training_on_nothing_is_refused(text):
    with pytest.raises(InputError, match=r"some text\. Received: only blank lines\. Check"):
        SubwordTokenizer.train_from_lines(text, 299)


def test_an_error_in_training_names_file_and_line(tmp_path):
    (tmp_path / "train.en").write_bytes(b"good\nb\xe4d\n")
    with pytest.raises(InputError, match=r"train\.en:2: a line must be valid UTF-8"):
        SubwordTokenizer.train([tmp_path / "train.en"], 299)


# Files


def test_a_saved_tokenizer_loads_unchanged(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer.model")
    loaded = SubwordTokenizer.load(tmp_path / "tokenizer.model")
    assert loaded.serialized_model == tokenizer.serialized_model
    assert loaded.vocabulary_size == 317
    assert loaded.encode(HARD_LINES) == tokenizer.encode(HARD_LINES)


def test_saving_replaces_the_file_and_leaves_nothing_else(tmp_path, tokenizer):
    path = tmp_path / "tokenizer.model"
    path.write_text("old")
    tokenizer.save(str(path))
    assert path.read_bytes() == tokenizer.serialized_model
    assert list(tmp_path.iterdir()) == [path]


def test_saving_that_fails_keeps_the_old_file(tmp_path, tokenizer, monkeypatch):
    path = tmp_path / "tokenizer.model"
    path.write_text("old")

    def disk_is_full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_loading_a_missing_file_or_a_folder_names_it(tmp_path):
    with pytest.raises(
        InputError, match=r"absent\.model: must be .* Received: No such file .* Check"
    ):
        SubwordTokenizer.load(tmp_path / "absent.model")
    with pytest.raises(InputError, match=r"must be .* Received: Is a directory\. Check the path\."):
        SubwordTokenizer.load(tmp_path)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for read in (SubwordTokenizer.load, lambda path: SubwordTokenizer.train(path, 300)):
        with pytest.raises(InputError, match=r"fifo: must be a regular file, .* Received: a pipe"):
            read(tmp_path / "fifo")


def test_a_file_cut_short_anywhere_is_refused(tmp_path, serialized_model):
    path = tmp_path / "cut.model"
    for kept in [*range(0, len(serialized_model), 97), len(serialized_model) - 1]:
        path.write_bytes(serialized_model[:kept])
        with pytest.raises(InputError, match=r"cut\.model: a tokenizer must .* Received: "):
            SubwordTokenizer.load(path)


def test_a_file_with_other_content_is_refused(tmp_path):
    path = tmp_path / "other.model"
    path.write_text("The cat sat on the mat.")
    with pytest.raises(
        InputError, match=r"other\.model: a tokenizer must be a whole SentencePiece"
    ):
        SubwordTokenizer.load(path)


# Options under which a model of SentencePiece is one of ours.
OURS = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "byte_fallback": True}
OURS |= {"vocab_size": 320, "normalization_rule_name": "identity"}
OURS |= {"add_dummy_prefix": False, "remove_extra_whitespaces": False}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3},
        {**OURS, "add_dummy_prefix": True, "remove_extra_whitespaces": True},
        {**OURS, "normalization_rule_name": "nmt_nfkc"},
        {**OURS, "normalization_rule_name": "nfkc_cf"},
    ],
    ids=["other ids", "no byte fallback", "white space removed", "tabs changed", "lower case"],
)
def test_a_sentencepiece_model_that_does_not_keep_the_text_is_refused(options):
    with pytest.raises(InputError, match=r"must keep the text, .* Received: a SentencePiece model"):
        SubwordTokenizer(foreign_model({"vocab_size": 61, **options}))


@pytest.mark.parametrize(("rule", "normalization"), [("identity", "none"), ("nfkc", "nfkc")])
def test_a_sentencepiece_model_that_keeps_the_text_is_accepted(rule, normalization):
    model = foreign_model({**OURS, "normalization_rule_name": rule})
    assert SubwordTokenizer(model).normalization == normalization


def foreign_model(options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH),
        model_writer=model,
        model_type="bpe",
        minloglevel=2,
        **options,
    )
    return model.getvalue()


# Without TensorFlow, and on real text


def test_encoding_and_batching_need_no_tensorflow():
    program = (
        "import sys\n"
        "from keras_transformer.data import PairBatches\n"
        "from keras_transformer.text.subword_tokenizer import SubwordTokenizer\n"
        "tokenizer = SubwordTokenizer.train_from_lines(['ab ab', 'b'], 263)\n"
        "assert tokenizer.decode(tokenizer.encode('ab')) == 'ab'\n"
        "assert len(list(PairBatches(['ab', 'b'], ['b', 'a'], tokenizer).epoch(0))) == 1\n"
        "assert 'tensorflow' not in sys.modules, 'tensorflow was imported'\n"
        "assert 'tensorflow_text' not in sys.modules, 'tensorflow_text was imported'\n"
    )
    output_of(program, KERAS_BACKEND="numpy")  # Keras itself imports its backend


def test_real_text_is_decoded_unchanged():
    folder = os.environ.get("MULTI30K_DIR")
    if folder is None:
        pytest.skip("MULTI30K_DIR does not name a folder with Multi30k")
    from keras_transformer.data import read_lines

    files = [Path(folder, "raw", f"val.{language}.gz") for language in ("en", "de")]
    tokenizer = SubwordTokenizer.train(files, 2003)
    text = read_lines(files[0]) + read_lines(files[1])
    assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = tokenizer.tokenize(text)
    assert ids.to_list() == tokenizer.encode(text)
    assert [line.decode() for line in tokenizer.detokenize(ids).numpy()] == text
