import sys

import numpy as np
import pytest

from keras_transformer.data.filters import PairFilter
from keras_transformer.errors import InputError
from keras_transformer.text.blank import BLANK_CHARACTERS, is_blank, is_blank_in_graph
from keras_transformer.text.lines import read_lines
from keras_transformer.text.subword_tokenizer import SubwordTokenizer

SURROGATES = range(0xD800, 0xE000)
CHARACTERS = [chr(code) for code in range(sys.maxunicode + 1) if code not in SURROGATES]
TEXTS = ["", BLANK_CHARACTERS, f"{BLANK_CHARACTERS}a", "\0", " \0 ", "\u3000\u2581", "\u200b\u200c"]


def test_only_white_space_zero_width_spaces_and_byte_order_marks_are_blank():
    blank = {character for character in CHARACTERS if is_blank(character)}
    assert blank == {c for c in CHARACTERS if c.isspace()} | {"\u200b", "\ufeff"}
    assert [is_blank(text) for text in TEXTS] == [True, True, False, False, False, False, False]


def test_the_graph_agrees_on_every_character():
    found = is_blank_in_graph([*CHARACTERS, *TEXTS]).numpy()
    np.testing.assert_array_equal(found, [is_blank(text) for text in [*CHARACTERS, *TEXTS]])


@pytest.mark.parametrize("blank", BLANK_CHARACTERS.replace("\n", ""))
def test_training_text_and_tokenizers_agree_on_blank_lines(tmp_path, blank):
    kept = PairFilter(9).not_blank(["a", blank, "c"], ["b", "b", blank])
    assert kept == (["a"], ["b"])
    (tmp_path / "blank.en").write_text(f"{blank}\n\n{blank}{blank}\n", newline="")
    with pytest.raises(InputError, match=r"one line of text\. Received: 3 blank lines"):
        read_lines(tmp_path / "blank.en")
    with pytest.raises(InputError, match=r"lines must hold some text"):
        SubwordTokenizer.train_from_lines([blank, blank * 2], 299)
