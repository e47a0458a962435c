"""Reads a folder of Marian, or of OPUS-MT: decoder.yml, a model and its vocabularies."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from keras_transformer.errors import InputError
from keras_transformer.marian.foreign_model import (
    ForeignModel,
    Unsupported,
    Vocabulary,
    config_of,
)
from keras_transformer.reading.files import DamagedFile, read_bounded
from keras_transformer.reading.npz import opened_npz
from keras_transformer.reading.plain_yaml import plain_yaml
from keras_transformer.reading.tensors import Tensors
from keras_transformer.text.marian_tokenizer import MarianTokenizer, processor_of
from keras_transformer.text.sentencepiece_file import MOST_PIECES, most_bytes
from keras_transformer.text.tokenizer_pair import TokenizerPair

SETTINGS_FILE = "decoder.yml"
_MODEL_SETTINGS = "special:model.yml"
_MOST_SETTINGS_BYTES = 2**20
_MOST_VOCABULARY_BYTES = 2**25
_NORMALIZED_AFTER, _NORMALIZED_BEFORE = ("", "an", ""), ("n", "a", "n")
_ACTIVATIONS = {"swish": "silu", "relu": "relu"}

# The only value that each of these settings may have. A file may lack any.
_ONLY: dict[str, tuple[str, ...]] = {
    "type": ("transformer",),
    "transformer-decoder-autoreg": ("self-attention",),
    "transformer-ffn-depth": ("2",),
    "transformer-decoder-ffn-depth": ("0", "2"),
    "transformer-attention-mask": ("default",),
    "transformer-train-position-embeddings": ("false",),
    "transformer-disable-position-embeddings": ("false",),
    "transformer-no-projection": ("false",),
    "transformer-no-bias": ("false",),
    "transformer-no-affine": ("false",),
    "transformer-pool": ("false",),
    "transformer-rnn-projection": ("false",),
    "transformer-postprocess-emb": ("", "d"),
    "factors-combine": ("sum",),
    "factors-dim-emb": ("0",),
    "lemma-dim-emb": ("0",),
    "lemma-dependency": ("",),
    "right-left": ("false",),
    "skip": ("false",),
    "ulr": ("false",),
}


@contextlib.contextmanager
def opened_native_folder(
    folder: Path, punctuation: tuple[str | None, str | None]
) -> Iterator[tuple[ForeignModel, Tensors]]:
    """Opens a folder, and reads everything but the weights.

    Args:
        folder: The folder.
        punctuation: As for `MarianTokenizer`, for source and target.

    Raises:
        InputError: A file is missing or damaged, or the model is of an unsupported kind.
    """
    path = folder / SETTINGS_FILE
    with named(path):
        settings = plain_yaml(read_bounded(path, _MOST_SETTINGS_BYTES))
        [model_name] = _names(settings, "models", 1)
        vocabulary_names = _names(settings, "vocabs", 2)
        search = _search(settings)
    with named(folder / model_name), opened_npz(folder / model_name) as (headers, read):
        if _MODEL_SETTINGS not in headers:
            raise DamagedFile(f"no {_MODEL_SETTINGS}, in which Marian stores the model's settings")
        about = plain_yaml(read(_MODEL_SETTINGS).astype(np.uint8).tobytes().rstrip(b"\0"))
        _refuse_unsupported(about)
        sides = [
            _side(folder, *names)
            for names in zip(
                vocabulary_names, ("source.spm", "target.spm"), punctuation, strict=True
            )
        ]
        vocabularies = [vocabulary for vocabulary, _ in sides]
        tokenizer = TokenizerPair(*(tokenizer for _, tokenizer in sides))
        model = _model(about, vocabularies, tokenizer, search)
        tensors = {name: header for name, header in headers.items() if name != _MODEL_SETTINGS}
        model.check_headers(tensors)
        yield model, Tensors(tensors, read)


def _side(
    folder: Path, name: str, spm_name: str, punctuation: str | None
) -> tuple[Vocabulary, MarianTokenizer]:
    vocabulary, spm = _vocabulary(folder, name, spm_name)
    return vocabulary, tokenizer_side(folder / name, spm, vocabulary, punctuation)


def tokenizer_side(
    path: Path, spm: bytes, vocabulary: Vocabulary, punctuation: str | None
) -> MarianTokenizer:
    """Makes one side of the tokenizer; `path` is the vocabulary's file."""
    try:
        return MarianTokenizer(spm, vocabulary.pieces, punctuation=punctuation)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Names the file at fault."""
    try:
        yield
    except DamagedFile as error:
        raise InputError(
            f"{path}: must be a file of a Marian model. Received: {error}. Check the folder, or"
            " download it again."
        ) from error
    except Unsupported as error:
        raise InputError(
            f"{path}: must describe a Transformer that this package can build. Received: {error}."
            " See docs/importing.md for what can be imported."
        ) from error


def _names(settings: Mapping[str, Any], key: str, count: int) -> list[str]:
    """Returns the names of files in the folder, whatever folder the settings name."""
    values = settings.get(key)
    if not isinstance(values, list) or len(values) != count or not all(map(_is_text, values)):
        raise Unsupported(f"{key}: {str(values)[:200]}, where a model has {count}")
    return [re.split(r"[/\\]", str(value))[-1] for value in values]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _search(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the model's own search; Marian divides scores by length ** normalize."""
    if _number(settings, "word-penalty", 0.0):
        raise Unsupported(f"word-penalty: {settings['word-penalty']}")
    return {
        "beam_size": int(_number(settings, "beam-size", 12)),
        "length_penalty": _number(settings, "normalize", 0.0),
        "length_normalization": "length",
    }


