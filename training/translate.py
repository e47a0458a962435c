"""Translates line by line, stdin to stdout: `python -m training.translate --help`."""

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

from training.command import CommandParser, InputError, import_tensorflow, parse, run_command
from training.run_folder import RunFolder

LINES_AT_ONCE = 500


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandParser(
        "translate",
        "Translates stdin to stdout: one line out for each line in, in the same order. More than"
        " one translation, or a score, stand in the line of their source, separated by tabs.",
    )
    parser.add_positional("run", "The folder of a finished run.")
    add_search_options(parser)
    parser.add_option("n_best", int, 1, "Translations for each line, the best first.")
    parser.add_flag("scores", "Write the score and a tab in front of each translation.")
    options = parse(parser, arguments)
    translator = load_translator(options.run, options.beam_size, options.length_penalty)
    check_n_best(options.n_best, translator.beam_size)
    translate = translator.translate
    if options.n_best > 1 or options.scores:
        translate = in_columns(translator, options.n_best, with_scores=options.scores)
    at_once = 1 if sys.stdin.isatty() else LINES_AT_ONCE
    for line in translate_lines(translate, read_text_lines(sys.stdin.buffer), at_once):
        sys.stdout.buffer.write(line.encode("utf-8") + b"\n")
        if at_once == 1:
            sys.stdout.buffer.flush()
    sys.stdout.buffer.flush()


def add_search_options(parser: CommandParser) -> None:
    """Adds the options of the search, which the run's own settings stand in for."""
    parser.add_option("beam_size", int | None, None, "Beams; the run's setting if not given.")
    parser.add_option(
        "length_penalty", float | None, None, "alpha; the run's setting if not given."
    )


def load_translator(path: str, beam_size: int | None = None, length_penalty: float | None = None):
    """The translator of a finished run, with another search if that is asked for.

    Raises:
        InputError: If the folder is no finished run, or the search's numbers are out of range.
    """
    run = RunFolder(path)
    settings = run.read_record().settings
    run.check_finished()
    search = {
        "beam_size": settings.beam_size if beam_size is None else beam_size,
        "length_penalty": settings.length_penalty if length_penalty is None else length_penalty,
    }
    check_search(**search)
    import_tensorflow()
    from keras_transformer.translator import Translator

    return Translator.load(path, **search)


def check_search(beam_size: int, length_penalty: float) -> None:
    """Refuses numbers that no search can use.

    Raises:
        InputError: If one is out of its range.
    """
    if beam_size < 1:
        raise InputError(
            f"--beam-size must be at least 1. Received: {beam_size}. Choose for example 4."
        )
    if not 0 <= length_penalty < float("inf"):
        raise InputError(
            f"--length-penalty must be at least 0 and finite. Received: {length_penalty}. Choose"
            " for example 0.6."
        )


def check_n_best(n_best: int, beam_size: int) -> None:
    """Refuses more translations than there are beams.

    Raises:
        InputError: If there are more, or none.
    """
    if not 1 <= n_best <= beam_size:
        raise InputError(
            f"--n-best must be 1 to the beam size. Received: --n-best {n_best}, beam size"
            f" {beam_size}. Choose fewer, or a larger --beam-size."
        )


def in_columns(translator, n_best: int, *, with_scores: bool) -> Callable[[list[str]], list[str]]:
    """A function from texts to lines with their best translations, separated by tabs.

    A tab inside a translation becomes a space.
    """

    def columns(hypotheses: list[tuple[str, float]]) -> Iterator[str]:
        for text, score in hypotheses:
            if with_scores:
                yield f"{score:.6f}"
            yield text.replace("\t", " ")

    def translate(texts: list[str]) -> list[str]:
        return ["\t".join(columns(best)) for best in translator.n_best(texts, n_best)]

    return translate


def translate_lines(
    translate: Callable[[list[str]], list[str]],
    lines: Iterable[str],
    at_once: int = LINES_AT_ONCE,
) -> Iterator[str]:
    """Yields the translations in order, and shows on a terminal how far it is.

    Args:
        translate: From texts to as many texts.
        lines: Any number of texts.
        at_once: How many texts are in memory and go to `translate` together.
    """
    lines, num_done, start_seconds = iter(lines), 0, time.monotonic()
    while texts := list(itertools.islice(lines, at_once)):
        yield from translate(texts)
        num_done += len(texts)
        if sys.stderr.isatty() and at_once > 1:
            rate = num_done / (time.monotonic() - start_seconds)
            print(f"\rtranslated {num_done:,} lines, {rate:.1f} a second", end="", file=sys.stderr)
    if sys.stderr.isatty() and at_once > 1 and num_done:
        print(file=sys.stderr)


def read_text_lines(stream: BinaryIO, name: str = "<stdin>") -> Iterator[str]:
    """Yields the lines of a stream of bytes, without their ends.

    Lines end at LF or CR LF and nowhere else.

    Raises:
        InputError: If a line is not UTF-8. Names the line.
    """
    for number, line in enumerate(stream, start=1):
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}:{number}: the text must be UTF-8. Received: the byte"
                f" 0x{line[error.start]:02x} at position {error.start}. Convert it to UTF-8."
            ) from error


if __name__ == "__main__":
    sys.exit(run_command(main))
