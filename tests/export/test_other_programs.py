"""Exports to CTranslate2 and Hugging Face give the answers of the live model."""

import contextlib
import json
import sys

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.export.hugging_face import export_hugging_face
from keras_transformer.marian.import_marian import import_marian
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from keras_transformer.text.tokenizer_pair import TokenizerPair
from tests.marian.folders import MODELS
from tests.random_models import TEXTS, random_transformer, small_config

SOURCES = [*filter(None, TEXTS), *(f"{one} {other}" for one in TEXTS for other in TEXTS if one)]
BIAS = {"output_bias": True}
MODELS_OF_OURS = {
    "post-norm": {},
    "pre-norm": {"normalize_first": True},
    "learned positions": {"position_encoding": "learned", "max_positions": 306},
    "positions of Marian": {"position_encoding": "sinusoidal_marian"},
    "silu and a bias": {"activation": "silu", **BIAS},
    "gelu": {"activation": "gelu", "layer_norm_epsilon": 1e-3},
    "wide heads": {"head_dim": 6, "value_dim": 6},
    "a shallow decoder": {"num_layers": 3, "num_decoder_layers": 1},
}
MOST_TOKENS = 20  # of a translation, because random models seldom end one; with the end
SQUARE = {"head_dim": None, "value_dim": None}


def translator_of(tokenizer, source_size=None, **changes):
    config = small_config(
        vocabulary_size=tokenizer.vocabulary_size,
        source_vocabulary_size=source_size,
        **{**SQUARE, **changes},
    )
    return kt.Translator(
        random_transformer(config),
        tokenizer,
        beam_size=3,
        length_penalty=1.0,
        length_normalization="length",
        max_target_tokens=MOST_TOKENS,
    )


@pytest.fixture(scope="module")
def ctranslate2():
    return pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is absent")


class Exported:
    """Translates and scores with an export, by the options of its README.md."""

    def __init__(self, ctranslate2, folder, translator, compute_type="float32"):
        self.tokenizer = translator.tokenizer
        self.options = {
            "length_penalty": translator.length_penalty,
            "max_decoding_length": (translator.max_target_tokens or 501) - 1,  # without the end
            "suppress_sequences": [["<pad>"], ["<s>"]],
            "disable_unk": True,
        }
        self.engine = ctranslate2.Translator(str(folder), compute_type=compute_type)

    def pieces(self, side, texts):
        return [side.pieces(ids) for ids in side.encode(texts)]

    def translate(self, texts, beam_size):
        target = self.tokenizer.target
        ids = {piece: i for i, piece in enumerate(target.pieces(range(target.vocabulary_size)))}
        results = self.engine.translate_batch(
            self.pieces(self.tokenizer.source, texts),
            beam_size=beam_size,
            patience=beam_size,
            **self.options,
        )
        return [target.decode([ids[p] for p in result.hypotheses[0]]) for result in results]

    def log_probabilities(self, texts, translations):
        pairs = [
            self.pieces(self.tokenizer.source, texts),
            self.pieces(self.tokenizer.target, translations),
        ]
        return [sum(score.log_probs) for score in self.engine.score_batch(*pairs)]


@pytest.mark.parametrize("what", MODELS_OF_OURS)
def test_ctranslate2_translates_and_scores_as_the_live_model(
    what, tokenizer, ctranslate2, tmp_path
):
    translator = translator_of(tokenizer, **MODELS_OF_OURS[what])
    assert kt.export_ctranslate2(translator, tmp_path / "x") == str(tmp_path / "x")
    exported = Exported(ctranslate2, tmp_path / "x", translator)
    live = translator.translate(SOURCES, beam_size=1)
    assert exported.translate(SOURCES, 1) == live
    expected = [score for score, _ in translator.score(SOURCES, live)]
    np.testing.assert_allclose(exported.log_probabilities(SOURCES, live), expected, atol=5e-5)


