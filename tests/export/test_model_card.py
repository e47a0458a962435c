import hashlib
import json
from pathlib import Path

import keras
import pytest

from keras_transformer.export.model_card import (
    _bleu,
    _facts,
    _pairs,
    _sub_words,
    _tokenizer,
    _validation,
    _weights,
    write_model_card,
)
from keras_transformer.text.marian_tokenizer import SPECIAL_PIECES, MarianTokenizer
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from keras_transformer.text.tokenizer_pair import TokenizerPair
from tests.export.served import SIGNATURES
from tests.random_models import small_config


@pytest.fixture(scope="module")
def card(exported):
    return json.loads((Path(exported) / "model.json").read_text(encoding="utf-8"))


def test_the_json_describes_the_model(card, served_translator, tokenizer):
    config = small_config(vocabulary_size=300)
    for name in (
        "num_layers model_dim feed_forward_dim num_heads head_dim value_dim dropout activation"
        " normalize_first position_encoding max_positions vocabulary_size"
    ).split():
        assert card["model"][name] == getattr(config, name), name
    assert card["model"]["parameters"] == served_translator.model.count_params()
    assert card["precision"] == "float32"
    assert card["tokenizer"] == {
        "kind": "bpe",
        "vocabulary_size": 300,
        "normalization": "none",
        "sha256": hashlib.sha256(tokenizer.serialized_model).hexdigest(),
    }


def test_the_json_describes_the_search_and_the_signatures(card):
    assert card["search"] == {
        "beam_size": 3,
        "length_penalty": 0.7,
        "length_normalization": "gnmt",
        "max_source_tokens": 40,
        "max_target_tokens": None,
        "min_target_tokens": 1,
        "batch_tokens": 2048,
        "max_scored_target_tokens": 89,  # 40 tokens without the end token, and 50 more
    }
    assert {key: list(x["inputs"]) for key, x in card["signatures"].items()} == {
        key: inputs for key, (inputs, _) in SIGNATURES.items()
    }
    assert card["signatures"]["n_best"] == {
        "inputs": {"text": {"dtype": "string", "axes": "batch"}},
        "outputs": {
            "translations": {"dtype": "string", "axes": "batch, n"},
            "scores": {"dtype": "float32", "axes": "batch, n"},
        },
    }


def test_the_json_records_name_data_and_versions(card):
    assert (card["name"], card["version"]) == ("non-sense", 1)
    assert card["description"] == "Nonsense to nonsense"
    assert card["training"] == {"num_pairs": 12_345}
    assert card["versions"]["keras"] == keras.__version__
    assert set(card["versions"]) > {"python", "tensorflow", "tensorflow-text"}
    assert card["exported"].endswith("+00:00")


def test_the_readme_describes_the_export(exported):
    readme = (Path(exported) / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# non-sense, version 1\n\nNonsense to nonsense\n")
    assert '"$PWD/saved_models/non-sense:/models/non-sense" tensorflow/serving' in readme
    assert "/v1/models/non-sense:predict" in readme
    assert (
        "| `n_best` | `text` string (batch) | `translations` string (batch, n), `scores` float32"
        " (batch, n) |"
    ) in readme
    assert "- training: 12,345 sentence pairs\n" in readme
    assert "- BLEU: not recorded" in readme
    assert "sub-words: 300, bpe, text unchanged\n" in readme


def test_the_normalization_is_named():
    tokenizer = SubwordTokenizer.train_from_lines(["ab"], 263, "unigram", "nfkc")
    described = _tokenizer(tokenizer)
    assert (described["kind"], described["normalization"]) == ("unigram", "nfkc")
    card = {"model": {"parameters": 7}, "precision": "float32", "tokenizer": described}
    card |= {"search": dict.fromkeys(["beam_size", "length_penalty", "length_normalization"], 1)}
    card |= {"exported": "today", "versions": {}}
    assert "- sub-words: 263, unigram, text normalized to NFKC\n" in _facts(card)


def test_symbols_of_the_users_own_are_listed():
    symbols = [">>de<<", "<b>", "a``b", *(f"<{number}>" for number in range(9))]
    tokenizer = SubwordTokenizer.train_from_lines(["ab"], 300, user_symbols=symbols)
    described = _tokenizer(tokenizer)
    assert described["user_symbols"] == symbols
    [line] = _sub_words(described)
    assert line.endswith(
        ", text unchanged; 12 symbols never split: `>>de<<` `<b>` ``` a``b ``` `<0>` `<1>` `<2>`"
        " `<3>` `<4>` `<5>` `<6>` ..."
    )
    [line] = _sub_words(described | {"user_symbols": ["<b>"]})
    assert line.endswith("; 1 symbol never split: `<b>`")


def test_figures_come_with_their_sample_size_and_signature():
    evaluation = {"bleu": 39.8765, "bleu_signature": "nrefs:1|case:mixed", "num_sentences": 1000}
    assert _bleu(evaluation) == "39.88 on 1,000 sentences (`nrefs:1|case:mixed`)"
    measured = {"val_perplexity": 1.0444, "val_bleu": 99.504, "val_chrf": 99.6}
    measured["settings"] = {"bleu_tokenizer": "zh"}
    assert _validation(measured) == (
        "perplexity 1.044; greedy search: BLEU 99.50 (tok:zh), chrF 99.60"
    )
    assert _validation({"val_perplexity": 2.0}) == "perplexity 2.000"
    assert _validation({}) == "not measured with these weights"
    assert _weights({"averaged_epochs": [9, 10]}) == "; weights of the mean of epochs 9, 10"
    assert _weights({"averaged_epochs": [11]}) == "; weights of epoch 11"
    assert _weights({}) == ""
    assert _pairs({"steps": 3}) == "an unknown number of sentence pairs"


def test_names_of_files_that_are_not_utf_8_are_escaped(served_translator, tmp_path):
    name = "caf\udce9"
    about = {"description": f"From {name}", "training": {"settings": {"train_source": name}}}
    write_model_card(tmp_path, "fr-en", 1, served_translator, {}, about)
    card = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert card["training"]["settings"]["train_source"] == name
    assert "From caf\\udce9" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_both_sides_of_a_tokenizer_are_described(tokenizer):
    model = tokenizer.serialized_model
    source = MarianTokenizer(model, (*SPECIAL_PIECES, "a", "b"), punctuation="fr")
    described = _tokenizer(TokenizerPair(source, tokenizer))
    assert described == {
        **_tokenizer(tokenizer),
        "source": {
            "kind": "bpe",
            "vocabulary_size": 6,
            "normalization": "own",
            "punctuation": "fr",
            "sha256": hashlib.sha256(model).hexdigest(),
        },
    }
    assert _sub_words(described) == [
        "- source sub-words: 6, bpe, text normalized as the SentencePiece model says;"
        " punctuation normalized for the language fr",
        "- target sub-words: 300, bpe, text unchanged",
    ]
    assert _sub_words(_tokenizer(tokenizer)) == ["- sub-words: 300, bpe, text unchanged"]