def _number(settings: Mapping[str, Any], key: str, default: float) -> float:
    value = settings.get(key, str(default))
    if value in ("true", "false"):  # `normalize` without a number means 1
        return float(value == "true")
    if not isinstance(value, str) or not re.fullmatch(r"\d{1,6}(\.\d{1,12})?", value):
        raise Unsupported(f"{key}: {str(value)[:80]}, which is not a number of this size")
    return float(value)


def _vocabulary(folder: Path, name: str, spm_name: str) -> tuple[Vocabulary, bytes]:
    """Reads the vocabulary of one side and its SentencePiece model."""
    path = folder / name
    if name.endswith(".spm"):
        spm = read_sentencepiece_model(path)
        processor = _processor(path, spm)
        pieces = [processor.id_to_piece(row) for row in range(processor.get_piece_size())]
        with named(path):
            return Vocabulary.of({piece: row for row, piece in enumerate(pieces)}), spm
    with named(path):
        entries = plain_yaml(read_bounded(path, _MOST_VOCABULARY_BYTES))
        vocabulary = Vocabulary.of({piece: _row(piece, row) for piece, row in entries.items()})
    return vocabulary, read_sentencepiece_model(folder / spm_name)


def read_sentencepiece_model(path: Path) -> bytes:
    """Reads and checks a SentencePiece model."""
    with named(path):
        spm = read_bounded(path, most_bytes(MOST_PIECES))
    _processor(path, spm)
    return spm


