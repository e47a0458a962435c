"""Draws attention: between a sentence and its translation, and of every head in a model."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from training.pictures.style import INK, TEXT_POINTS, new_figure, pixels, save_picture

if TYPE_CHECKING:
    from keras_transformer.translator import AttentionWeights

COLORS = "Blues"
SCALE = "attention weight"
SPECIAL_LABELS = {"<s>": "(start)", "</s>": "(end)"}
SPACE = "\u2581"  # SentencePiece's space
# Of the large map: as wide as fits, unless labels of 10 points would overlap.
NARROWEST_CELL_INCHES, WIDEST_CELL_INCHES, MAP_INCHES = 0.2, 0.45, 3.9
SMALL_MAP_INCHES, SMALL_MAPS_IN_A_ROW = 1.3, 4
# Of the picture of every head.
SMALL_CELL_INCHES, SMALL_POINTS = 0.137, 9


def save_attention_picture(
    attention: "AttentionWeights",
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


def attention_pixels(attention: "AttentionWeights", dots_per_inch: int) -> np.ndarray:
    """Returns `attention_figure` as pixels: Uint8 (height, width, 4), RGBA."""
    return pixels(attention_figure(attention, "source", "translation"), dots_per_inch)


def attention_figure(attention: "AttentionWeights", source_name: str, target_name: str) -> Figure:
    """Draws a heat map of the mean over the heads, above a small heat map of each head.

    Each row is one step of the decoder: to write the token on its left, the layer attended to the
    source tokens with dark cells. Each row adds up to 1.
    """
    num_heads, target_length, source_length = attention.weights.shape
    rows, columns = token_labels(attention.target_tokens), token_labels(attention.source_tokens)
    cell = np.clip(MAP_INCHES / source_length, NARROWEST_CELL_INCHES, WIDEST_CELL_INCHES)
    maps_in_a_row = min(num_heads, SMALL_MAPS_IN_A_ROW)
    map_rows = math.ceil(num_heads / maps_in_a_row)
    large_width = cell * source_length + _inches(rows) + 1.2
    width = max(large_width, SMALL_MAP_INCHES * maps_in_a_row + 0.4)
    small_cell = min(0.6 * cell, (width / maps_in_a_row - 0.1) / source_length)
    small_height = map_rows * (0.3 + small_cell * target_length)
    large_height = cell * target_length + 0.7 * _inches(columns) + 0.6
    title = "Attention to the source, last decoder layer"
    figure = new_figure(0.3 + large_height + small_height, title, width)
    large, small = figure.subfigures(2, 1, height_ratios=[large_height, small_height])
    axes = large.subplots()
    image = _heat_map(axes, attention.weights.mean(axis=0), f"mean of the {num_heads} heads")
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(source_length), columns, parse_math=False, **turned)
    axes.set_yticks(range(target_length), rows, parse_math=False)
    axes.set(xlabel=source_name, ylabel=target_name)
    large.colorbar(image, ax=axes, label=SCALE, ticks=[0, 0.5, 1], format="%g", shrink=0.7)
    panels = small.subplots(map_rows, maps_in_a_row, squeeze=False).flat
    for number, (panel, head) in enumerate(zip(panels, attention.weights, strict=False), start=1):
        _heat_map(panel, head, f"head {number}")
        panel.set(xticks=[], yticks=[])
    for panel in panels[num_heads:]:
        panel.remove()
    return figure


def heads_figure(
    weights: np.ndarray,
    row_tokens: list[str],
    column_tokens: list[str],
    *,
    row_name: str,
    column_name: str,
    title: str,
) -> Figure:
    """Draws heat maps of every head, with a row for each layer.

    Args:
        weights: Float (layers, heads, query_length, key_length).
        row_tokens: The tokens of the queries, as the tokenizer spells them.
        column_tokens: The tokens of the keys.
        row_name: The label of the vertical axis.
        column_name: The label of the horizontal axis.
        title: The picture's title.
    """
    num_layers, num_heads, query_length, key_length = weights.shape
    rows, columns = token_labels(row_tokens), token_labels(column_tokens)
    width = num_heads * (key_length * SMALL_CELL_INCHES + 0.1) + _inches(rows) + 0.9
    height = num_layers * (query_length * SMALL_CELL_INCHES + 0.28) + _inches(columns) + 0.6
    figure = new_figure(height, title, width)
    panels = figure.subplots(num_layers, num_heads, squeeze=False, sharex=True, sharey=True)
    for layer, head in np.ndindex(num_layers, num_heads):
        panel = panels[layer, head]
        image = _heat_map(panel, weights[layer, head], f"layer {layer + 1}, head {head + 1}")
    small = {"fontsize": SMALL_POINTS, "parse_math": False}
    for panel in panels[-1]:
        panel.set_xticks(range(key_length), columns, rotation=90, **small)
    for panel in panels[:, 0]:
        panel.set_yticks(range(query_length), rows, **small)
    figure.supxlabel(column_name, fontsize=TEXT_POINTS)
    figure.supylabel(row_name, fontsize=TEXT_POINTS)
    about = {"label": SCALE, "ticks": [0, 0.5, 1], "format": "%g"}
    figure.colorbar(image, ax=panels, shrink=0.7, aspect=30, pad=0.01, **about)
    return figure


def _inches(labels: list[str]) -> float:
    """Returns about the length of the longest label."""
    return 0.085 * max(map(len, labels))


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


def _heat_map(axes: Axes, weights: np.ndarray, title: str) -> AxesImage:
    """Draws a heat map; `weights`: Float (target_length, source_length)."""
    axes.set_title(title, color=INK, fontsize=SMALL_POINTS)
    image = axes.imshow(weights, cmap=COLORS, vmin=0, vmax=1)
    axes.spines[:].set_color("#bbbbbb")
    axes.tick_params(length=0)
    return image
