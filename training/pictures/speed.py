"""Draws the time per token by length: `python -m training.benchmark curve --help`."""

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from training.benchmarks.speed_lines import US, Program, Speeds, read_speeds
from training.command_line.parser import CommandParser
from training.pictures.benchmark_lines import draw_picture, lines_of
from training.pictures.style import (
    INK,
    TEXT_POINTS,
    clear_axes,
    label_ends,
    line_style,
    new_figure,
)


def draw_curve(arguments: Sequence[str]) -> None:
    """Writes the picture to a PNG file."""
    parser = CommandParser(
        "benchmark curve",
        "Draws the milliseconds that each target token takes, by the length of the translations,"
        " with a panel for each beam size and a line for each program and precision.",
    )
    parser.add_option("beam_size", int, [1, 4], "Beam sizes, a panel each; 1 is greedy.", nargs="+")

    def figure_of(options):
        speeds = read_speeds(options.files)
        return speed_figure(speeds, options.preset, options.batch, options.beam_size)

    draw_picture(parser, arguments, figure_of)


def speed_figure(speeds: Speeds, preset: str, batch: int, beam_sizes: Sequence[int]) -> Figure:
    """Draws a panel for each beam size; where a line is level, time is proportional to length.

    Raises:
        InputError: If nothing was measured for a panel.
    """
    title = f"Time per target token: {preset} model, {batch} sentences"
    figure = new_figure(0.9 + 2.3 * len(beam_sizes), title)
    panels = figure.subplots(len(beam_sizes), sharex=True, squeeze=False)[:, 0]

    def name(program, work):
        return program, work._replace(length=0)

    lines = [lines_of(speeds, name, preset, batch, beam_size) for beam_size in beam_sizes]
    styles = _styles({program for of_panel in lines for program, _ in of_panel})
    for panel, beam_size, of_panel in zip(panels, beam_sizes, lines, strict=True):
        title = "greedy" if beam_size == 1 else f"beam search, {beam_size} beams"
        _draw_panel(panel, title, of_panel, styles)
    panels[-1].set_xlabel("target tokens of each sentence")
    figure.supylabel("milliseconds per target token (log scale)", fontsize=TEXT_POINTS)
    for panel in panels:
        label_ends(panel)
    return figure


def _styles(programs: Iterable[Program]) -> dict[Program, dict]:
    """Returns the style of each program, this project's first; others have broken lines."""
    ordered = sorted(programs, key=lambda program: (program.name != US, program))
    return {
        program: line_style(number) | ({} if program.name == US else {"linestyle": "--"})
        for number, program in enumerate(ordered)
    }


def _draw_panel(panel: Axes, title: str, lines: dict, styles: dict[Program, dict]) -> None:
    for program, style in styles.items():
        for (its_program, work), points in lines.items():
            if its_program == program:
                lengths, speeds = zip(*points, strict=True)
                threads = "" if work.threads == 1 else f", {work.threads} threads"
                label = f"{program.name}\n{program.dtype}{threads}"
                panel.plot(lengths, [1000 / speed for speed in speeds], label=label, **style)
    panel.set_title(title, color=INK, fontsize=TEXT_POINTS)
    panel.set_xticks(sorted({length for points in lines.values() for length, _ in points}))
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    clear_axes(panel)
