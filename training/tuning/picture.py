"""The picture of a search: what each trial reached, and by what settings."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from training.pictures.style import INK, LINE_COLOURS, clear_axes, new_figure, save_picture
from training.runs.monitor import LABELS
from training.tuning.plan import SearchPlan
from training.tuning.report import COMPLETED, FAILED, Row, spelled
from training.tuning.space import Choices

WIDTH_INCHES = 8.6
TOP_INCHES, PANEL_INCHES, CAPTION_INCHES = 3.0, 2.0, 0.7
PANELS_IN_A_ROW = 4
RUNG_COLOURS = ("#9ecae1", "#4292c6", "#08519c", "#08306b", "#000000")  # light to dark: more epochs
FAILURE_COLOUR = LINE_COLOURS[1]
# Beyond so many times the median the perplexity of a trial would press all others together.
FARTHEST = 10.0


def draw_trials(plan: SearchPlan, rows: Sequence[Row], path: Path) -> None:
    """Writes a PNG.

    Args:
        plan: The search.
        rows: Its trials, in the order in which they began; at least one is completed.
        path: The picture.
    """
    save_picture(trials_figure(plan, rows), path)


def trials_figure(plan: SearchPlan, rows: Sequence[Row]) -> Figure:
    """The objective over the trials with the best so far; below, over each tuned setting."""
    names = [*plan.space.dimensions]
    num_rows = math.ceil(len(names) / PANELS_IN_A_ROW)
    height = CAPTION_INCHES + TOP_INCHES + PANEL_INCHES * num_rows
    trials = [row for row in rows if row.trial is not None]
    completed = [row for row in trials if row.status == COMPLETED]
    limits = _limits(plan, [row.outcome.objective for row in completed])
    is_one_beyond = any(row.outcome.objective > limits[1] for row in completed)
    figure = new_figure(WIDTH_INCHES, height, _caption(plan, is_one_beyond))
    grid = figure.add_gridspec(
        1 + num_rows,
        min(PANELS_IN_A_ROW, len(names)),
        height_ratios=[TOP_INCHES, *[PANEL_INCHES] * num_rows],
    )
    colours = _colours(completed)
    top = figure.add_subplot(grid[0, :])
    _draw_progress(top, plan, trials, colours, limits)
    _finish(top, plan, limits)
    for place, name in enumerate(names):
        where = grid[1 + place // PANELS_IN_A_ROW, place % PANELS_IN_A_ROW]
        panel = figure.add_subplot(where)
        _draw_setting(panel, plan, name, completed, colours, limits)
        _finish(panel, plan, limits)
        if place % PANELS_IN_A_ROW:
            panel.tick_params(labelleft=False)
            panel.set_ylabel("")
        else:
            panel.set_ylabel(LABELS[plan.objective], fontsize=8.5)
    return figure


def _caption(plan: SearchPlan, is_one_beyond: bool) -> str:
    better = "lower" if plan.sign > 0 else "higher"
    text = (
        f"{LABELS[plan.objective].capitalize()} of each trial ({better} is better) and of the best"
        " so far; below, over each setting that was tuned."
    )
    if plan.algorithm == "hyperband":
        text += " Compare points of one colour: trials with more epochs are better for that alone."
    if is_one_beyond:
        text += " What a triangle stands for lies far above."
    return text


def _colours(completed: Sequence[Row]) -> dict[int, str]:
    """A colour for each number of epochs, the darker the more."""
    epochs = sorted({row.outcome.epochs for row in completed})
    if len(epochs) == 1:
        return {epochs[0]: LINE_COLOURS[0]}
    last = len(RUNG_COLOURS) - 1
    return {
        number: RUNG_COLOURS[min(place, last) if len(epochs) <= len(RUNG_COLOURS) else
                             place * last // (len(epochs) - 1)]
        for place, number in enumerate(epochs)
    }  # fmt: skip


def _limits(plan: SearchPlan, values: Sequence[float]) -> tuple[float, float]:
    """Where the axis of the objective ends; a perplexity far from all others lies on its edge."""
    low, high = min(values), max(values)
    if plan.sign < 0:  # a score from 0 to 100
        margin = 0.06 * max(high - low, 1.0)
        return low - margin, high + margin
    high = min(high, FARTHEST * sorted(values)[len(values) // 2])
    margin = 1.06 * max(high / low, 1.05) ** 0.06
    return low / margin, high * margin


def _draw_progress(
    axes: Axes,
    plan: SearchPlan,
    trials: Sequence[Row],
    colours: dict[int, str],
    limits: tuple[float, float],
) -> None:
    best, best_values = None, []
    for row in trials:
        if row.status == COMPLETED:
            value = row.outcome.objective
            best = value if best is None else plan.sign * min(plan.sign * best, plan.sign * value)
        best_values.append(math.nan if best is None else best)
    places = range(len(trials))  # as trials are numbered
    axes.step(places, best_values, where="post", color=INK, linewidth=1.5, label="best so far")
    for epochs, colour in colours.items():
        points = [
            (place, row.outcome.objective)
            for place, row in zip(places, trials, strict=True)
            if row.status == COMPLETED and row.outcome.epochs == epochs
        ]
        axes.scatter([], [], **_marker(colour), s=42, label=f"{epochs} epoch{'s' * (epochs != 1)}")
        _draw_points(axes, points, colour, 42, limits)
    failed = [p for p, row in zip(places, trials, strict=True) if row.status == FAILED]
    if failed:
        axes.plot(
            failed,
            [0.02] * len(failed),
            "x",
            color=FAILURE_COLOUR,
            transform=axes.get_xaxis_transform(),
            label="failed",
            clip_on=False,
        )
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.5, len(trials) - 0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


def _draw_setting(
    axes: Axes,
    plan: SearchPlan,
    name: str,
    completed: Sequence[Row],
    colours: dict[int, str],
    limits: tuple[float, float],
) -> None:
    dimension = plan.space.dimensions[name]
    places = _places(dimension)
    for row in completed:
        value = row.settings[name]
        point = (places.get(value, value), row.outcome.objective)
        _draw_points(axes, [point], colours[row.outcome.epochs], 24, limits)
    axes.set_xlabel(name, fontsize=9)
    axes.tick_params(labelsize=8)
    if places:
        axes.set_xticks([*places.values()], [spelled(value) for value in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
    elif dimension.is_log:
        axes.set_xscale("log")
        axes.set_xlim(dimension.minimum / 1.1, dimension.maximum * 1.1)
        axes.set_xticks([dimension.minimum, dimension.maximum])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _places(dimension) -> dict:
    """Choices stand side by side, whatever they are."""
    if isinstance(dimension, Choices):
        return {value: place for place, value in enumerate(dimension.values)}
    return {}


def _draw_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    colour: str,
    size: float,
    limits: tuple[float, float],
) -> None:
    """Dots; triangles on the upper edge for what lies beyond it."""
    for place, value in points:
        is_beyond = value > limits[1]
        axes.scatter(
            place,
            limits[1] if is_beyond else value,
            **_marker(colour),
            marker="^" if is_beyond else "o",
            s=size,
            clip_on=False,
        )


def _marker(colour: str) -> dict:
    return {"color": colour, "edgecolors": "white", "linewidths": 0.6, "zorder": 3}


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
    """Round numbers between the ends of a logarithmic axis, about five of them."""
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
