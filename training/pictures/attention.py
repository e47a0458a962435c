"""Draws attention: between a sentence and its translation, and of every head in a model."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from keras_transformer.translator import AttentionWeights
from training.pictures.style import INK, new_figure, pixels, save_picture

COLORS = "Blues"
SPECIAL_LABELS = {"<s>": "(start)", "</s>": "(end)"}
SPACE = "\u2581"  # SentencePiece's space
CELL_INCHES = 0.5
CAPTION = (
    "Each row is one step of the decoder: to write the token on its left, the last layer attended"
    " to the source tokens with dark cells. Each row adds up to 1; a white cell means no attention."
)
# For the picture of every head. The labels' space includes the color bar; each map has a title.
WIDTH_INCHES, SMALL_CELL_INCHES, LABELS_INCHES, TITLE_INCHES = 8.6, 0.17, 1.8, 0.4


def save_attention_picture(
    attention: AttentionWeights,
    path: str | Path,
    *,
    source_name: str = "source",
    target_name: str = "target",
) -> None:
    """Writes `attention_figure` to a PNG file, or replaces the file.

    Args:
        attention: The result of `Translator.attention`.
        path: The file to write.
        source_name: The label of the horizontal axis.
        target_name: The label of the vertical axis.
    """
    save_picture(attention_figure(attention, source_name, target_name), path)


def attention_pixels(attention: AttentionWeights, dots_per_inch: int) -> np.ndarray:
    """Returns `attention_figure` as pixels: Uint8 (height, width, 4), RGBA."""
    return pixels(attention_figure(attention, "source", "translation"), dots_per_inch)


def attention_figure(attention: AttentionWeights, source_name: str, target_name: str) -> Figure:
    """Draws a heat map of the mean over the heads, beside a small heat map of each head."""
    num_heads, target_length, source_length = attention.weights.shape
    width = 1.8 * CELL_INCHES * source_length + 3.2
    height = CELL_INCHES * target_length + 2.2
    figure = new_figure(width, height, CAPTION, font_size=11, line_length=min(120, int(11 * width)))
    large, small = figure.subfigures(1, 2, width_ratios=[1.3, 1], wspace=0.03)
    axes = large.subplots()
    image = _heat_map(axes, attention.weights.mean(axis=0), f"mean of the {num_heads} heads")
    labels = token_labels(attention.source_tokens)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(source_length), labels, parse_math=False, **turned)
    labels = token_labels(attention.target_tokens)
    axes.set_yticks(range(target_length), labels, parse_math=False)
    axes.set(xlabel=source_name, ylabel=target_name)
    large.colorbar(image, ax=axes, label="attention weight", shrink=0.7, ticks=[0, 0.5, 1])
    _draw_heads(small, attention.weights)
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
    """Draws heat maps of every head, with a row for each layer.

    Args:
        weights: Float (layers, heads, query_length, key_length).
        row_tokens: The tokens of the queries, as the tokenizer spells them.
        column_tokens: The tokens of the keys.
        row_name: The label of the vertical axis.
        column_name: The label of the horizontal axis.
        caption: The explanation above the maps.
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
    """Returns sub-words as people read them: one that continues a word begins with `+`."""
    labels = []
    for before, token in zip(["", *tokens], tokens, strict=False):
        if token in SPECIAL_LABELS:
            labels.append(SPECIAL_LABELS[token])
        elif before not in SPECIAL_LABELS and before[-1:].isalnum() and token[0].isalnum():
            labels.append(f"+{token}")
        else:
            labels.append(token.replace(SPACE, " ").strip() or "(space)")
    return labels


def _draw_heads(figure, weights: np.ndarray) -> None:
    """Draws small heat maps, arranged roughly in a square."""
    columns = math.ceil(math.sqrt(len(weights)))
    rows = math.ceil(len(weights) / columns)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for number, (panel, head) in enumerate(zip(panels, weights, strict=False), start=1):
        _heat_map(panel, head, f"head {number}")
        panel.set(xticks=[], yticks=[])
    for panel in panels[len(weights) :]:
        panel.remove()


def _heat_map(axes: Axes, weights: np.ndarray, title: str) -> AxesImage:
    """Draws a heat map; `weights`: Float (target_length, source_length)."""
    axes.set_title(title, color=INK, fontsize=10)
    image = axes.imshow(weights, cmap=COLORS, vmin=0, vmax=1)
    axes.spines[:].set_color("#bbbbbb")
    axes.tick_params(length=0)
    return image
