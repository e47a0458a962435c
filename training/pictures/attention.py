"""A picture of the attention between a sentence and its translation."""

import math
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from keras_transformer.translator import AttentionWeights
from training.pictures.style import INK, new_figure, pixels, save_picture

COLOURS = "Blues"
SPECIAL_LABELS = {"<s>": "(start)", "</s>": "(end)"}
SPACE = "\u2581"  # how SentencePiece spells a space
CELL_INCHES = 0.5
CAPTION_WIDTH = 120
# Of the picture of all heads: room for the tokens and the colour bar, and above each map.
WIDTH_INCHES, SMALL_CELL_INCHES, LABELS_INCHES, TITLE_INCHES = 8.6, 0.17, 1.8, 0.4
CHARACTERS_PER_INCH = 11  # of the caption


def save_attention_picture(
    attention: AttentionWeights,
    path: str | Path,
    *,
    source_name: str = "source",
    target_name: str = "target",
) -> None:
    """Writes `attention_figure` as PNG.

    Args:
        attention: What `Translator.attention` returns.
        path: The file; it is replaced if it is there.
        source_name: What the horizontal axis is called.
        target_name: What the vertical axis is called.
    """
    save_picture(attention_figure(attention, source_name, target_name), path)


def attention_pixels(attention: AttentionWeights, dots_per_inch: int) -> np.ndarray:
    """`attention_figure` as the numbers of its pixels.

    Returns:
        Uint8 (height, width, 4): red, green, blue and opacity.
    """
    return pixels(attention_figure(attention, "source", "translation"), dots_per_inch)


def attention_figure(attention: AttentionWeights, source_name: str, target_name: str) -> Figure:
    """A heat map of the mean over the heads, and beside it a small one of each head."""
    num_heads, target_length, source_length = attention.weights.shape
    width, height = CELL_INCHES * source_length, CELL_INCHES * target_length
    # Not by pyplot, which would ask for a window system.
    figure = Figure(figsize=(1.8 * width + 3.2, height + 2.2), layout="constrained")
    large, small = figure.subfigures(1, 2, width_ratios=[1.3, 1], wspace=0.03)
    axes = large.subplots()
    image = _heat_map(axes, attention.weights.mean(axis=0), f"mean of the {num_heads} heads")
    _name_axes(axes, attention, source_name, target_name)
    large.colorbar(image, ax=axes, label="attention weight", shrink=0.7, ticks=[0, 0.5, 1])
    _draw_heads(small, attention.weights)
    caption = (
        "Each row is one step of the decoder: to write the token at its left, the last layer read"
        " the source tokens whose cells are dark. A row adds up to 1; what stands under a white"
        " column was not read."
    )
    caption_width = min(CAPTION_WIDTH, int(CHARACTERS_PER_INCH * figure.get_figwidth()))
    figure.suptitle("\n".join(textwrap.wrap(caption, caption_width)), color=INK, fontsize=11)
    return figure


def heads_figure(
    weights: np.ndarray,
    row_tokens: list[str],
    column_tokens: list[str],
    *,
    row_name: str,
    column_name: str,
    caption: str,
) -> Figure:
    """Heat maps of every head of every layer, a line of them for each layer.

    Args:
        weights: Float (layers, heads, query_length, key_length).
        row_tokens: What asks, as the tokenizer spells it.
        column_tokens: What is asked.
        row_name: What the vertical axis is called.
        column_name: What the horizontal axis is called.
        caption: What to see.
    """
    num_layers, num_heads, query_length, key_length = weights.shape
    width = max(WIDTH_INCHES, num_heads * key_length * SMALL_CELL_INCHES + LABELS_INCHES)
    cell = (width - LABELS_INCHES) / (num_heads * key_length)
    height = num_layers * (cell * query_length + TITLE_INCHES) + LABELS_INCHES
    figure = new_figure(width, height, caption)
    panels = figure.subplots(num_layers, num_heads, squeeze=False, sharex=True, sharey=True)
    for layer, head in np.ndindex(num_layers, num_heads):
        panel = panels[layer, head]
        image = _heat_map(panel, weights[layer, head], f"layer {layer + 1}, head {head + 1}")
    rows, columns = token_labels(row_tokens), token_labels(column_tokens)
    for panel in panels[-1]:
        panel.set_xticks(range(key_length), columns, rotation=90, fontsize=9, parse_math=False)
    for panel in panels[:, 0]:
        panel.set_yticks(range(query_length), rows, fontsize=9, parse_math=False)
    figure.supxlabel(column_name, fontsize=10)
    figure.supylabel(row_name, fontsize=10)
    figure.colorbar(image, ax=panels, label="attention weight", ticks=[0, 0.5, 1], shrink=0.6)
    return figure


def token_labels(tokens: list[str]) -> list[str]:
    """Sub-words as people read them: a piece that goes on a word begins with `+`."""
    labels = []
    for before, token in zip(["", *tokens], tokens, strict=False):
        if token in SPECIAL_LABELS:
            labels.append(SPECIAL_LABELS[token])
        elif before not in SPECIAL_LABELS and before[-1:].isalnum() and token[0].isalnum():
            labels.append(f"+{token}")
        else:
            labels.append(token.replace(SPACE, " ").strip() or "(space)")
    return labels


def _name_axes(axes: Axes, attention: AttentionWeights, source_name: str, target_name: str) -> None:
    labels = token_labels(attention.source_tokens)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(labels)), labels, parse_math=False, **turned)
    labels = token_labels(attention.target_tokens)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_xlabel(source_name)
    axes.set_ylabel(target_name)


def _draw_heads(figure, weights: np.ndarray) -> None:
    """Small heat maps in about a square, the tokens in the same order as in the large one."""
    columns = math.ceil(math.sqrt(len(weights)))
    rows = math.ceil(len(weights) / columns)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for number, (panel, head) in enumerate(zip(panels, weights, strict=False), start=1):
        _heat_map(panel, head, f"head {number}")
        panel.set(xticks=[], yticks=[])
    for panel in panels[len(weights) :]:
        panel.remove()


def _heat_map(axes: Axes, weights: np.ndarray, title: str) -> AxesImage:
    """One matrix, (target_length, source_length), with thin lines between its cells."""
    axes.set_title(title, color=INK, fontsize=10)
    image = axes.imshow(weights, cmap=COLOURS, vmin=0, vmax=1)
    for edge in ("top", "right", "bottom", "left"):
        axes.spines[edge].set_color("#bbbbbb")
    axes.tick_params(length=0)
    return image
