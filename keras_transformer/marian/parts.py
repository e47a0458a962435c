"""Which tensor of a Marian model is which part of ours.

Tensors have Marian's names and orientation: kernels are (inputs, outputs), biases (1, outputs).
`channel_order` says how the two orders of the channels of model_dim differ.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_transformer.config import TransformerConfig
from keras_transformer.model import Transformer

LOGIT_BIAS = "decoder_ff_logit_out_b"

Layer: TypeAlias = Callable[[Transformer], Any]


class Part(NamedTuple):
    """A tensor of a Marian model, and its place in ours.

    Attributes:
        name: Marian's name.
        shape: The shape in the file.
        variable: Returns our variable, of which the tensor is all or some columns.
        first_column: Where the tensor begins among the variable's columns.
        model_axis: The axis that is model_dim and has another order of channels: 0, 1 or None.
    """

    name: str
    shape: tuple[int, int]
    variable: Callable[[Transformer], keras.Variable]
    first_column: int = 0
    model_axis: int | None = None


def channel_order(model_dim: int) -> np.ndarray:
    """Returns for each of our channels the number of Marian's.

    The paper alternates the sines and cosines of positions; Marian has all sines first. A sum of
    positions and embeddings stays the same if all channels of model_dim are renamed.
    """
    return np.arange(model_dim).reshape(2, model_dim // 2).T.ravel()


def parts_of(config: TransformerConfig, tied_layers: tuple[int, ...] = ()) -> Iterator[Part]:
    """Yields every part of a model except embeddings and the output bias.

    Args:
        config: The model's settings.
        tied_layers: For each decoder layer the number of the layer whose tensors it uses, counted
            from 1; () if each has its own.
    """
    for index in range(config.num_layers):
        yield from _block(config, f"encoder_l{index + 1}", _nth("encoder_blocks", index), ["self"])
    for index in range(config.decoder_layers):
        number = tied_layers[index] if tied_layers else index + 1
        block = _nth("decoder_blocks", index)
        yield from _block(config, f"decoder_l{number}", block, ["self", "context"])
    if config.normalize_first:
        for stack in ("encoder", "decoder"):
            layer = _in(lambda model: model.normalizations, stack)
            yield from _normalization(config, f"{stack}_top_ln_{{}}", layer)


def embeddings_of(config: TransformerConfig) -> dict[str, Callable[[Transformer], keras.Variable]]:
    """Returns the embedding matrices by Marian's names, (vocabulary, model_dim) each."""
    target: Callable[[Transformer], keras.Variable] = lambda model: model.embedding.embeddings  # noqa: E731
    if config.source_vocabulary_size is None:
        return {"Wemb": target}
    return {
        "encoder_Wemb": lambda model: model.source_embedding.embeddings,
        "decoder_Wemb": target,
    }


def assign_parts(
    model: Transformer, parts: Iterator[Part], read: Callable[[str], np.ndarray]
) -> None:
    """Assigns tensors, which `read` returns by name, to a model."""
    order = channel_order(model.embedding.model_dim)
    arrays: dict[int, tuple[keras.Variable, np.ndarray]] = {}
    for part in parts:
        variable = part.variable(model)
        _, array = arrays.setdefault(id(variable), (variable, np.empty(variable.shape, "float32")))
        tensor = read(part.name).astype("float32")  # part.shape
        if part.model_axis is not None:
            tensor = tensor.take(order, part.model_axis)
        columns = slice(part.first_column, part.first_column + part.shape[1])
        array[..., columns] = tensor if array.ndim == 2 else tensor[0]
    for variable, array in arrays.values():
        variable.assign(array)


def tensors_of(model: Transformer, config: TransformerConfig) -> Mapping[str, np.ndarray]:
    """Returns a model's parts as tensors of Marian: the reverse of `assign_parts`."""
    back = np.argsort(channel_order(config.model_dim))
    tensors = {}
    for part in parts_of(config):
        array = np.atleast_2d(ops.convert_to_numpy(part.variable(model)))
        array = array[:, part.first_column : part.first_column + part.shape[1]]
        if part.model_axis is not None:
            array = array.take(back, part.model_axis)
        tensors[part.name] = array
    return tensors


def _nth(blocks: str, index: int) -> Layer:
    return lambda model: getattr(model, blocks)[index]


def _in(layer: Layer, *names: str) -> Layer:
    """Returns the attribute, or the item, of a layer that has these names, one within the other."""

    def found(model: Transformer) -> Any:
        value = layer(model)
        for name in names:
            value = value[name] if isinstance(value, dict) else getattr(value, name)
        return value

    return found


def _block(
    config: TransformerConfig, prefix: str, block: Layer, attentions: list[str]
) -> Iterator[Part]:
    for attention in attentions:
        ours = {"self": "self_attention", "context": "cross_attention"}[attention]
        yield from _attention(config, f"{prefix}_{attention}", _in(block, ours))
        norm = _in(block, f"{ours}_residual", "normalization")
        yield from _sublayer_normalization(config, f"{prefix}_{attention}_Wo", norm)
    width, inner = config.model_dim, config.feed_forward_dim
    layer = _in(block, "feed_forward")
    yield from _linear(f"{prefix}_ffn_{{}}1", (width, inner), _in(layer, "inner"), model_axis=0)
    yield from _linear(f"{prefix}_ffn_{{}}2", (inner, width), _in(layer, "outer"), model_axis=1)
    norm = _in(block, "feed_forward_residual", "normalization")
    yield from _sublayer_normalization(config, f"{prefix}_ffn_ffn", norm)


def _attention(config: TransformerConfig, prefix: str, layer: Layer) -> Iterator[Part]:
    """Yields queries, keys, values and output; ours are fused side by side."""
    width = config.model_dim
    if prefix.endswith("self"):
        places = {"q": ("query_key_value", 0), "k": ("query_key_value", 1)}
        places["v"] = ("query_key_value", 2)
    else:
        places = {"q": ("query_projection", 0), "k": ("key_value", 0), "v": ("key_value", 1)}
    for letter, (projection, place) in places.items():
        yield from _linear(
            f"{prefix}_{{}}{letter}",
            (width, width),
            _in(layer, projection),
            first_column=place * width,
            model_axis=0,
        )
    output = _in(layer, "output_projection")
    yield from _linear(f"{prefix}_{{}}o", (width, width), output, model_axis=1)


def _linear(
    name: str, shape: tuple[int, int], layer: Layer, *, first_column: int = 0, model_axis: int
) -> Iterator[Part]:
    yield Part(name.format("W"), shape, _in(layer, "kernel"), first_column, model_axis)
    bias_axis = 1 if model_axis == 1 else None
    yield Part(name.format("b"), (1, shape[1]), _in(layer, "bias"), first_column, bias_axis)


def _sublayer_normalization(config: TransformerConfig, prefix: str, layer: Layer) -> Iterator[Part]:
    suffix = "_pre" if config.normalize_first else ""
    return _normalization(config, f"{prefix}_ln_{{}}{suffix}", layer)


def _normalization(config: TransformerConfig, name: str, layer: Layer) -> Iterator[Part]:
    shape = 1, config.model_dim
    yield Part(name.format("scale"), shape, _in(layer, "gamma"), model_axis=1)
    yield Part(name.format("bias"), shape, _in(layer, "beta"), model_axis=1)
