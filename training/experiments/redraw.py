"""Draws pictures again from measured numbers: `python -m training.experiments redraw --help`."""

import json
from collections.abc import Sequence
from pathlib import Path

from training.command_line.errors import InputError
from training.command_line.outputs import check_output_folder
from training.command_line.parser import CommandParser, parse


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = CommandParser(
        "experiments redraw",
        "Draws an experiment's pictures again from the numbers that it has written, without"
        " measuring. The files keep their names, such as path.json.",
    )
    parser.add_positional("files", "The JSON files of experiments.", nargs="+")
    parser.add_option(
        "output", str | None, None, "The folder for the pictures (default: each file's own)."
    )
    options = parse(parser, arguments)
    if options.output is not None:
        check_output_folder("--output", options.output)
        Path(options.output).mkdir(parents=True, exist_ok=True)
    for file in map(Path, options.files):
        for path in redraw(file, Path(options.output or file.parent)):
            print(f"written: {path}")


def redraw(file: Path, folder: Path) -> list[Path]:
    """Draws the pictures of the experiment whose numbers are in a file; returns their paths.

    Raises:
        InputError: If the file is not an experiment's.
    """
    from training.experiments.figures import FIGURES, save_figures

    if file.stem not in FIGURES:
        raise InputError(
            f"{file}: the file's name must be that of an experiment's numbers:"
            f" {', '.join(f'{name}.json' for name in FIGURES)}. Received: {file.name}. Give the"
            " file the name that the experiment gave it."
        )
    try:
        return save_figures(file.stem, json.loads(file.read_text(encoding="utf-8")), folder)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise InputError(
            f"{file}: must hold the numbers of {file.stem}. Received: content that cannot be drawn"
            f" ({type(error).__name__}: {error}). Run the experiment again."
        ) from error
