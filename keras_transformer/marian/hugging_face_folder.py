"""Reads a folder of Hugging Face's MarianMTModel: config.json, tensors and vocabulary."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.config import TransformerConfig
from keras_transformer.errors import InputError
from keras_transformer.layers.position import marian_encoding, sinusoidal_encoding
from keras_transformer.marian.foreign_model import (
    ForeignModel,
    Unsupported,
    Vocabulary,
    config_of,
)
from keras_transformer.marian.hugging_face_names import (
    COPIES,
    EMBEDDING,
    POSITIONS,
    hugging_face_name,
    is_transposed,
)
from keras_transformer.marian.native_folder import (
    named,
    read_sentencepiece_model,
    tokenizer_side,
)
from keras_transformer.marian.parts import channel_order
from keras_transformer.reading.files import DamagedFile, read_bounded
from keras_transformer.reading.safetensors import opened_safetensors
from keras_transformer.reading.tensors import Header, Tensors
from keras_transformer.reading.torch_file import opened_torch_file
from keras_transformer.text.tokenizer_pair import TokenizerPair

SETTINGS_FILE = "config.json"
_MOST_SETTINGS_BYTES = 2**20
_MOST_VOCABULARY_BYTES = 2**25
_LONGEST_TABLE = 8192  # of positions
_ACTIVATIONS = {"swish": "silu", "silu": "silu", "relu": "relu", "gelu": "gelu"}

# The only values that each of these settings may have. A file may lack any.
_ONLY: dict[str, tuple[Any, ...]] = {
    "model_type": ("marian",),
    "is_encoder_decoder": (True,),
    "scale_embedding": (True,),
    "static_position_embeddings": (True,),
    "share_encoder_decoder_embeddings": (True,),
    "tie_word_embeddings": (True,),
    "normalize_before": (False,),
    "normalize_embedding": (False,),
    "add_final_layer_norm": (False,),
}
_ONLY_IN_SEARCH: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "num_beam_groups": (1, None),
    "do_sample": (False, None),
}


@contextlib.contextmanager
def opened_hugging_face_folder(
    folder: Path, punctuation: tuple[str | None, str | None]
) -> Iterator[tuple[ForeignModel, Tensors]]:
    """Opens a folder, and reads everything but the weights; see `opened_native_folder`."""
    config = _read_json(folder / SETTINGS_FILE, _MOST_SETTINGS_BYTES)
    vocabulary = _vocabulary(folder, config)
    sides = [
        tokenizer_side(
            folder / "vocab.json",
            read_sentencepiece_model(folder / f"{side}.spm"),
            vocabulary,
            language,
        )
        for side, language in zip(("source", "target"), punctuation, strict=True)
    ]
    with _opened_tensors(folder) as (path, theirs):
        with named(folder / SETTINGS_FILE):
            settings = _settings(config)
        with named(path):
            positions = _position_encoding(theirs, settings["sizes"]["model_dim"])
            model = _model(config, settings, positions, vocabulary, TokenizerPair(*sides), folder)
            tensors = _as_marian(theirs, model)
            model.check_headers(tensors.headers)
            _check_copies(theirs)
            yield model, tensors


@contextlib.contextmanager
def _opened_tensors(folder: Path) -> Iterator[tuple[Path, Tensors]]:
    for name, opened in (
        ("model.safetensors", opened_safetensors),
        ("pytorch_model.bin", opened_torch_file),
    ):
        path = folder / name
        if path.exists() or path.is_symlink():
            with named(path), opened(path) as tensors:
                yield path, tensors
            return
    raise InputError(
        f"{folder}: must hold model.safetensors or pytorch_model.bin. Received: neither. Download"
        " the model's folder again; a model in several files is not supported."
    )


def _read_json(path: Path, most_bytes: int) -> dict[str, Any]:
    with named(path):
        try:
            content = json.loads(read_bounded(path, most_bytes))
        except (ValueError, RecursionError) as error:
            raise DamagedFile("text that is not JSON") from error
        if not isinstance(content, dict):
            raise DamagedFile("JSON that is not a mapping")
        return content


def _vocabulary(folder: Path, config: Mapping[str, Any]) -> Vocabulary:
    path = folder / "vocab.json"
    ids = _read_json(path, _MOST_VOCABULARY_BYTES)
    with named(folder / SETTINGS_FILE):
        start, padding = (
            _whole(config, f"{name}_id") for name in ("decoder_start_token", "pad_token")
        )
    with named(path):
        for piece, row in ids.items():
            if type(row) is not int:
                raise DamagedFile(f"the id {str(row)[:80]} of the sub-word {piece[:80]!a}")
        if len(ids) != config.get("vocab_size"):
            raise DamagedFile(
                f"{len(ids):,} sub-words, where config.json has"
                f" vocab_size {str(config.get('vocab_size'))[:20]}"
            )
        if ids.get("<pad>") != padding or not 0 <= start < len(ids):
            raise DamagedFile(f"the sub-word <pad> with another id than pad_token_id {padding}")
        return Vocabulary.of(ids, start_row=start)


def _whole(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int:
        raise Unsupported(f"{key}: {str(value)[:80]}, which is not a whole number")
    return value


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of our model, and refuses what it cannot be."""
    for key, allowed in _ONLY.items():
        if config.get(key, allowed[0]) not in allowed:
            raise Unsupported(f"{key}: {str(config[key])[:80]}")
    if config.get("decoder_vocab_size") not in (None, config.get("vocab_size")):
        raise Unsupported(f"decoder_vocab_size: {str(config['decoder_vocab_size'])[:80]}")
    activation = config.get("activation_function", "gelu")
    if activation not in _ACTIVATIONS:
        raise Unsupported(f"activation_function: {str(activation)[:80]}")
    for encoder, decoder in (
        ("encoder_attention_heads", "decoder_attention_heads"),
        ("encoder_ffn_dim", "decoder_ffn_dim"),
    ):
        if _whole(config, encoder) != _whole(config, decoder):
            raise Unsupported(f"{encoder}: {config[encoder]} with {decoder}: {config[decoder]}")
    sizes = {
        "num_layers": _whole(config, "encoder_layers"),
        "num_decoder_layers": _whole(config, "decoder_layers"),
        "model_dim": _whole(config, "d_model"),
        "feed_forward_dim": _whole(config, "encoder_ffn_dim"),
        "num_heads": _whole(config, "encoder_attention_heads"),
    }
    return {"sizes": sizes, "activation": _ACTIVATIONS[activation]}


