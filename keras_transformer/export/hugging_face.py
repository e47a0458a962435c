"""Exports a Transformer as a folder of Hugging Face's MarianMTModel, without PyTorch."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_transformer.config import TransformerConfig
from keras_transformer.errors import InputError
from keras_transformer.export.new_folder import new_folder
from keras_transformer.export.verification import HARD_TEXTS, check_score, live_scores
from keras_transformer.marian.hugging_face_names import (
    BIAS,
    EMBEDDING,
    POSITIONS,
    hugging_face_name,
    is_transposed,
)
from keras_transformer.marian.import_marian import read_folder
from keras_transformer.marian.parts import channel_order, tensors_of
from keras_transformer.model import Transformer
from keras_transformer.text.marian_tokenizer import SPECIAL_PIECES
from keras_transformer.text.tokenizer_pair import punctuation_of
from keras_transformer.translator import Translator

# The largest difference of a token's log-probability. Hugging Face's layer-norm epsilon is 1e-5.
_ROUNDING = 1e-3
_MOST_EPSILON = 1e-5
_NUM_POSITIONS = 1024

Pairs: TypeAlias = list[tuple[list[int], list[int]]]


def export_hugging_face(
    translator: Translator,
    folder: str | os.PathLike[str],
    *,
    verify_texts: Sequence[str] = HARD_TEXTS,
) -> str:
    """Writes a folder that Hugging Face's MarianMTModel and MarianTokenizer load.

    The folder appears whole or not at all, and only after its model has given the live model's
    translations of some texts the live model's log-probabilities: read by transformers where that
    and torch are installed, or else by `import_marian`.

    Hugging Face's tokenizer removes spaces at the ends of a text, which a `SubwordTokenizer` keeps.

    Args:
        translator: The translator, of a post-norm Transformer with one vocabulary.
        folder: The folder to write, which must not exist.
        verify_texts: The texts to compare the two models with.

    Returns:
        The path of the folder.

    Raises:
        InputError: The format cannot hold the model, the folder exists, or the models differ.

    Example:
        >>> export_hugging_face(translator, "exports/en-de")
        'exports/en-de'
    """
    config = _config_of(translator)
    rows = _rows_of(translator)
    with new_folder(folder) as unfinished:
        _write_safetensors(unfinished / "model.safetensors", _tensors(translator, config, rows))
        for name, content in _settings(translator, config, rows).items():
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (unfinished / name).write_text(text, encoding="utf-8")
        for name in ("source", "target"):
            side = getattr(translator.tokenizer, name)
            (unfinished / f"{name}.spm").write_bytes(side.serialized_model)
        _verify(unfinished, translator, rows, list(verify_texts))
    return str(folder)


def _refuse(received: str) -> NoReturn:
    raise InputError(
        f"Hugging Face's Marian format must be able to hold the model. Received: {received}. Export"
        " a SavedModel or to CTranslate2 instead."
    )


def _config_of(translator: Translator) -> TransformerConfig:
    """Returns the model's config, and refuses what the format lacks."""
    model = translator.model
    if not isinstance(model, Transformer):
        _refuse(f"a model of class {type(model).__name__}, which is not a Transformer")
    embedding, block = model.embedding, model.encoder_blocks[0]
    attention = block.self_attention
    config = TransformerConfig(
        vocabulary_size=embedding.vocabulary_size,
        num_layers=len(model.encoder_blocks),
        num_decoder_layers=len(model.decoder_blocks),
        model_dim=embedding.model_dim,
        feed_forward_dim=block.feed_forward.feed_forward_dim,
        num_heads=attention.num_heads,
        head_dim=attention.key_width,
        activation=keras.activations.serialize(block.feed_forward.activation),
        position_encoding=str(embedding.position_encoding),
        max_positions=embedding.max_positions,
        max_source_tokens=1,
    )
    if model.normalizations:
        _refuse("normalize_first=True (pre-norm)")
    epsilon = block.feed_forward_residual.epsilon
    if epsilon > _MOST_EPSILON:
        _refuse(f"layer_norm_epsilon={epsilon}, where it has {_MOST_EPSILON}")
    if config.position_encoding == "learned":
        _refuse("position_encoding='learned'")
    widths = {attention.key_width, attention.value_width}
    if widths != {config.model_dim // config.num_heads}:
        _refuse(f"head_dim={attention.key_width}, value_dim={attention.value_width}")
    punctuation = punctuation_of(translator.tokenizer)
    if punctuation is not None:
        _refuse(f"punctuation={punctuation!r}, which only this package normalizes")
    if model.source_embedding is not embedding or not translator.tokenizer.shares_vocabulary:
        _refuse("two vocabularies")
    if config.activation not in ("relu", "gelu", "silu"):
        _refuse(f"activation={config.activation}, where it has relu, gelu and silu")
    return config


def _rows_of(translator: Translator) -> list[int]:
    """Returns our id of each of Hugging Face's: the end, unknown, sub-words, start, padding."""
    tokenizer = translator.tokenizer
    num_special = len(SPECIAL_PIECES)
    return [
        tokenizer.end_id,
        tokenizer.unknown_id,
        *range(num_special, tokenizer.vocabulary_size),
        tokenizer.start_id,
        tokenizer.padding_id,
    ]


def _tensors(
    translator: Translator, config: TransformerConfig, rows: list[int]
) -> dict[str, np.ndarray]:
    model: Transformer = translator.model
    tensors = {}
    for name, tensor in tensors_of(model, config).items():
        turned = tensor.T if is_transposed(name) else tensor[0]
        tensors[hugging_face_name(name)] = turned
    back = np.argsort(channel_order(config.model_dim))
    tensors[EMBEDDING] = ops.convert_to_numpy(model.embedding.embeddings)[rows][:, back]
    bias = model.embedding.bias
    of_ids = np.zeros(len(rows)) if bias is None else ops.convert_to_numpy(bias)[rows]
    tensors[BIAS] = of_ids[None, :]
    if config.position_encoding == "sinusoidal_marian":  # not what transformers would compute
        positions = model.embedding.positions(ops.arange(_NUM_POSITIONS, dtype="int32"))
        table = ops.convert_to_numpy(positions)[:, back]
        tensors |= dict.fromkeys(POSITIONS.values(), table)
    return {name: np.ascontiguousarray(tensor, "float32") for name, tensor in tensors.items()}


def _settings(
    translator: Translator, config: TransformerConfig, rows: list[int]
) -> dict[str, Mapping[str, Any]]:
    """Returns the content of each JSON file."""
    tokenizer = translator.tokenizer.target
    start, padding = len(rows) - 2, len(rows) - 1
    ids = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": padding,
        "decoder_start_token_id": start,
        "forced_eos_token_id": 0,
    }
    search = {
        "num_beams": translator.beam_size,
        "length_penalty": translator.length_penalty,
        "max_length": 512,
        "bad_words_ids": [[padding], [start], [1]],
    }
    return {
        "config.json": {**_about(config, len(rows), translator.model.embedding.dropout), **ids},
        "generation_config.json": {**search, **ids},
        "vocab.json": {tokenizer.id_to_piece(row): place for place, row in enumerate(rows)},
        "tokenizer_config.json": {"source_lang": "source", "target_lang": "target"},
    }


