"""What an imported model can do after the import: train on, be exported, compute in 8 bits."""

import itertools
import json
import random

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.marian.import_marian import import_marian
from tests.export.served import assert_only_stock_operations
from tests.export.serving_loaders import ask_in_a_fresh_process
from tests.marian.folders import (
    HUGGING_FACE,
    MODELS,
    arrays_in,
    safetensors,
    settings_in,
    tensors_in,
    with_settings,
    write_npz,
)

NAMES = ["post", "pre", "separate", "spm", "hf"]
TEXTS = ["Un chien cherche une pomme.", "Le chat voit la maison à Noël !", ">>eng<< Le pain", "x"]
SUBJECTS = ["Un chien", "Le chat", "L'ours", "La fille", "Cette femme", "Mon père", "Marie"]
VERBS = ["cherche", "prend", "aime", "voit", "mange", "n'oublie pas"]
OBJECTS = ["un livre", "une pomme", "le pain", "du café", "la maison"]
TIMES = ["", " demain matin", " aujourd'hui", " à Noël", " en août"]


def sentences():
    """Returns all sentences that the words give, in random order."""
    parts = itertools.product(SUBJECTS, VERBS, OBJECTS, TIMES, ".!?")
    lines = [f"{subject} {verb} {what}{when}{end}" for subject, verb, what, when, end in parts]
    random.Random(0).shuffle(lines)
    return lines


def compiled(translator, learning_rate):
    translator.model.compile(
        optimizer=kt.Adam(learning_rate), loss=kt.LabelSmoothedCrossentropy(0.1)
    )
    return translator.model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["post", "spm"])
def test_one_epoch_teaches_a_new_word(name):
    """Everything is translated as before, except that a house is now a nest."""
    translator = import_marian(MODELS / name, beam_size=1)
    lines = sentences()
    held_out = [line for line in lines if "maison" in line][:100]
    training = [line for line in lines if line not in set(held_out)]
    before = translator(held_out)
    assert all("house" in text for text in before)
    targets = [text.replace("house", "nest") for text in translator(training)]
    batches = kt.PairBatches(training, targets, translator.tokenizer, max_tokens=512)
    compiled(translator, 5e-4).fit(batches.epochs().dataset(0), epochs=1, verbose=0)
    after = translator(held_out)
    num_new = sum("nest" in text and "house" not in text for text in after)
    assert num_new >= 95
    expected = [text.replace("house", "nest") for text in before]
    assert sum(one == other for one, other in zip(after, expected, strict=True)) >= 80


@pytest.mark.parametrize("name", NAMES)
def test_training_goes_on(name):
    translator = import_marian(MODELS / name)
    batches = kt.PairBatches(sentences()[:60], sentences()[60:120], translator.tokenizer, 256)
    data = batches.epochs().dataset(0)
    model = compiled(translator, 1e-3)
    before = model.evaluate(data, verbose=0)
    history = model.fit(data, epochs=3, verbose=0).history["loss"]
    assert history[0] > history[1] > history[2]
    assert model.evaluate(data, verbose=0) < before


@pytest.mark.parametrize(
    "name", ["hf", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[:-1])]
)
def test_the_export_answers_as_the_live_model(name, tmp_path):
    """Every signature, loaded by Python and as TensorFlow Serving loads it."""
    translator = import_marian(MODELS / name, beam_size=3, punctuation=("fr", "en"))
    version = kt.export_saved_model(translator, tmp_path / name, verify_texts=TEXTS)
    assert_only_stock_operations(version)
    requests = [("serving_default", {"text": TEXTS}), ("greedy", {"text": TEXTS})]
    answers = ask_in_a_fresh_process("c_api", version, requests)
    for answer, beam_size in zip(answers, (3, 1), strict=True):
        assert answer["translation"].tolist() == translator.translate(TEXTS, beam_size=beam_size)


@pytest.mark.parametrize("precision", ["int8", "bfloat16", "int8_bfloat16"])
def test_other_precisions_give_nearly_the_same_scores(precision):
    exact, rounded = (import_marian(MODELS / "post", precision=one) for one in (None, precision))
    texts = sentences()[:30]
    translations = exact(texts)
    for (one, _), (other, _) in zip(
        exact.score(texts, translations), rounded.score(texts, translations), strict=True
    ):
        assert other == pytest.approx(one, abs=0.2)
    same = sum(a == b for a, b in zip(translations, rounded(texts), strict=True))
    assert same >= 27


