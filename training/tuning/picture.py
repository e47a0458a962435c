"""The picture of a search: the objective of each trial, and its settings."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from keras_transformer.wording import counted
from training.pictures.style import INK, LINE_COLOURS, clear_axes, new_figure, save_picture
from training.runs.monitor import LABELS
from training.tuning.plan import SearchPlan
from training.tuning.space import Choices, spelled
from training.tuning.trials import COMPLETED, FAILED, Outcome

WIDTH_INCHES = 8.6
TOP_INCHES, PANEL_INCHES, CAPTION_INCHES = 3.0, 2.0, 0.7
PANELS_IN_A_ROW = 4
RUNG_COLORS = ("#9ecae1", "#4292c6", "#08519c", "#08306b", "#000000")  # light to dark: more epochs
FAILURE_COLOR = LINE_COLOURS[1]
# Perplexities above this many times the median would squeeze all others together.
FARTHEST = 10.0


def draw_trials(plan: SearchPlan, outcomes: Sequence[Outcome], path: Path) -> None:
    """Writes the picture as PNG; at least one trial must be completed."""
    save_picture(trials_figure(plan, outcomes), path)


def trials_figure(plan: SearchPlan, outcomes: Sequence[Outcome]) -> Figure:
    """Draws the objective by trial, with the best so far; below it, by each tuned setting."""
    names = [*plan.space.dimensions]
    trials = [outcome for outcome in outcomes if outcome.trial is not None]
    completed = [outcome for outcome in trials if outcome.status == COMPLETED]
    limits = _limits(plan, [outcome.objective for outcome in completed])
    has_triangles = any(outcome.objective > limits[1] for outcome in completed)
    num_rows = math.ceil(len(names) / PANELS_IN_A_ROW)
    height = CAPTION_INCHES + TOP_INCHES + PANEL_INCHES * num_rows
    figure = new_figure(WIDTH_INCHES, height, _caption(plan, has_triangles))
    grid = figure.add_gridspec(
        1 + num_rows,
        min(PANELS_IN_A_ROW, len(names)),
        height_ratios=[TOP_INCHES, *[PANEL_INCHES] * num_rows],
    )
    points = _Points(completed, limits[1])
    top = figure.add_subplot(grid[0, :])
    _draw_progress(top, plan, trials, points)
    _finish(top, plan, limits)
    for place, name in enumerate(names):
        row, column = divmod(place, PANELS_IN_A_ROW)
        panel = figure.add_subplot(grid[1 + row, column])
        _draw_setting(panel, plan, name, completed, points)
        _finish(panel, plan, limits)
        panel.tick_params(labelleft=column == 0)
        panel.set_ylabel("" if column else LABELS[plan.objective], fontsize=8.5)
    return figure


def _caption(plan: SearchPlan, has_triangles: bool) -> str:
    better = "lower" if plan.sign > 0 else "higher"
    text = (
        f"{LABELS[plan.objective].capitalize()} of each trial ({better} is better) and the best so"
        " far; below, plotted over each tuned setting."
    )
    if plan.algorithm == "hyperband":
        text += " Compare points of one color only: more epochs make any trial better."
    if has_triangles:
        text += " Triangles mark values far above the plot."
    return text


def _limits(plan: SearchPlan, values: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of the objective's axis, without perplexities far above the others."""
    low, high = min(values), max(values)
    if plan.sign < 0:  # a score from 0 to 100
        margin = 0.06 * max(high - low, 1.0)
        return low - margin, high + margin
    high = min(high, FARTHEST * sorted(values)[len(values) // 2])
    margin = 1.06 * max(high / low, 1.05) ** 0.06
    return low / margin, high * margin


class _Points:
    """Draws completed trials, darker for more epochs; triangles mark values beyond the edge."""

    def __init__(self, completed: Sequence[Outcome], edge: float):
        epochs = sorted({outcome.epochs for outcome in completed})
        last, most = len(epochs) - 1, len(RUNG_COLORS) - 1
        self.colors = {
            number: RUNG_COLORS[place if last <= most else place * most // last]
            for place, number in enumerate(epochs)
        }
        if last == 0:
            self.colors = {epochs[0]: LINE_COLOURS[0]}
        self.edge = edge

    def draw(self, axes: Axes, place: float, outcome: Outcome, size: float) -> None:
        is_beyond = outcome.objective > self.edge
        height = self.edge if is_beyond else outcome.objective
        self._scatter(axes, [place], [height], outcome.epochs, size, "^" if is_beyond else "o")

    def enter_in_legend(self, axes: Axes, size: float) -> None:
        for epochs in self.colors:
            self._scatter(axes, [], [], epochs, size, "o", label=counted(epochs, "epoch"))

    def _scatter(self, axes, places, heights, epochs, size, marker, label=None):
        style = {"edgecolors": "white", "linewidths": 0.6, "zorder": 3, "clip_on": False}
        color = self.colors[epochs]
        axes.scatter(places, heights, s=size, marker=marker, label=label, color=color, **style)


def _draw_progress(
    axes: Axes, plan: SearchPlan, trials: Sequence[Outcome], points: _Points
) -> None:
    best, best_so_far, failed = math.nan, [], []
    for place, outcome in enumerate(trials):  # Keras Tuner numbers trials from 0
        if outcome.status == COMPLETED:
            points.draw(axes, place, outcome, 42)
            is_better = math.isnan(best) or plan.sign * outcome.objective < plan.sign * best
            best = outcome.objective if is_better else best
        elif outcome.status == FAILED:
            failed.append(place)
        best_so_far.append(best)
    axes.step(range(len(trials)), best_so_far, "", where="post", color=INK, label="best so far")
    points.enter_in_legend(axes, 42)
    if failed:
        bottom = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        heights = [0.02] * len(failed)
        axes.plot(failed, heights, "x", color=FAILURE_COLOR, label="failed", **bottom)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.5, len(trials) - 0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


def _draw_setting(
    axes: Axes, plan: SearchPlan, name: str, completed: Sequence[Outcome], points: _Points
) -> None:
    dimension = plan.space.dimensions[name]
    is_list = isinstance(dimension, Choices)  # listed values are spaced evenly
    for outcome in completed:
        value = outcome.settings[name]
        place = dimension.values.index(value) if is_list else value
        points.draw(axes, place, outcome, 24)
    axes.set_xlabel(name, fontsize=9)
    axes.tick_params(labelsize=8)
    if is_list:
        axes.set_xticks([*range(len(dimension.values))], [*map(spelled, dimension.values)])
        axes.set_xlim(-0.5, len(dimension.values) - 0.5)
    elif dimension.is_log:
        axes.set_xscale("log")
        axes.set_xlim(dimension.minimum / 1.1, dimension.maximum * 1.1)
        axes.set_xticks([dimension.minimum, dimension.maximum])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _finish(axes: Axes, plan: SearchPlan, limits: tuple[float, float]) -> None:
    clear_axes(axes)
    if plan.objective == "val_perplexity":
        axes.set_yscale("log")
        ticks = _ticks(*limits)
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(*limits)
    axes.set_ylabel(LABELS[plan.objective])


def _ticks(low: float, high: float) -> list[float]:
    """Returns a few round numbers between the ends of a logarithmic axis."""
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), [n / 10 for n in range(10, 100, 2)]):
        ticks = [
            step * 10.0**power
            for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for step in steps
            if low <= step * 10.0**power <= high
        ]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / 8)]
    return [low, high]
