"""The time that a token takes, by length: `python -m training.benchmark curve --help`."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from training.benchmarks.speed_lines import US, Speeds, Work, read_speeds
from training.command_line.errors import InputError, UsageError
from training.command_line.outputs import check_output_files
from training.command_line.parser import CommandParser, parse
from training.pictures.style import INK, LINE_COLOURS, MARKERS, clear_axes, save_picture

# Ours are the strong ones.
OUR_COLOURS, PEERS_COLOURS = LINE_COLOURS[:3], LINE_COLOURS[3:]
INCHES = (8.6, 4.4)


def draw_curve(arguments: Sequence[str]) -> None:
    """Writes a PNG."""
    parser = CommandParser(
        "benchmark curve",
        "Draws the milliseconds that each target token takes, by the length of the translations;"
        " one panel for each beam size, one line for each program and precision.",
    )
    parser.add_positional("files", "JSON lines, ours and others'.", nargs="+")
    parser.add_option("output", str | None, None, "The PNG; it is replaced if it is there.")
    parser.add_option("preset", str, "base", "The model's size.")
    parser.add_option("batch", int, 32, "Sentences at once.")
    parser.add_option("beam_size", int, [1, 4], "A panel for each; 1 is greedy.", nargs="+")
    options = parse(parser, arguments)
    if options.output is None:
        raise UsageError(
            "--output must name the picture. Received: none. Give for example --output speed.png."
        )
    files = {file: file for file in options.files}
    check_output_files({"--output": options.output}, files, overwrite=True)
    figure = speed_figure(
        read_speeds(options.files), options.preset, options.batch, options.beam_size
    )
    save_picture(figure, options.output)
    print(f"written: {options.output}")


def speed_figure(speeds: Speeds, preset: str, batch: int, beam_sizes: Sequence[int]) -> Figure:
    """Panels with the same axes; a line that keeps its height takes time in step with length.

    Raises:
        InputError: If nothing of a panel was measured.
    """
    figure = Figure(figsize=INCHES, layout="constrained")  # not by pyplot: it asks for windows
    panels = figure.subplots(1, len(beam_sizes), sharey=True, squeeze=False)[0]
    styles = _styles(speeds, preset, batch, beam_sizes)
    for panel, beam_size in zip(panels, beam_sizes, strict=True):
        _draw_panel(panel, speeds, styles, preset, batch, beam_size)
    panels[0].set_ylabel("milliseconds per target token")
    handles = {label: line for panel in panels for line, label in _lines_and_labels(panel)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False
    )
    figure.suptitle(f"{preset} model, {batch} sentences at once", color=INK, fontsize=12)
    return figure


def _styles(speeds: Speeds, preset, batch, beam_sizes) -> dict:
    """Colour and marker of each program that is drawn, ours first."""
    drawn = {
        program
        for program, works in speeds.items()
        for work in works
        if (work.preset, work.batch) == (preset, batch) and work.beam_size in beam_sizes
    }
    styles = {}
    for program in sorted(drawn, key=lambda program: (program.name != US, program)):
        ours = program.name == US
        colours = OUR_COLOURS if ours else PEERS_COLOURS
        number = sum((other.name == US) == ours for other in styles)
        styles[program] = {
            "color": colours[number % len(colours)],
            "marker": MARKERS[len(styles) % len(MARKERS)],
            "linewidth": 2.5 if ours else 1.3,
            "linestyle": "-" if ours else "--",
            "markersize": 6,
        }
    return styles


def _draw_panel(panel: Axes, speeds: Speeds, styles, preset, batch, beam_size) -> None:
    ticks = set()
    for program, style in styles.items():
        for work, points in _points(speeds[program], preset, batch, beam_size).items():
            threads = "" if work.threads == 1 else f", {work.threads} threads"
            panel.plot(*zip(*points, strict=True), label=f"{' '.join(program)}{threads}", **style)
            ticks.update(length for length, _ in points)
    if not ticks:
        raise InputError(
            f"The files must hold what is drawn: {preset}, batch {batch}, beam size {beam_size}."
            " Received: nothing of it. Choose --preset, --batch or --beam-size, or add files."
        )
    panel.set_title("greedy" if beam_size == 1 else f"beam search, {beam_size} beams", color=INK)
    panel.set_xlabel("target tokens of each sentence")
    panel.set_xticks(sorted(ticks))
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.tick_params(labelleft=True)
    clear_axes(panel)


def _points(works: dict[Work, float], preset, batch, beam_size) -> dict:
    """Length and milliseconds per token in order of length, for all that differs otherwise."""
    lines = {}
    for work in sorted(works):
        if (work.preset, work.batch, work.beam_size) == (preset, batch, beam_size):
            line = lines.setdefault(work._replace(length=0), [])
            line.append((work.length, 1000 / works[work]))
    return lines


def _lines_and_labels(panel: Axes):
    return zip(*panel.get_legend_handles_labels(), strict=True)
