"""Pictures are written whole or not at all."""

import os

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from training.pictures.style import (
    DOTS_PER_INCH,
    LINE_COLOURS,
    line_style,
    new_figure,
    save_picture,
)


def crowded_figure():
    """Draws every line color, text, and a map of values: some thousands of shades."""
    figure = new_figure(8, 4, "A caption that is read.")
    left, right = figure.subplots(1, 2)
    for number in range(len(LINE_COLOURS)):
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
