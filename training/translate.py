"""Translates line by line: `python -m training.translate --help`."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from training.command_line.arriving_lines import ArrivingLines, batches
from training.command_line.errors import InputError
from training.command_line.lines import (
    LINES_AT_ONCE,
    add_output_options,
    check_files,
    opened_output,
    read_text_lines,
    translated,
)
from training.command_line.outputs import check_utf_8
from training.command_line.parser import CommandParser, option_name, parse
from training.command_line.running import import_keras, run_command
from training.command_line.search_options import add_search_options, search_settings
from training.runs.exported_translator import ExportedTranslator, find_version
from training.runs.folder import RunFolder
from training.runs.translator import load_translator

Row = tuple[str, str | None]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = _parser()
    options = parse(parser, arguments)
    _check_numbers(options)
    check_files(options, {"--input": options.input, "--prefixes": options.prefixes})
    _check_texts(options)
    lines, has_more = _lines(options)
    rows = _with_prefixes(lines, options)
    translate = _translation_of(options, _translator(options, parser))
    with opened_output(options.output) as output:
        in_turns = batches(rows, options.batch_lines, has_more)
        for some in translated(
            translate, in_turns, shows=not (_reads_stdin(options) and sys.stdin.isatty())
        ):
            output.write(b"".join(line.encode("utf-8") + b"\n" for line in some))
            output.flush()


def _parser() -> CommandParser:
    parser = CommandParser(
        "translate",
        "Translates stdin to stdout: one line out for each line in, in the same order. More than"
        " one translation, or a score, stand in the line of their source, separated by tabs.",
    )
    parser.add_positional(
        "run", "The folder of a finished run; or an export, saved_models/NAME or NAME/VERSION."
    )
    parser.add_option("input", str | None, None, "File to translate; stdin if not given, or -.")
    parser.add_option("prefixes", str | None, None, "File with how each translation must begin.")
    add_output_options(parser, LINES_AT_ONCE)
    add_search_options(parser)
    parser.add_option("n_best", int, 1, "Translations for each line, the best first.")
    parser.add_option("samples", int | None, None, "Draw so many translations by chance instead.")
    parser.add_option("temperature", float, 1.0, "Of samples: the lower, the more probable.")
    parser.add_option("top_k", int | None, None, "Sample among so many tokens.")
    parser.add_option("top_p", float | None, None, "Sample among tokens of this probability.")
    parser.add_option("seed", int, 0, "Of samples; the same seed draws the same.")
    parser.add_threads()
    parser.add_flag("scores", "Write the score and a tab in front of each translation.")
    return parser


def _check_texts(options) -> None:
    """Reads the files once, so that a fault is named before the work, not in the midst of it.

    Raises:
        InputError: If one cannot be read, or there are not as many prefixes as lines.
    """
    if not _reads_stdin(options):
        for _ in _with_prefixes(_file_lines(options.input), options):
            pass
    elif options.prefixes is not None:
        for _ in _file_lines(options.prefixes):
            pass


def _reads_stdin(options) -> bool:
    return options.input in (None, "-")


def _lines(options) -> tuple[Iterator[str], Callable[[], bool]]:
    """The lines to translate, and what tells whether the next one can be had without waiting."""
    if not _reads_stdin(options):
        return _file_lines(options.input), lambda: True
    if sys.stdin is None:
        raise InputError("stdin must be open. Received: none. Give --input FILE.")
    try:
        stream = ArrivingLines(sys.stdin.fileno())
    except OSError:  # another program's object, without a file below it
        return read_text_lines(sys.stdin.buffer), lambda: True
    return read_text_lines(stream), stream.has_more


def _file_lines(path: str) -> Iterator[str]:
    import_keras()
    from keras_transformer.text.lines import iterate_any_lines

    return iterate_any_lines(path)


def _with_prefixes(lines: Iterable[str], options) -> Iterator[Row]:
    """Each line with how its translation must begin; None if nothing is said.

    Raises:
        InputError: If there are not as many prefixes as lines.
    """
    if options.prefixes is None:
        yield from ((line, None) for line in lines)
        return
    prefixes = _file_lines(options.prefixes)
    number = 0
    for number, line in enumerate(lines, start=1):
        prefix = next(prefixes, None)
        if prefix is None:
            raise InputError(
                f"{options.prefixes}: there must be as many prefixes as lines. Received:"
                f" {number - 1}, and more lines. Write an empty line where nothing is asked for."
            )
        yield line, prefix
    if next(prefixes, None) is not None:
        raise InputError(
            f"{options.prefixes}: there must be as many prefixes as lines. Received: {number} lines"
            " and more prefixes. Leave out what belongs to no line."
        )


def _translator(options, parser: CommandParser):
    """That of the run, or the export.

    Raises:
        InputError: If it is neither, or an export that cannot do what is asked for.
    """
    version = find_version(options.run)
    if RunFolder(options.run).config_path.exists() or version is None:
        return load_translator(options.run, **search_settings(options))
    check_utf_8("the export", options.run)
    greedy = options.beam_size == 1
    with_prefixes = options.prefixes is not None
    given = [*search_settings(options), "samples"]
    unfit = [option_name(name) for name in given if options[name] != parser.get_default(name)]
    if greedy and not with_prefixes:
        unfit.remove("--beam-size")
    if unfit:
        raise InputError(
            f"{options.run}: an export must be asked for what its signatures can do: its own beam"
            f" search, --n-best, --scores, --prefixes, and without prefixes greedy search with"
            f" --beam-size 1. Received: {', '.join(unfit)}. Leave that out, or name the run."
        )
    return ExportedTranslator(version, greedy=greedy, with_prefixes=with_prefixes)


def _translation_of(options, translator) -> Callable[[list[Row]], list[str]]:
    """What makes lines of texts and their prefixes, as the options ask for."""
    if options.samples is None:
        check_n_best(options.n_best, translator.beam_size)
    num_lines = 0

    def hypotheses_of(texts, **more):
        nonlocal num_lines
        if options.samples is None:
            return translator.n_best(texts, options.n_best, **more)
        first_place, num_lines = num_lines, num_lines + len(texts)
        return translator.sample(
            texts,
            options.samples,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            first_place=first_place,
            **more,
        )

    lines_of = translator.translate
    if options.samples is not None or options.n_best > 1 or options.scores:
        lines_of = in_columns(hypotheses_of, with_scores=options.scores)

    def translate(rows):
        texts, prefixes = zip(*rows, strict=True)
        more = {} if options.prefixes is None else {"prefixes": list(prefixes)}
        return lines_of(list(texts), **more)

    return translate


def _check_numbers(options) -> None:
    """Refuses numbers that nothing can be drawn with.

    Raises:
        InputError: If one is out of its range.
    """
    if options.samples is None:
        return
    if options.samples < 1:
        raise InputError(
            f"--samples must be at least 1. Received: {options.samples}. Choose for example 5."
        )
    if options.seed < 0:
        raise InputError(f"--seed must be at least 0. Received: {options.seed}. Choose 0.")
    import_keras()
    from keras_transformer.search.sampling import check_sampling

    try:
        check_sampling(options.temperature, options.top_k, options.top_p)
    except ValueError as error:
        name, rest = str(error).split(" ", 1)
        raise InputError(f"{option_name(name)} {rest}") from error


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


def in_columns(
    hypotheses_of: Callable[..., list[list[tuple[str, float]]]], *, with_scores: bool
) -> Callable[..., list[str]]:
    """A function from texts to lines with their translations, separated by tabs.

    A tab inside a translation becomes a space.
    """

    def columns(hypotheses: list[tuple[str, float]]) -> Iterator[str]:
        for text, score in hypotheses:
            if with_scores:
                yield f"{score:.6f}"
            yield text.replace("\t", " ")

    def lines(texts, **more):
        return ["\t".join(columns(found)) for found in hypotheses_of(texts, **more)]

    return lines


if __name__ == "__main__":
    sys.exit(run_command(main))
