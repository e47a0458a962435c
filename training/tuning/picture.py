"""The picture of a search: the objective of each trial, and its settings."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from keras_transformer.wording import counted
from training.pictures.style import INK, LINE_COLORS, clear_axes, new_figure, save_picture
from training.runs.monitor import LABELS
from training.tuning.plan import SearchPlan
from training.tuning.space import Choices, spelled
from training.tuning.trials import COMPLETED, FAILED, Outcome

TOP_INCHES, PANEL_INCHES, TITLE_INCHES = 3.0, 1.7, 0.4
# Of each number of epochs, from the least.
RUNG_STYLES = (
    ("#e69f00", "o"),
    ("#0072b2", "s"),
    ("#000000", "D"),
    ("#009e73", "v"),
    ("#cc79a7", "P"),
)
BEYOND = "^"  # the marker of values beyond the edge
FAILURE_COLOR = LINE_COLORS[1]
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
    columns = 2 if len(names) in (2, 4) else min(3, len(names))
    num_rows = math.ceil(len(names) / columns)
    figure = new_figure(TITLE_INCHES + TOP_INCHES + PANEL_INCHES * num_rows, _title(plan, trials))
    heights = [TOP_INCHES, *[PANEL_INCHES] * num_rows]
    grid = figure.add_gridspec(1 + num_rows, columns, height_ratios=heights)
    points = _Points(completed, limits[1])
    top = figure.add_subplot(grid[0, :])
    _draw_progress(top, plan, trials, points)
    _finish(top, plan, limits)
    for place, name in enumerate(names):
        row, column = divmod(place, columns)
        panel = figure.add_subplot(grid[1 + row, column])
        _draw_setting(panel, plan, name, completed, points)
        _finish(panel, plan, limits)
        panel.tick_params(labelleft=column == 0)
        panel.set_ylabel("")
    return figure


def _title(plan: SearchPlan, trials: Sequence[Outcome]) -> str:
    better = "lower" if plan.sign > 0 else "higher"
    return f"{counted(len(trials), 'trial')} of a {plan.algorithm} search ({better} is better)"


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
    """Draws completed trials in a color for each number of epochs; triangles are off the edge."""

    def __init__(self, completed: Sequence[Outcome], edge: float):
        epochs = sorted({outcome.epochs for outcome in completed})
        last, most = len(epochs) - 1, len(RUNG_STYLES) - 1
        self.styles = {
            number: RUNG_STYLES[place if last <= most else place * most // last]
            for place, number in enumerate(epochs)
        }
        self.edge = edge
        self.has_triangles = any(self._is_beyond(outcome) for outcome in completed)

    def _is_beyond(self, outcome: Outcome) -> bool:
        return outcome.objective > self.edge

    def draw(self, axes: Axes, place: float, outcome: Outcome, size: float) -> None:
        color, marker = self.styles[outcome.epochs]
        if self._is_beyond(outcome):
            self._scatter(axes, [place], [self.edge], size, color, BEYOND)
        else:
            self._scatter(axes, [place], [outcome.objective], size, color, marker)

    def enter_in_legend(self, axes: Axes, size: float) -> None:
        for epochs, (color, marker) in self.styles.items():
            self._scatter(axes, [], [], size, color, marker, counted(epochs, "epoch"))
        if self.has_triangles:
            self._scatter(axes, [], [], size, INK, BEYOND, "off the scale")

    def _scatter(self, axes, places, heights, size, color, marker, label=None):
        style = {"edgecolors": "white", "linewidths": 0.6, "zorder": 3, "clip_on": False}
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
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _draw_setting(
    axes: Axes, plan: SearchPlan, name: str, completed: Sequence[Outcome], points: _Points
) -> None:
    dimension = plan.space.dimensions[name]
    is_list = isinstance(dimension, Choices)  # listed values are spaced evenly
    for outcome in completed:
        value = outcome.settings[name]
        place = dimension.values.index(value) if is_list else value
        points.draw(axes, place, outcome, 24)
    axes.set_xlabel(name)
    if is_list:
        axes.set_xticks([*range(len(dimension.values))], [*map(spelled, dimension.values)])
        axes.set_xlim(-0.5, len(dimension.values) - 0.5)
    elif dimension.is_log:
        axes.set_xlabel(f"{name}\n(log scale)")
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
    axes.set_ylabel(LABELS[plan.objective] + "\n(log scale)" * (axes.get_yscale() == "log"))


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