def test_tied_decoder_layers_are_written_out(marian_folder):
    """A model whose two decoder layers share tensors equals one that has them twice."""
    arrays = arrays_in(MODELS / "post" / "model.npz")
    first = {name: array for name, array in arrays.items() if name.startswith("decoder_l1_")}
    twice = arrays | {name.replace("_l1_", "_l2_"): array for name, array in first.items()}
    write_npz(marian_folder / "model.npz", twice)
    expected = import_marian(marian_folder)
    once = {name: array for name, array in arrays.items() if not name.startswith("decoder_l2_")}
    text = settings_in(arrays).replace(
        "transformer-tied-layers:\n  []", "transformer-tied-layers:\n  - 1\n  - 1"
    )
    write_npz(marian_folder / "model.npz", with_settings(once, text))
    tied = import_marian(marian_folder)
    for one, other in zip(tied.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_without_a_bias_of_the_output_has_zeros(marian_folder):
    arrays = arrays_in(MODELS / "post" / "model.npz")
    del arrays["decoder_ff_logit_out_b"]
    text = settings_in(arrays).replace("output-omit-bias: false", "output-omit-bias: true")
    write_npz(marian_folder / "model.npz", with_settings(arrays, text))
    bias = keras.ops.convert_to_numpy(import_marian(marian_folder).model.embedding.bias)
    assert bias.tolist() == [-30, 0, -30] + [0] * (len(bias) - 3)


REFUSED = {
    "type": "s2s",
    "transformer-ffn-depth": "3",
    "transformer-decoder-ffn-depth": "1",
    "transformer-decoder-dim-ffn": "64",
    "transformer-ffn-activation": "gelu",
    "transformer-postprocess": "dna",
    "transformer-postprocess-emb": "n",
    "transformer-train-position-embeddings": "true",
    "transformer-disable-position-embeddings": "true",
    "transformer-attention-mask": "alibi",
    "transformer-no-bias": "true",
    "transformer-no-affine": "true",
    "transformer-no-projection": "true",
    "transformer-decoder-autoreg": "average-attention",
    "tied-embeddings-all": "false",
    "lemma-dim-emb": "8",
    "right-left": "true",
    "ulr": "true",
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_setting_that_no_model_of_ours_has_is_refused_by_name(key, marian_folder):
    arrays = arrays_in(marian_folder / "model.npz")
    lines = settings_in(arrays).splitlines()
    changed = [f"{key}: {REFUSED[key]}" if line.startswith(f"{key}:") else line for line in lines]
    assert changed != lines
    write_npz(marian_folder / "model.npz", with_settings(arrays, "\n".join(changed)))
    named = "tied-embeddings" if key == "tied-embeddings-all" else key
    with pytest.raises(kt.InputError, match=rf"Received: .*{named}: '?[^ ]*{REFUSED[key][-3:]}"):
        import_marian(marian_folder)


REFUSED_BY_HUGGING_FACE = {
    "model_type": "bart",
    "normalize_before": True,
    "normalize_embedding": True,
    "add_final_layer_norm": True,
    "scale_embedding": False,
    "static_position_embeddings": False,
    "share_encoder_decoder_embeddings": False,
    "activation_function": "tanh",
    "decoder_ffn_dim": 64,
    "decoder_attention_heads": 2,
    "decoder_vocab_size": 99,
}


@pytest.mark.parametrize("key", REFUSED_BY_HUGGING_FACE)
def test_a_setting_of_hugging_face_is_refused_by_name(key, hugging_face_folder):
    path = hugging_face_folder / "config.json"
    value = REFUSED_BY_HUGGING_FACE[key]
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(kt.InputError, match=rf"{key}: {value}"):
        import_marian(hugging_face_folder)


@pytest.mark.parametrize(("key", "value"), [("repetition_penalty", 1.3), ("do_sample", True)])
def test_a_search_that_ours_is_not_is_refused_by_name(key, value, hugging_face_folder):
    path = hugging_face_folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(kt.InputError, match=rf"generation_config\.json: .*{key}: {value}"):
        import_marian(hugging_face_folder)


def test_positions_in_the_file_decide_the_encoding(hugging_face_folder):
    """Tables of Marian's sinusoids, all sines first."""
    angles = np.arange(40)[:, None] / 10_000 ** (np.arange(32) / 31)
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    tensors = tensors_in(HUGGING_FACE / "model.safetensors")
    tensors |= {f"model.{stack}.embed_positions.weight": table for stack in ("encoder", "decoder")}
    (hugging_face_folder / "model.safetensors").write_bytes(safetensors(tensors))
    embedding = import_marian(hugging_face_folder).model.embedding
    assert embedding.position_encoding == "sinusoidal_marian"
    assert import_marian(HUGGING_FACE).model.embedding.position_encoding == "sinusoidal"
