"""Colors and layout of the project's pictures, and functions that draw and save them."""

import textwrap
import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from training.pictures.fonts import choose_fonts
from training.runs.files import replacing

INK = "#333333"
GRID = "#dddddd"
# Color-blind readers can tell these apart, too (Okabe and Ito); strongest first.
LINE_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#000000",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#999999",
)
MARKERS = "osD^vPX*"
DOTS_PER_INCH = 120
CHARACTERS_PER_INCH = 12  # of a caption


def new_figure(
    width_inches: float,
    height_inches: float,
    caption: str,
    font_size: float = 10.5,
    line_length: int | None = None,
) -> Figure:
    """Returns an empty figure with a caption on top.

    Args:
        width_inches: About 8.6 fills the width of a README.
        height_inches: The height, including the caption.
        caption: The explanation of the picture.
        font_size: The caption's font size, in points.
        line_length: The caption's longest line, in characters; None to fill about the width.
    """
    # Not by pyplot, which would need a window system.
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    lines = textwrap.wrap(caption, line_length or int(CHARACTERS_PER_INCH * width_inches))
    figure.suptitle("\n".join(lines), color=INK, fontsize=font_size)
    return figure


def clear_axes(axes: Axes) -> None:
    """Reduces the frame to two axes and thin horizontal lines."""
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def line_style(number: int) -> dict:
    """Returns the style of line `number`, counted from 0; the same in every picture."""
    return {
        "color": LINE_COLOURS[number % len(LINE_COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linewidth": 2.0,
        "markersize": 5.5,
    }


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