def _about(config: TransformerConfig, size: int, dropout: float) -> dict[str, Any]:
    return {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "is_encoder_decoder": True,
        "vocab_size": size,
        "decoder_vocab_size": size,
        "d_model": config.model_dim,
        "encoder_layers": config.num_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.feed_forward_dim,
        "decoder_ffn_dim": config.feed_forward_dim,
        "activation_function": config.activation,
        "max_position_embeddings": _NUM_POSITIONS,
        "scale_embedding": True,
        "static_position_embeddings": True,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "dropout": dropout,
        "dtype": "float32",
    }


def _write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes float32 tensors: the size of a header, the header as JSON, then their bytes."""
    header, position = {}, 0
    for name, tensor in tensors.items():
        end = position + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.astype("<f4").tobytes())


def _verify(folder: Path, translator: Translator, rows: list[int], texts: list[str]) -> None:
    """Compares the log-probability of each live translation."""
    live, end_id = live_scores(translator, texts), translator.tokenizer.end_id
    pairs = [([*one.source_ids, end_id], [*one.target_ids, end_id]) for one in live]
    has_transformers = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    scores = _scores_of_transformers if has_transformers else _scores_of_import
    for one, received in zip(live, scores(folder, pairs, rows), strict=True):
        check_score(folder, one, received, _ROUNDING * (len(one.target_ids) + 1))


def _scores_of_transformers(folder: Path, pairs: Pairs, rows: list[int]) -> list[float]:
    theirs = {row: place for place, row in enumerate(rows)}
    work = [[[theirs[token_id] for token_id in ids] for ids in pair] for pair in pairs]
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("transformers_scores.py"))],
        input=json.dumps({"folder": str(folder), "pairs": work}),
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise InputError(
            f"{folder.name}: transformers must be able to load the export. Received:"
            f" {' '.join(process.stderr.split())[-300:]}. Nothing was written. Update transformers,"
            " or uninstall it to compare with this package's own reader."
        )
    return json.loads(process.stdout)


def _scores_of_import(folder: Path, pairs: Pairs, rows: list[int]) -> list[float]:
    model, _ = read_folder(folder)

    def score(source: list[int], target: list[int]) -> float:
        inputs = {
            "source_ids": np.array([source], "int32"),
            "target_ids": np.array([[2, *target[:-1]]], "int32"),
        }
        of_tokens = ops.convert_to_numpy(ops.log_softmax(model(inputs)[0]))  # (length, vocabulary)
        return float(of_tokens[range(len(target)), target].sum())

    return [score(*pair) for pair in pairs]
