"""Shared by the pictures of `benchmark decode`'s lines: the command, and the choice of lines."""

from collections.abc import Callable, Hashable, Sequence

from matplotlib.figure import Figure

from training.benchmarks.speed_lines import Program, Speeds, Work
from training.command_line.errors import InputError, UsageError
from training.command_line.outputs import check_output_files
from training.command_line.parser import CommandParser, parse
from training.pictures.style import save_picture


def draw_picture(
    parser: CommandParser, arguments: Sequence[str], figure_of: Callable[..., Figure]
) -> None:
    """Runs a command that writes a PNG file; `figure_of` returns the figure for its options."""
    files_help = "Files of JSON lines, from `benchmark decode` or other programs."
    parser.add_positional("files", files_help, nargs="+")
    parser.add_option("output", str | None, None, "The PNG file; replaced if it exists.")
    parser.add_option("preset", str, "base", "The model's size: tiny, base or big.")
    parser.add_option("batch", int, 32, "Sentences at once.")
    options = parse(parser, arguments)
    if options.output is None:
        raise UsageError(
            "--output must be given. Received: no --output. For example: --output picture.png."
        )
    files = {file: file for file in options.files}
    check_output_files({"--output": options.output}, files, overwrite=True)
    save_picture(figure_of(options), options.output)
    print(f"written: {options.output}")


def lines_of(
    measured: Speeds,
    name: Callable[[Program, Work], Hashable],
    preset: str,
    batch: int,
    beam_size: int | None = None,
) -> dict[Hashable, list[tuple[int, float]]]:
    """Returns the points (length, number) of each line to draw.

    Args:
        measured: A number for each work of each program.
        name: Returns a key for a program and its work; points with equal keys form a line.
        preset, batch, beam_size: The work to draw; beam_size None draws every beam size.

    Raises:
        InputError: If there is nothing to draw.
    """
    lines = {}
    for program, works in measured.items():
        for work in sorted(works):
            is_drawn = (work.preset, work.batch) == (preset, batch)
            if is_drawn and beam_size in (None, work.beam_size):
                lines.setdefault(name(program, work), []).append((work.length, works[work]))
    if not lines:
        beams = "" if beam_size is None else f", beam size {beam_size}"
        raise InputError(
            f"The files must have lines of {preset}, batch {batch}{beams}. Received: no such line."
            " Choose other options, or add files."
        )
    return lines
