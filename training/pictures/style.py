"""Colors and layout of the project's pictures, and functions that draw and save them."""

import itertools
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image

from training.pictures.fonts import choose_fonts
from training.runs.files import replacing

INK = "#333333"
GRID = "#dddddd"
# Color-blind readers can tell these apart, too (Okabe and Ito); strongest first.
LINE_COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#000000",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)
MARKERS = "osD^vPX"
# Narrow enough that letters of 10 points are legible at the width of a phone.
WIDTH_INCHES = 5.8
DOTS_PER_INCH = 165
TITLE_POINTS, TEXT_POINTS = 11, 10
LABEL_GAP_POINTS = 1.25 * TEXT_POINTS  # between the middles of two end labels


def new_figure(height_inches: float, title: str, width_inches: float = WIDTH_INCHES) -> Figure:
    """Returns an empty figure with a title of one line; explanations belong under the picture."""
    # Not by pyplot, which would need a window system.
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    figure.suptitle(title, color=INK, fontsize=TITLE_POINTS)
    return figure


def clear_axes(axes: Axes) -> None:
    """Reduces the frame to two axes and thin horizontal lines."""
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def length_axis(axes: Axes, lengths: Sequence[int], labels: Sequence[str] | None = None) -> None:
    """Makes the horizontal axis logarithmic, with a tick at each length."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, labels or [f"{length:,}" for length in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    clear_axes(axes)


def line_style(number: int) -> dict:
    """Returns the style of line `number`, counted from 0; the same in every picture."""
    return {
        "color": LINE_COLORS[number % len(LINE_COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linewidth": 2.0,
        "markersize": 5.5,
    }


def draw_seeds(
    axes: Axes, places: Sequence[float], values: Sequence[Sequence[float]], label: str, style: dict
) -> None:
    """Draws the mean of several seeds as a line, and their range as a band.

    Args:
        axes: The axes to draw in.
        places: Float (places,), the horizontal places.
        values: Float (places, seeds).
        label: The line's label.
        style: The line's style, as from `line_style`.
    """
    lowest, highest = [[choose(seeds) for seeds in values] for choose in (min, max)]
    axes.fill_between(places, lowest, highest, color=style["color"], alpha=0.18, linewidth=0)
    axes.plot(places, [statistics.mean(seeds) for seeds in values], label=label, **style)


def label_ends(axes: Axes) -> None:
    """Writes each line's label beside its right end, in its color, without overlap.

    Call this last, since it lays the figure out to find the ends.
    """
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    axes.figure.draw_without_rendering()
    ends = [(axes.transData.transform(line.get_xydata()[-1])[1], line) for line in lines]
    ends.sort(key=lambda end: end[0])
    pixels_per_point = axes.figure.dpi / 72
    heights = [1 + line.get_label().count("\n") for _, line in ends]
    gaps = [
        LABEL_GAP_POINTS * pixels_per_point * (lower + upper) / 2
        for lower, upper in itertools.pairwise(heights)
    ]
    places = spread([end for end, _ in ends], gaps)
    for place, (_, line) in zip(places, ends, strict=True):
        axes.annotate(
            line.get_label(),
            (1, (place - axes.bbox.y0) / axes.bbox.height),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=line.get_color(),
            fontsize=TEXT_POINTS,
        )


def spread(places: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """Moves ascending places apart by at least the gaps between them, and as little as possible."""
    offsets = [sum(gaps[:number]) for number in range(len(places))]
    # Places that would be too close form a group around their mean.
    groups = []
    for place, offset in zip(places, offsets, strict=True):
        group = [place - offset]
        while groups and statistics.mean(groups[-1]) > statistics.mean(group):
            group = groups.pop() + group
        groups.append(group)
    means = [statistics.mean(group) for group in groups for _ in group]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def pixels(figure: Figure, dots_per_inch: int) -> np.ndarray:
    """Returns a figure as RGBA pixels, Uint8 (height, width, 4), with fonts for all its letters."""
    figure.set_dpi(dots_per_inch)
    canvas = FigureCanvasAgg(figure)
    choose_fonts(figure)
    with warnings.catch_warnings():  # choose_fonts has warned about these, with more help
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()
    return np.array(canvas.buffer_rgba())


def save_picture(figure: Figure, path: str | Path) -> None:
    """Writes or replaces a PNG file, whole or not at all.

    Keeps only 256 colors, mostly shades at the edges of letters and lines: the difference is
    invisible, and the file is a third as large.
    """
    picture = Image.fromarray(pixels(figure, DOTS_PER_INCH)).convert("RGB")
    few_colors = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    with replacing(Path(path)) as temporary:
        few_colors.save(temporary, format="PNG", optimize=True, dpi=2 * (DOTS_PER_INCH,))