def _model(
    config: Mapping[str, Any],
    settings: dict[str, Any],
    position_encoding: str,
    vocabulary: Vocabulary,
    tokenizer: TokenizerPair,
    folder: Path,
) -> ForeignModel:
    ours: TransformerConfig = config_of(
        settings["sizes"],
        [vocabulary, vocabulary],
        is_shared=True,
        activation=settings["activation"],
        position_encoding=position_encoding,
        layer_norm_epsilon=1e-5,
    )
    rows = config["vocab_size"]
    return ForeignModel.of(
        ours, tokenizer, _search(folder, config), [vocabulary] * 2, num_rows=[rows, rows]
    )


def _search(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the model's own search, from generation_config.json, or from config.json."""
    path, about = folder / "generation_config.json", dict(config)
    if path.exists() or path.is_symlink():
        about = _read_json(path, _MOST_SETTINGS_BYTES)
    else:
        path = folder / SETTINGS_FILE
    with named(path):
        for key, allowed in _ONLY_IN_SEARCH.items():
            if about.get(key, allowed[0]) not in allowed:
                raise Unsupported(f"{key}: {str(about[key])[:80]}")
        beams, penalty = about.get("num_beams", 1), about.get("length_penalty", 1.0)
        if type(beams) is not int or not 1 <= beams <= 1000:
            raise Unsupported(f"num_beams: {str(beams)[:80]}")
        if type(penalty) not in (int, float) or not 0 <= penalty <= 100:
            raise Unsupported(f"length_penalty: {str(penalty)[:80]}")
    return {
        "beam_size": beams,
        "length_penalty": float(penalty),
        "length_normalization": "length",
    }


def _position_encoding(theirs: Tensors, width: int) -> str:
    """Returns the encoding of the tables in the file; without any, they are the paper's."""
    found = {
        _encoding_of(theirs, name, width) for name in POSITIONS.values() if name in theirs.headers
    }
    if len(found) > 1:
        raise Unsupported("positions that differ between encoder and decoder")
    return found.pop() if found else "sinusoidal"


def _encoding_of(theirs: Tensors, name: str, width: int) -> str:
    shape = theirs.headers[name].shape
    if len(shape) != 2 or shape[1] != width or shape[0] > _LONGEST_TABLE or width % 2 or width < 4:
        raise DamagedFile(f"the tensor {name} of shape {shape}")
    table = theirs.read(name)[:, channel_order(width)]
    positions = np.arange(shape[0])
    for encoding, compute in (
        ("sinusoidal", sinusoidal_encoding),
        ("sinusoidal_marian", marian_encoding),
    ):
        # The angles of late positions differ by their rounding.
        if np.allclose(table, np.asarray(compute(positions, width)), atol=1e-3):
            return encoding
    raise Unsupported(f"{name}, which holds positions that are neither the paper's nor Marian's")


def _as_marian(theirs: Tensors, model: ForeignModel) -> Tensors:
    """Returns the tensors by the names and in the orientation of Marian."""
    names = {name: hugging_face_name(name) for name in model.shapes}
    others = theirs.headers.keys() - names.values() - {*COPIES, *POSITIONS.values()}
    headers = {
        name: _turned_header(name, theirs.headers[their_name])
        for name, their_name in names.items()
        if their_name in theirs.headers
    } | {name: theirs.headers[name] for name in others}

    def read(name: str) -> np.ndarray:
        tensor = theirs.read(names[name])
        return tensor.T if is_transposed(name) else np.atleast_2d(tensor)

    return Tensors(headers, read)


def _turned_header(name: str, header: Header) -> Header:
    shape = header.shape
    if is_transposed(name):
        return Header(shape[::-1], header.dtype)
    return Header((1, *shape) if len(shape) == 1 else shape, header.dtype)


def _check_copies(theirs: Tensors) -> None:
    """Refuses an output or an embedding that differs from the shared one."""
    for name in COPIES:
        header = theirs.headers.get(name)
        if header is None:
            continue
        shared = theirs.headers[EMBEDDING]
        if header.shape != shared.shape or not np.array_equal(
            theirs.read(name), theirs.read(EMBEDDING)
        ):
            raise Unsupported(f"{name}, which differs from {EMBEDDING}")
