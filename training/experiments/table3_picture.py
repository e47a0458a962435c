"""The picture of Table 3: the difference of each row from "base", measured and in the paper."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.pictures.style import GRID, INK, LINE_COLOURS, new_figure

HEAD_INCHES, ROW_INCHES = 2.1, 0.27


def results_figure(measured: Mapping[str, Mapping], paper: Mapping, how: str) -> Figure:
    """Draws the perplexity and BLEU of each row relative to "base".

    Args:
        measured: For each row, including "base", our "val_perplexity" and "bleu".
        paper: `Published` numbers for each row.
        how: A description of our trainings, for the caption.
    """
    rows = [row for row in measured if row != "base"]
    caption = (
        "What each row of Table 3 changes against its own base model. Better is to the left of the"
        " line in the left panel and to the right in the right panel; filled and hollow marks on"
        f" the same side agree. Ours: {how}. The paper's: WMT 2014 English-German, newstest2013."
    )
    figure = new_figure(8.6, HEAD_INCHES + ROW_INCHES * len(rows), caption)
    left, right = figure.subplots(1, 2, sharey=True)
    base = measured["base"]
    _draw(
        left,
        [100 * (measured[row]["val_perplexity"] / base["val_perplexity"] - 1) for row in rows],
        [100 * (paper[row].perplexity / paper["base"].perplexity - 1) for row in rows],
    )
    left.set_xlabel(f"dev perplexity against base, %\n(ours: {base['val_perplexity']:.2f})")
    _draw(
        right,
        [measured[row]["bleu"] - base["bleu"] for row in rows],
        [paper[row].bleu - paper["base"].bleu for row in rows],
    )
    right.set_xlabel(f"dev BLEU against base, points\n(ours: {base['bleu']:.1f})")
    left.set_yticks(range(len(rows)), [row.replace("_", " ") for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _draw(axes: Axes, ours: list[float], papers: list[float]) -> None:
    places = range(len(ours))
    axes.axvline(0, color=INK, linewidth=1)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    style = {"linestyle": "none", "markersize": 7}
    axes.plot(ours, places, "o", color=LINE_COLOURS[0], label="ours", **style)
    axes.plot(
        papers, places, "D", color=LINE_COLOURS[1], fillstyle="none", label="the paper's", **style
    )