def test_ctranslate2_reads_two_vocabularies(tokenizer, ctranslate2, tmp_path):
    source = SubwordTokenizer.train_from_lines([text.upper() for text in TEXTS], 290)
    pair = TokenizerPair(source, tokenizer)
    translator = translator_of(pair, source.vocabulary_size)
    kt.export_ctranslate2(translator, tmp_path / "x")
    exported = Exported(ctranslate2, tmp_path / "x", translator)
    texts = [text.upper() for text in SOURCES]
    assert exported.translate(texts, 1) == translator.translate(texts, beam_size=1)


def test_ctranslate2_translates_as_a_trained_model_does(ctranslate2, tmp_path):
    """In float32, greedy translations are all equal; in 8 bits, nearly all."""
    translator = import_marian(MODELS / "post", beam_size=4, length_penalty=1.0)
    texts = (MODELS / "post" / "text.fr").read_text(encoding="utf-8").splitlines()
    for name, quantization, shares in (("float32", None, (1, 0.98)), ("x", "int8", (0.95, 0.95))):
        kt.export_ctranslate2(translator, tmp_path / name, quantization=quantization)
        compute_type = "default" if quantization else "float32"
        exported = Exported(ctranslate2, tmp_path / name, translator, compute_type)
        for beam_size, share in zip((1, 4), shares, strict=True):
            live = translator.translate(texts, beam_size=beam_size)
            found = exported.translate(texts, beam_size)
            same = sum(one == other for one, other in zip(live, found, strict=True))
            assert same >= share * len(texts)
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("x", "float32")]
    assert sizes[0] < sizes[1] / 2


