"""The pictures of the experiments, each drawn from the numbers in its NAME.json.

Each function of FIGURES takes these numbers and returns figures by the names of their pictures.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from training.experiments.names import ATTENTION, ENCODINGS, LAYERS, PAPER, PASSES, SYSTEMS
from training.experiments.stacks import KINDS as STACKS
from training.pictures.attention import heads_figure
from training.pictures.style import (
    GRID,
    INK,
    LINE_COLORS,
    clear_axes,
    draw_seeds,
    label_ends,
    length_axis,
    line_style,
    new_figure,
    save_picture,
)

Figures = dict[str, Figure]


def save_figures(name: str, measured: dict, folder: Path) -> list[Path]:
    """Draws an experiment's pictures in a folder; returns their paths."""
    paths = []
    for picture, figure in FIGURES[name](measured).items():
        paths.append(folder / f"{picture}.png")
        save_picture(figure, paths[-1])
    return paths


def layers(measured: dict) -> Figures:
    """Draws time above and memory below, with a panel for each width."""
    lengths, widths = measured["lengths"], measured["widths"]
    lines = {(line["pass"], line["width"], line["kind"]): line for line in measured["lines"]}
    passes = [which for which, *_ in lines]
    which = "training" if "training" in passes else "forward"
    figure = new_figure(5.4, f"One layer by length and width d, {PASSES[which]}")
    panels = figure.subplots(2, len(widths), sharex=True, sharey="row", squeeze=False)
    for (time_panel, memory_panel), width in zip(panels.T, widths, strict=True):
        for number, (kind, label) in enumerate(LAYERS.items()):
            line = lines[which, width, kind]
            # Thick below thin, so that equal lines are both visible.
            thin = {"linewidth": 3.2 - 0.6 * number, "markersize": 3.5}
            style = line_style(number) | thin | {"label": label}
            milliseconds = [1000 * statistics.median(seconds) for seconds in line["seconds"]]
            time_panel.plot(lengths, milliseconds, **style)
            known = [(n, mib) for n, mib in zip(lengths, line["mib"], strict=True) if mib]
            if known:
                memory_panel.plot(*zip(*known, strict=True), **style)
        time_panel.set_title(f"d = {width}", color=INK, fontsize=10)
        for panel in (time_panel, memory_panel):
            length_axis(panel, lengths[:: max(1, (len(lengths) - 1) // 2)])
            panel.set_yscale("log")
            panel.yaxis.set_minor_locator(NullLocator())
        for crossing in measured["crossings"]:
            if (crossing["pass"], crossing["width"]) == (which, width) and crossing["length"]:
                _mark_crossing(time_panel, crossing["length"])
    panels[0, 0].set_ylabel("milliseconds (log scale)")
    panels[1, 0].set_ylabel("peak MiB (log scale)")
    figure.supxlabel("length n, tokens (log scale)", fontsize=10)
    for panel in panels[:, -1]:
        label_ends(panel)
    return {"layers": figure}


def _mark_crossing(panel: Axes, length: float) -> None:
    """Marks the length from which self-attention takes longer than the recurrent layer."""
    panel.axvline(length, color=INK, linestyle=":", linewidth=1)
    is_left = length * length < math.prod(panel.get_xlim())  # of the middle, on a log axis
    place, side = (length * 1.1, "left") if is_left else (length * 0.9, "right")
    at_top = {"transform": panel.get_xaxis_transform(), "va": "top"}
    panel.text(place, 0.98, f"n = {length:,.0f}", color=INK, ha=side, **at_top)


def parallel(measured: dict) -> Figures:
    """Draws the time of a training step by the length of its sequences."""
    lengths, tokens = measured["lengths"], measured["tokens"]
    figure = new_figure(3.8, f"A training step over {tokens:,} tokens")
    panel = figure.subplots()
    for number, (kind, of_lengths) in enumerate(measured["seconds"].items()):
        milliseconds = [1000 * statistics.median(seconds) for seconds in of_lengths]
        panel.plot(lengths, milliseconds, label=STACKS[kind], **line_style(number))
    length_axis(panel, lengths, [f"{n:,}\nx {tokens // n:,}" for n in lengths])
    panel.set_ylim(bottom=0)
    panel.set_xlabel("tokens in a sequence (log scale) x sequences")
    panel.set_ylabel("milliseconds per step")
    label_ends(panel)
    return {"parallel": figure}


PATH_TASKS = {"one": "one marked\ntoken", "all": "every token"}


def path(measured: dict) -> Figures:
    """Draws a panel for each stack, with a line for each task."""
    accuracies, distances = measured["accuracies"], measured["distances"]
    kinds = list(next(iter(accuracies.values())))
    figure = new_figure(0.8 + 2.1 * -(-len(kinds) // 2), "Naming the symbol k tokens back")
    panels = _panels(figure, len(kinds), 2)
    for panel, kind in zip(panels, kinds, strict=True):
        of_tasks = {PATH_TASKS[task]: found[kind] for task, found in accuracies.items()}
        _draw_tasks(panel, distances, of_tasks)
        panel.axhline(measured["chance"], color=INK, linestyle="--", linewidth=1)
        if kind == "convolution":
            reach = measured["reach_of_convolution"]
            panel.axvline(reach, color=INK, linestyle=":", linewidth=1)
            panel.text(reach * 0.9, 0.5, "reach", ha="right", color=INK)
        length_axis(panel, distances[:: 1 + (len(distances) > 5)])
        panel.set_ylim(0, 1.04)
        panel.set_title(STACKS[kind], color=INK, fontsize=10)
    panels[0].text(distances[0], measured["chance"] + 0.03, "chance", color=INK)
    figure.supxlabel("k, tokens (log scale)", fontsize=10)
    figure.supylabel("accuracy (0 to 1)", fontsize=10)
    label_ends(panels[min(1, len(panels) - 1)])
    return {"path": figure}


def heads(measured: dict) -> Figures:
    """Draws a panel for each task."""
    titles = {"neighbours": "name the 8 neighbors", "translation": "translate"}
    labels = {"neighbours": "right symbols (share)", "translation": "validation BLEU (0 to 100)"}
    figure = new_figure(3.0, "More heads at the same number of parameters")
    panels = figure.subplots(1, len(measured["tasks"]), squeeze=False)[0]
    for panel, (task, of_heads) in zip(panels, measured["tasks"].items(), strict=True):
        numbers = [int(heads) for heads in of_heads]
        scores = [[one["score"] for one in of_seeds] for of_seeds in of_heads.values()]
        draw_seeds(panel, numbers, scores, titles[task], line_style(0))
        length_axis(panel, numbers)
        panel.set_title(titles[task], color=INK, fontsize=10)
        panel.set_xlabel("heads (log scale)")
        panel.set_ylabel(labels[task])
    return {"heads": figure}


def positions(measured: dict) -> Figures:
    """Draws a panel for each encoding, with a line for each task."""
    trained = measured["trained_length"]
    figure = new_figure(3.2, "Accuracy on sequences longer than in training")
    panels = _panels(figure, len(ENCODINGS), len(ENCODINGS))
    for panel, (encoding, label) in zip(panels, ENCODINGS.items(), strict=True):
        of_tasks = {
            task: np.transpose(found[encoding]).tolist()
            for task, found in measured["accuracy"].items()
        }
        _draw_tasks(panel, measured["lengths"], of_tasks)
        panel.axvline(trained, color=INK, linestyle="--", linewidth=1)
        panel.set_xticks(range(0, measured["lengths"][-1] + 1, trained))
        panel.set_ylim(0, 1.04)
        panel.set_title(label, color=INK, fontsize=10)
        clear_axes(panel)
    panels[0].set_ylabel("right tokens (share)")
    panels[0].text(trained * 1.1, 0.6, "longest\nin training", color=INK)
    figure.supxlabel("length, symbols", fontsize=10)
    label_ends(panels[-1])
    return {"positions": figure}


def _panels(figure: Figure, number: int, columns: int) -> Sequence[Axes]:
    """Returns panels with equal axes, row by row."""
    columns = min(number, columns)
    panels = figure.subplots(
        -(-number // columns), columns, sharex=True, sharey=True, squeeze=False
    )
    for panel in panels.flat[number:]:
        panel.remove()
    return panels.flat[:number]


def _draw_tasks(panel: Axes, places: Sequence[float], of_tasks: dict[str, list]) -> None:
    """Draws a line for each task, thick below thin, so that equal lines are both visible."""
    for number, (label, values) in enumerate(of_tasks.items()):
        thickness = len(of_tasks) - number
        style = {"linewidth": 1.6 * thickness, "markersize": 2.5 + 1.5 * thickness}
        draw_seeds(panel, places, values, label, line_style(number) | style)


def quality(measured: dict) -> Figures:
    """Draws BLEU by minutes of training: means at the end of each epoch that all seeds finished."""
    figure = new_figure(4.0, "Translation quality by training time")
    axes = figure.subplots()
    for system, seeds in measured["systems"].items():
        minutes, bleu = mean_course(list(seeds.values()))
        draw_seeds(axes, minutes, bleu, SYSTEMS[system][1], line_style([*SYSTEMS].index(system)))
    clear_axes(axes)
    axes.set_xlabel("minutes of training, with validation")
    axes.set_ylabel("validation BLEU (0 to 100)")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    label_ends(axes)
    return {"quality_and_time": figure}


def mean_course(runs: list[dict]) -> tuple[list[float], list[list[float]]]:
    """Returns the mean minutes at which each epoch ended, and its BLEU, seed by seed.

    Ends with the last epoch that all seeds finished.
    """
    epochs = min(len(run["seconds_by_epoch"]) for run in runs)
    minutes = np.mean([run["seconds_by_epoch"][:epochs] for run in runs], axis=0) / 60
    bleu = np.transpose([run["val_bleu_by_epoch"][:epochs] for run in runs])
    return minutes.tolist(), bleu.tolist()


def table3(measured: dict) -> Figures:
    """Draws the difference of each row from "base", ours and the paper's; none without rows."""
    rows, base = [row for row in measured["rows"] if row != "base"], measured["rows"]["base"]
    if not rows:
        return {}
    figure = new_figure(1.7 + 0.27 * len(rows), "Rows of Table 3")
    left, right = figure.subplots(1, 2, sharey=True)
    ours = [measured["rows"][row] for row in rows]
    paper, its_base = [PAPER[row] for row in rows], PAPER["base"]
    _draw_differences(
        left,
        [100 * (row["val_perplexity"] / base["val_perplexity"] - 1) for row in ours],
        [100 * (row.perplexity / its_base.perplexity - 1) for row in paper],
    )
    _draw_differences(
        right,
        [row["bleu"] - base["bleu"] for row in ours],
        [row.bleu - its_base.bleu for row in paper],
    )
    left.set_xlabel(f"perplexity against base, %\n(our base: {base['val_perplexity']:.2f})")
    right.set_xlabel(f"BLEU against base, points\n(our base: {base['bleu']:.1f})")
    left.set_yticks(range(len(rows)), [row.replace("_", " ") for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    handles = left.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    return {"table3": figure}


def _draw_differences(axes: Axes, ours: list[float], papers: list[float]) -> None:
    clear_axes(axes)
    axes.grid(color=GRID)
    axes.axvline(0, color=INK, linewidth=1)
    places, style = range(len(ours)), {"linestyle": "none", "markersize": 7}
    axes.plot(ours, places, "o", color=LINE_COLORS[0], label="ours", **style)
    axes.plot(
        papers, places, "D", color=LINE_COLORS[1], fillstyle="none", label="the paper's", **style
    )


def jane(measured: dict) -> Figures:
    """Draws every head, with a picture for each kind of attention."""
    tokens = measured["tokens"]
    return {
        f"jane_{kind}": heads_figure(
            np.array(weights),
            tokens[ATTENTION[kind].rows],
            tokens[ATTENTION[kind].columns],
            row_name=ATTENTION[kind].row_name,
            column_name=ATTENTION[kind].column_name,
            title=f"{ATTENTION[kind].name.capitalize()}, every head",
        )
        for kind, weights in measured["weights"].items()
    }


FIGURES: dict[str, Callable[[dict], Figures]] = {
    "layers": layers,
    "parallel": parallel,
    "path": path,
    "heads": heads,
    "positions": positions,
    "quality_and_time": quality,
    "table3": table3,
    "jane": jane,
}
