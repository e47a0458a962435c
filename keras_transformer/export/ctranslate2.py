"""Exports a Transformer to CTranslate2, a fast engine for CPUs and GPUs."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np
from keras import ops

from keras_transformer.errors import InputError
from keras_transformer.export.new_folder import new_folder
from keras_transformer.export.verification import HARD_TEXTS, check_score, live_scores
from keras_transformer.layers.attention import MultiHeadCrossAttention, MultiHeadSelfAttention
from keras_transformer.layers.decoder import DecoderBlock
from keras_transformer.layers.encoder import EncoderBlock
from keras_transformer.model import Transformer
from keras_transformer.tensors import Tensor
from keras_transformer.text.tokenizer_pair import pieces_of, punctuation_of
from keras_transformer.translator import Translator

QUANTIZATIONS = (
    *("int8", "int8_float32", "int8_bfloat16", "int8_float16"),
    *("int16", "float16", "bfloat16", "float32"),
)

# Sinusoids have no longest sequence, but CTranslate2 reads positions from a table.
_FEWEST_POSITIONS = 1024

# The largest difference of a token's log-probability, in float32 and in other numbers.
_ROUNDING, _ROUNDING_OF_OTHERS = 1e-4, 0.1

_README = """# {name}

A model for [CTranslate2](https://github.com/OpenNMT/CTranslate2), exported from keras-transformer.
`options.json` has the options of the original's search:

```python
import json

import ctranslate2
import sentencepiece

source = sentencepiece.SentencePieceProcessor("source.spm")
target = sentencepiece.SentencePieceProcessor("target.spm")
translator = ctranslate2.Translator(".")
with open("options.json") as file:
    options = json.load(file)
pieces = source.encode(["..."], out_type=str)
results = translator.translate_batch(pieces, **options)
print(target.decode(results[0].hypotheses[0]))
```

Without the option `patience`, CTranslate2 is faster, but its beams may stop before the best
translation is found.
"""
_OTHER_NORMALIZATION = """
CTranslate2 divides a score by length ** length_penalty, and the original by
((5 + length) / 6) ** length_penalty. With beams, the best translation may therefore differ.
"""


def export_ctranslate2(
    translator: Translator,
    folder: str | os.PathLike[str],
    *,
    quantization: str | None = None,
    verify_texts: Sequence[str] = HARD_TEXTS,
) -> str:
    """Writes a model that CTranslate2 translates with.

    The folder holds CTranslate2's files, `source.spm` and `target.spm`, which split and join text,
    `options.json` with the options of the original's search, and `README.md`. It appears whole
    or not at all, and only after CTranslate2 has given the live model's translations of some texts
    the live model's log-probabilities.

    Needs the extra `ctranslate2`.

    Args:
        translator: The translator, of a Transformer.
        folder: The folder to write, which must not exist.
        quantization: One of `QUANTIZATIONS`, the numbers of the weights; None for float32.
        verify_texts: The texts to compare the two models with.

    Returns:
        The path of the folder.

    Raises:
        InputError: CTranslate2 is not installed, its format cannot hold the model, the folder
            exists, or the models differ.

    Example:
        >>> export_ctranslate2(translator, "exports/en-de", quantization="int8")
        'exports/en-de'
    """
    if quantization not in (None, *QUANTIZATIONS):
        raise InputError(
            f"quantization must be one of {', '.join(QUANTIZATIONS)}. Received:"
            f" quantization={quantization!r}. Choose one of them."
        )
    quantization = None if quantization == "float32" else quantization
    _check_format(translator)
    try:
        specification = _specification(translator)
    except ImportError as error:
        raise InputError(
            "Exporting to CTranslate2 needs the package ctranslate2. Received:"
            f" {error}. Run pip install 'keras-seq2seq-transformer[ctranslate2]'."
        ) from error
    with new_folder(folder) as unfinished:
        specification.validate()
        specification.optimize(quantization=quantization)
        specification.save(str(unfinished))
        for name in ("source", "target"):
            side = getattr(translator.tokenizer, name)
            (unfinished / f"{name}.spm").write_bytes(side.serialized_model)
        options = {
            "beam_size": translator.beam_size,
            "patience": translator.beam_size,  # otherwise it may stop before the best is found
            "length_penalty": translator.length_penalty,
            # Without the end.
            "max_decoding_length": (
                (translator.max_target_tokens or translator.most_target_tokens) - 1
            ),
            "suppress_sequences": [["<pad>"], ["<s>"]],
            "disable_unk": True,
        }
        (unfinished / "options.json").write_text(json.dumps(options, indent=2), encoding="utf-8")
        readme = _README.format(name=Path(folder).name)
        if translator.length_normalization == "gnmt":
            readme += _OTHER_NORMALIZATION
        (unfinished / "README.md").write_text(readme, encoding="utf-8")
        _verify(unfinished, translator, quantization, list(verify_texts))
    return str(folder)


def _check_format(translator: Translator) -> None:
    """Refuses a model that the format cannot hold."""
    model = translator.model
    if not isinstance(model, Transformer):
        _refuse(f"a model of class {type(model).__name__}, which is not a Transformer")
    attention = model.encoder_blocks[0].self_attention
    if attention.value_width != attention.key_width:
        _refuse(f"value_dim={attention.value_width} with head_dim={attention.key_width}")
    punctuation = punctuation_of(translator.tokenizer)
    if punctuation is not None:
        _refuse(f"punctuation={punctuation!r}, which only this package normalizes")


def _refuse(received: str) -> NoReturn:
    raise InputError(
        f"CTranslate2 must be able to hold the model. Received: {received}. Export a SavedModel"
        " instead."
    )


def _specification(translator: Translator) -> Any:
    """Returns CTranslate2's description of the model with its weights."""
    from ctranslate2.specs import TransformerSpec, common_spec

    model: Transformer = translator.model
    block = model.encoder_blocks[0]
    activations = {
        keras.activations.relu: common_spec.Activation.RELU,
        keras.activations.gelu: common_spec.Activation.GELU,
        keras.activations.silu: common_spec.Activation.SWISH,
    }
    activation = activations.get(block.feed_forward.activation)
    if activation is None:
        name = keras.activations.serialize(block.feed_forward.activation)
        _refuse(f"activation={name}, where it has relu, gelu and silu")
    specification = TransformerSpec.from_config(
        (len(model.encoder_blocks), len(model.decoder_blocks)),
        block.self_attention.num_heads,
        pre_norm=bool(model.normalizations),
        activation=activation,
    )
    _fill_stack(specification.encoder, model, "encoder", translator)
    _fill_stack(specification.decoder, model, "decoder", translator)
    kernel, bias = model.embedding.embeddings, model.embedding.bias
    specification.decoder.projection.weight = _numbers(kernel)
    specification.decoder.projection.bias = (
        np.zeros(kernel.shape[0], "float32") if bias is None else _numbers(bias)
    )
    specification.register_source_vocabulary(pieces_of(translator.tokenizer.source))
    specification.register_target_vocabulary(pieces_of(translator.tokenizer.target))
    specification.config.add_source_bos = False
    specification.config.add_source_eos = True
    specification.config.decoder_start_token = "<s>"
    specification.config.layer_norm_epsilon = block.feed_forward_residual.epsilon
    return specification


def _numbers(variable: Tensor) -> np.ndarray:
    return np.array(ops.convert_to_numpy(variable), "float32")


def _fill_stack(specification: Any, model: Transformer, stack: str, translator: Translator) -> None:
    is_encoder = stack == "encoder"
    embedding = model.source_embedding if is_encoder else model.embedding
    embeddings = specification.embeddings[0] if is_encoder else specification.embeddings
    embeddings.weight = _numbers(embedding.embeddings)
    specification.scale_embeddings = True
    most = max(translator.max_source_tokens, translator.most_target_tokens)
    num_positions = embedding.most_tokens or max(_FEWEST_POSITIONS, most)
    positions = embedding.positions(ops.arange(num_positions, dtype="int32"))
    specification.position_encodings.encodings = _numbers(positions)
    if stack in model.normalizations:
        _fill_normalization(specification.layer_norm, model.normalizations[stack])
    blocks: list[Any] = [*(model.encoder_blocks if is_encoder else model.decoder_blocks)]
    for layer, block in zip(specification.layer, blocks, strict=True):
        _fill_block(layer, block)


def _fill_block(layer: Any, block: EncoderBlock | DecoderBlock) -> None:
    _fill_attention(layer.self_attention, block.self_attention)
    _fill_normalization(
        layer.self_attention.layer_norm, block.self_attention_residual.normalization
    )
    if isinstance(block, DecoderBlock):
        _fill_attention(layer.attention, block.cross_attention)
        _fill_normalization(
            layer.attention.layer_norm, block.cross_attention_residual.normalization
        )
    _fill_linear(layer.ffn.linear_0, block.feed_forward.inner)
    _fill_linear(layer.ffn.linear_1, block.feed_forward.outer)
    _fill_normalization(layer.ffn.layer_norm, block.feed_forward_residual.normalization)


def _fill_attention(
    specification: Any, layer: MultiHeadSelfAttention | MultiHeadCrossAttention
) -> None:
    if isinstance(layer, MultiHeadSelfAttention):
        linears = [layer.query_key_value, layer.output_projection]
    else:
        linears = [layer.query_projection, layer.key_value, layer.output_projection]
    # By default, that of heads of width model_dim / num_heads.
    specification.queries_scale = np.dtype("float32").type(layer.key_width**-0.5)
    for theirs, ours in zip(specification.linear, linears, strict=True):
        _fill_linear(theirs, ours)


def _fill_linear(specification: Any, layer: keras.layers.Dense) -> None:
    specification.weight = _numbers(layer.kernel).T.copy()  # (outputs, inputs)
    specification.bias = _numbers(layer.bias)


def _fill_normalization(specification: Any, layer: keras.layers.LayerNormalization) -> None:
    specification.gamma = _numbers(layer.gamma)
    specification.beta = _numbers(layer.beta)


def _verify(
    folder: Path, translator: Translator, quantization: str | None, texts: list[str]
) -> None:
    """Compares the log-probability of each live translation."""
    import ctranslate2

    exported = ctranslate2.Translator(str(folder), device="cpu")
    live = live_scores(translator, texts)
    tokenizer = translator.tokenizer
    found = exported.score_batch(
        [tokenizer.source.pieces(one.source_ids) for one in live],
        [tokenizer.target.pieces(one.target_ids) for one in live],
    )
    for one, score in zip(live, found, strict=True):
        received = float(sum(score.log_probs))
        rounding = _ROUNDING_OF_OTHERS if quantization else _ROUNDING
        tolerance = rounding * (len(one.target_ids) + 1)
        check_score(folder, one, received, tolerance)