def test_the_code_in_the_readme_translates(tokenizer, ctranslate2, tmp_path):
    translator = translator_of(tokenizer)
    translator.beam_size = 1  # random models seldom end, and then beams differ
    kt.export_ctranslate2(translator, tmp_path / "x")
    readme = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    code = readme.split("```python\n")[1].split("```")[0].replace('["..."]', f"[{TEXTS[0]!r}]")
    printed = []
    with contextlib.chdir(tmp_path / "x"):
        exec(code, {"print": printed.append})
    assert printed == translator.translate(TEXTS[:1])
    assert "((5 + length) / 6)" not in readme


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 4, "value_dim": 5}, "value_dim=5 with head_dim=4"),
        ({"activation": "tanh"}, "activation=tanh"),
    ],
)
def test_what_ctranslate2_cannot_hold_is_refused(changes, message, tokenizer, tmp_path):
    with pytest.raises(kt.InputError, match=message):
        kt.export_ctranslate2(translator_of(tokenizer, **changes), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_other_settings_that_ctranslate2_lacks_are_refused(tokenizer, tmp_path, monkeypatch):
    translator = import_marian(MODELS / "post", punctuation=("fr", "en"))
    for export in (kt.export_ctranslate2, kt.export_hugging_face):
        with pytest.raises(kt.InputError, match="punctuation='fr'"):
            export(translator, tmp_path / "x")
    with pytest.raises(kt.InputError, match=r"one of int8.*Received: quantization='int4'"):
        kt.export_ctranslate2(translator, tmp_path / "x", quantization="int4")
    monkeypatch.setitem(sys.modules, "ctranslate2.specs", None)
    with pytest.raises(kt.InputError, match=r"pip install 'keras-seq2seq-transformer\[ctrans"):
        kt.export_ctranslate2(translator_of(tokenizer), tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [kt.export_ctranslate2, export_hugging_face])
def test_an_existing_folder_is_refused(export, tokenizer, tmp_path):
    (tmp_path / "x").mkdir()
    if export is kt.export_ctranslate2:
        pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is absent")
    with pytest.raises(kt.InputError, match="needs a new folder"):
        export(translator_of(tokenizer), tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("name", ["ctranslate2", "hugging_face"])
def test_an_export_that_differs_does_not_appear(name, tokenizer, tmp_path, monkeypatch):
    if name == "ctranslate2":
        pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is absent")
    module = f"keras_transformer.export.{name}"
    live = sys.modules[module].live_scores

    def other(translator, texts):
        return [one._replace(log_probability=-1e9) for one in live(translator, texts)]

    monkeypatch.setattr(f"{module}.live_scores", other)
    with pytest.raises(kt.InputError, match=r"log-probability of the live model.*Nothing was"):
        getattr(kt, f"export_{name}")(translator_of(tokenizer), tmp_path / "x")
    assert not list(tmp_path.iterdir())


OF_HUGGING_FACE = {
    "sinusoids": {},
    "positions of Marian": {"position_encoding": "sinusoidal_marian"},
    "silu and a bias": {"activation": "silu", **BIAS},
    "a shallow decoder": {"num_layers": 3, "num_decoder_layers": 1},
}


@pytest.mark.parametrize("what", OF_HUGGING_FACE)
def test_an_export_for_hugging_face_comes_back_equal(what, tokenizer, tmp_path):
    translator = translator_of(tokenizer, **OF_HUGGING_FACE[what])
    kt.export_hugging_face(translator, tmp_path / "x")
    back = import_marian(
        tmp_path / "x",
        max_source_tokens=translator.max_source_tokens,
        max_target_tokens=MOST_TOKENS,
    )
    weights = {weight.path: keras.ops.convert_to_numpy(weight) for weight in back.model.weights}
    for weight in translator.model.weights:
        np.testing.assert_array_equal(weights.pop(weight.path), keras.ops.convert_to_numpy(weight))
    # Hugging Face always has a bias of the output.
    assert all(path.endswith("bias") and not array.any() for path, array in weights.items())
    assert back.tokenizer.source.vocabulary[4:] == tuple(
        tokenizer.pieces(range(4, tokenizer.vocabulary_size))
    )
    assert (back.beam_size, back.length_penalty) == (3, 1.0)
    assert back(SOURCES) == translator(SOURCES)


@pytest.mark.parametrize("name", ["post", "hf", "spm"])
def test_an_import_leaves_again(name, tmp_path):
    translator = import_marian(MODELS / name)
    kt.export_hugging_face(translator, tmp_path / "x")
    back = import_marian(tmp_path / "x")
    for one, other in zip(back.model.get_weights(), translator.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert back.tokenizer.source.vocabulary == translator.tokenizer.source.vocabulary


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_first": True}, "pre-norm"),
        ({"position_encoding": "learned", "max_positions": 306}, "position_encoding='learned'"),
        ({"head_dim": 6, "value_dim": 6}, "head_dim=6"),
        ({"activation": "tanh"}, "activation=tanh"),
        ({"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon=0.001"),
    ],
)
def test_what_hugging_face_cannot_hold_is_refused(changes, message, tokenizer, tmp_path):
    with pytest.raises(kt.InputError, match=message):
        kt.export_hugging_face(translator_of(tokenizer, **changes), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_two_vocabularies_and_other_architectures_are_refused(tokenizer, speller, tmp_path):
    pair = TokenizerPair(tokenizer, tokenizer)
    translator = translator_of(pair, tokenizer.vocabulary_size)
    for export in (kt.export_hugging_face, kt.export_ctranslate2):
        with pytest.raises(kt.InputError, match="not a Transformer"):
            export(speller, tmp_path / "x")
    with pytest.raises(kt.InputError, match="two vocabularies"):
        kt.export_hugging_face(translator, tmp_path / "x")


def test_the_files_are_those_that_hugging_face_reads(tokenizer, tmp_path):
    kt.export_hugging_face(translator_of(tokenizer), tmp_path / "x")
    config = json.loads((tmp_path / "x" / "config.json").read_text(encoding="utf-8"))
    vocabulary = json.loads((tmp_path / "x" / "vocab.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "marian"
    assert config["vocab_size"] == len(vocabulary) == tokenizer.vocabulary_size
    assert vocabulary["</s>"] == config["eos_token_id"] == 0
    assert vocabulary["<pad>"] == config["pad_token_id"]
    assert vocabulary["<s>"] == config["decoder_start_token_id"]
    model = (tmp_path / "x" / "source.spm").read_bytes()
    assert model == tokenizer.serialized_model
