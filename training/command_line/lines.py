"""Options and loops of commands that write a line for each line they read."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from training.command_line.errors import InputError, UsageError
from training.command_line.outputs import check_output_files
from training.command_line.parser import CommandParser
from training.runs.files import replacing

LINES_AT_ONCE = 1000


def add_output_options(parser: CommandParser, lines_at_once: int) -> None:
    """Adds the options of a command that writes a line for each line it reads."""
    parser.add_option(
        "output", str | None, None, "File to write, complete or not at all (default, or -: stdout)."
    )
    parser.add_flag("overwrite", "Replace the output if it exists.")
    parser.add_option(
        "batch_lines",
        int,
        lines_at_once,
        "The most lines to process at once; fewer if no more have arrived.",
    )


def check_files(options, inputs: dict[str, str | None]) -> None:
    """Checks the options that `add_output_options` adds.

    Raises:
        InputError: If the output cannot be written, or stdout is closed.
        UsageError: If --batch-lines is below 1.
    """
    if options.batch_lines < 1:
        raise UsageError(
            f"--batch-lines must be at least 1. Received: {options.batch_lines}. For example: 1000."
        )
    output = None if options.output == "-" else options.output
    if output is None and sys.stdout is None:
        raise InputError("stdout must be open. Received: closed. Give --output FILE.")
    check_output_files({"--output": output}, inputs, overwrite=options.overwrite)


@contextlib.contextmanager
def opened_output(path: str | None) -> Iterator[BinaryIO]:
    """Opens stdout, or the file at `path`, which appears once the block has succeeded."""
    if path in (None, "-"):
        yield sys.stdout.buffer
        return
    with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
        yield file


def translated(
    translate: Callable[[list], list[str]], in_turns: Iterable[list], *, shows: bool = True
) -> Iterator[list[str]]:
    """Yields the translations of each batch; if `shows`, reports the count on a terminal."""
    num_done, start_seconds = 0, time.monotonic()
    shows = shows and sys.stderr.isatty()
    for some in in_turns:
        yield translate(some)
        num_done += len(some)
        if shows:
            rate = num_done / (time.monotonic() - start_seconds)
            print(f"\rtranslated {num_done:,} lines, {rate:.1f} a second", end="", file=sys.stderr)
    if shows and num_done:
        print(file=sys.stderr)


def read_text_lines(stream: Iterable[bytes], name: str = "<stdin>") -> Iterator[str]:
    """Yields the lines of a byte stream, without line ends and a leading byte order mark.

    Lines end only at LF or CR LF.

    Raises:
        InputError: If a line is not UTF-8; names the line.
    """
    from keras_transformer.text.compressed import format_of_bytes
    from keras_transformer.text.lines import iterate_stream

    for number, line in enumerate(iterate_stream(stream), start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            received = f"the byte 0x{line[error.start]:02x} at position {error.start}"
            advice = "Convert it to UTF-8"
            if number == 1 and (found := format_of_bytes(line)):
                received, advice = f"a file in {found} format", "Unpack it, or give it as --input"
            raise InputError(
                f"{name}:{number}: the text must be UTF-8. Received: {received}. {advice}."
            ) from error