def _processor(path: Path, spm: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        return processor_of(spm)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _row(piece: str, row: Any) -> int:
    if not isinstance(row, str) or not re.fullmatch(r"\d{1,7}", row):
        raise DamagedFile(f"the id {str(row)[:80]!r} of the sub-word {piece[:80]!r}")
    return int(row)


def _refuse_unsupported(about: Mapping[str, Any]) -> None:
    for key, allowed in _ONLY.items():
        if about.get(key, allowed[0]) not in allowed:
            raise Unsupported(f"{key}: {str(about[key])[:80]}")
    decoder_width, width = (
        about.get("transformer-decoder-dim-ffn", "0"),
        about.get("transformer-dim-ffn"),
    )
    if decoder_width not in ("0", width):
        raise Unsupported(f"transformer-decoder-dim-ffn: {str(decoder_width)[:80]}")
    activation = about.get("transformer-ffn-activation", "swish")
    if activation not in _ACTIVATIONS:
        raise Unsupported(f"transformer-ffn-activation: {str(activation)[:80]}")


def _model(
    about: Mapping[str, Any],
    vocabularies: list[Vocabulary],
    tokenizer: TokenizerPair,
    search: dict[str, Any],
) -> ForeignModel:
    """Describes the model from its own settings."""
    num_rows = [_size({"dim-vocabs": size}, "dim-vocabs") for size in _pair(about)]
    for vocabulary, size in zip(vocabularies, num_rows, strict=True):
        given = sum(row is not None for row in vocabulary.rows)
        if given != size:
            raise DamagedFile(f"dim-vocabs {size:,}, where the vocabulary has {given:,} sub-words")
    sizes = {
        "num_layers": _size(about, "enc-depth"),
        "num_decoder_layers": _size(about, "dec-depth"),
        "model_dim": _size(about, "dim-emb"),
        "feed_forward_dim": _size(about, "transformer-dim-ffn"),
        "num_heads": _size(about, "transformer-heads"),
    }
    config = config_of(
        sizes,
        vocabularies,
        is_shared=_shares_embeddings(about, vocabularies),
        activation=_ACTIVATIONS[about.get("transformer-ffn-activation", "swish")],
        normalize_first=_normalizes_first(about),
        position_encoding="sinusoidal_marian",
        layer_norm_epsilon=1e-9,
    )
    return ForeignModel.of(
        config,
        tokenizer,
        search,
        vocabularies,
        num_rows=num_rows,
        has_bias=about.get("output-omit-bias", "false") != "true",
        tied_layers=_tied_layers(about, sizes["num_decoder_layers"]),
    )


def _pair(about: Mapping[str, Any]) -> list[Any]:
    sizes = about.get("dim-vocabs")
    if not isinstance(sizes, list) or len(sizes) != 2:
        raise Unsupported(f"dim-vocabs: {str(sizes)[:80]}, where a model has two")
    return sizes


def _size(about: Mapping[str, Any], key: str) -> int:
    value = about.get(key)
    if not isinstance(value, str) or not re.fullmatch(r"\d{1,9}", value):
        raise Unsupported(f"{key}: {str(value)[:80]}, which is not a whole number of this size")
    return int(value)


def _shares_embeddings(about: Mapping[str, Any], vocabularies: list[Vocabulary]) -> bool:
    """Whether source and target share one matrix; either way the output is that of the target."""
    if about.get("tied-embeddings-all", "false") == "true":
        if vocabularies[0] != vocabularies[1]:
            raise DamagedFile("two vocabularies, where tied-embeddings-all describes one")
        return True
    if about.get("tied-embeddings", "false") != "true":
        raise Unsupported("tied-embeddings: false, so the output has a matrix of its own")
    if about.get("tied-embeddings-src", "false") == "true":
        raise Unsupported("tied-embeddings-src: true without tied-embeddings-all")
    return False


def _normalizes_first(about: Mapping[str, Any]) -> bool:
    keys = [f"transformer-{name}" for name in ("preprocess", "postprocess", "postprocess-top")]
    values = [
        str(about.get(key, default)) for key, default in zip(keys, ("", "dan", ""), strict=True)
    ]
    operations = tuple(value.replace("d", "") for value in values)  # without dropout
    if operations not in (_NORMALIZED_AFTER, _NORMALIZED_BEFORE):
        shown = ", ".join(f"{key}: {value[:20]!r}" for key, value in zip(keys, values, strict=True))
        raise Unsupported(shown)
    return operations == _NORMALIZED_BEFORE


def _tied_layers(about: Mapping[str, Any], num_layers: int) -> tuple[int, ...]:
    values = about.get("transformer-tied-layers", [])
    if not isinstance(values, list):
        raise Unsupported(f"transformer-tied-layers: {str(values)[:80]}")
    tied = tuple(
        _size({"transformer-tied-layers": value}, "transformer-tied-layers") for value in values
    )
    if tied and (len(tied) != num_layers or not all(1 <= n <= num_layers for n in tied)):
        raise Unsupported(f"transformer-tied-layers: {tied}, where the decoder has {num_layers}")
    return tied
