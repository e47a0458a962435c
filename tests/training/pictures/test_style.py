"""Pictures are written whole or not at all, and their labels do not overlap."""

import itertools
import os

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from training.pictures.style import (
    DOTS_PER_INCH,
    LINE_COLORS,
    label_ends,
    line_style,
    new_figure,
    save_picture,
    spread,
)


def crowded_figure():
    """Draws every line color, text, and a map of values: some thousands of shades."""
    figure = new_figure(4, "A title", width_inches=8)
    left, right = figure.subplots(1, 2)
    for number in range(len(LINE_COLORS)):
        left.plot([0, 1], [number, 1.7 * number], label=f"line {number}", **line_style(number))
    left.legend()
    right.imshow(np.linspace(0, 1, 900).reshape(30, 30), cmap="Blues", aspect="auto")
    return figure


def test_a_picture_with_few_colors_looks_like_the_drawn_one(tmp_path):
    path = tmp_path / "picture.png"
    save_picture(crowded_figure(), path)

    drawn = crowded_figure()
    drawn.savefig(tmp_path / "drawn.png", dpi=DOTS_PER_INCH)
    with Image.open(path) as picture, Image.open(tmp_path / "drawn.png") as whole:
        assert picture.mode == "P"
        few, many = (np.asarray(one.convert("RGB")).astype(int) for one in (picture, whole))
    assert few.shape == many.shape
    assert np.abs(few - many).max() <= 20  # of 255
    assert tuple(few[0, 0]) == (255, 255, 255)
    assert path.stat().st_size < 0.5 * (tmp_path / "drawn.png").stat().st_size


def test_a_failed_drawing_keeps_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"the old one")

    def fails(self):
        raise ValueError("no such font")

    monkeypatch.setattr(FigureCanvasAgg, "draw", fails)
    with pytest.raises(ValueError, match="no such font"):
        save_picture(crowded_figure(), path)
    assert path.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["picture.png"]


def test_places_move_apart_around_their_middle_and_no_more_than_needed():
    assert spread([], []) == []
    assert spread([5, 7], [2]) == [5, 7]
    assert spread([5, 5], [2]) == [4, 6]
    assert spread([1, 10, 10, 10.3, 50], [2, 2, 2, 2]) == pytest.approx([1, 8.1, 10.1, 12.1, 50])
    # Each pair would move into the other: all four share their middle.
    assert spread([0, 0, 1, 1], [2, 2, 2]) == [-2.5, -0.5, 1.5, 3.5]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_labels_stand_beside_the_ends_of_their_lines_without_overlap(scale):
    figure = new_figure(3, "A title")
    axes = figure.subplots()
    ends = {"low": 1.0, "two\nlines": 9.0, "nearly the same": 9.1, "the same": 9.1}
    for number, (label, end) in enumerate(ends.items()):
        axes.plot([0, 1], [5, end], label=label, **line_style(number))
    axes.plot([0, 1], [2, 2])  # has no label
    axes.set_yscale(scale)
    label_ends(axes)
    figure.draw_without_rendering()
    assert {text.get_text() for text in axes.texts} == set(ends)
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    for lower, upper in itertools.pairwise(boxes):
        assert lower.y1 <= upper.y0
    assert min(box.x0 for box in boxes) >= axes.bbox.x1
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    [low] = [text for text in axes.texts if text.get_text() == "low"]
    _, place = axes.transData.transform((1, ends["low"]))
    box = low.get_window_extent()
    assert box.y0 < place < box.y1
    assert low.get_color() == LINE_COLORS[0]
