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
    """Runs the command."""
    parser = _parser()
    options = parse(parser, arguments)
    _check_numbers(options)
    check_files(options, {"--input": options.input, "--prefixes": options.prefixes})
    _check_texts(options)
    lines, has_more = _lines(options)
    in_turns = batches(_with_prefixes(lines, options), options.batch_lines, has_more)
    translate = _translation_of(options, _translator(options, parser))
    is_typed = _reads_stdin(options) and sys.stdin.isatty()
    with opened_output(options.output) as output:
        for some in translated(translate, in_turns, shows=not is_typed):
            output.write(b"".join(line.encode("utf-8") + b"\n" for line in some))
            output.flush()


def _parser() -> CommandParser:
    parser = CommandParser(
        "translate",
        "Translates stdin to stdout: one line out for each line in, in the same order. Tabs"
        " separate several translations of a line, and their scores.",
    )
    parser.add_positional(
        "run", "The folder of a finished run, or an export: saved_models/NAME or NAME/VERSION."
    )
    parser.add_option("input", str | None, None, "File to translate (default, or -: stdin).")
    parser.add_option("prefixes", str | None, None, "File with the beginning of each translation.")
    add_output_options(parser, LINES_AT_ONCE)
    add_search_options(parser)
    parser.add_option("n_best", int, 1, "Translations to write for each line, best first.")
    parser.add_option("samples", int | None, None, "Draw this many random translations instead.")
    parser.add_option("temperature", float, 1.0, "Temperature of sampling; lower is less random.")
    parser.add_option("top_k", int | None, None, "Sample among the k most probable tokens.")
    parser.add_option(
        "top_p", float | None, None, "Sample among the top tokens with this total probability."
    )
    parser.add_option("seed", int, 0, "Seed of sampling; the same seed gives the same samples.")
    parser.add_threads()
    parser.add_flag("scores", "Write the score and a tab before each translation.")
    return parser


def _check_texts(options) -> None:
    """Reads the files once, to report a bad line before the work starts, not halfway through."""
    if not _reads_stdin(options):
        texts = _with_prefixes(_file_lines(options.input), options)
    else:
        texts = [] if options.prefixes is None else _file_lines(options.prefixes)
    for _ in texts:
        pass


def _reads_stdin(options) -> bool:
    return options.input in (None, "-")


def _lines(options) -> tuple[Iterator[str], Callable[[], bool]]:
    """Returns the lines to translate, and a function that tells if the next is ready to read."""
    if not _reads_stdin(options):
        return _file_lines(options.input), lambda: True
    if sys.stdin is None:
        raise InputError("stdin must be open. Received: closed. Give --input FILE.")
    try:
        stream = ArrivingLines(sys.stdin.fileno())
    except OSError:  # an object without a file, set by another program
        return read_text_lines(sys.stdin.buffer), lambda: True
    return read_text_lines(stream), stream.has_more


def _file_lines(path: str) -> Iterator[str]:
    import_keras()
    from keras_transformer.text.lines import iterate_any_lines

    return iterate_any_lines(path)


def _with_prefixes(lines: Iterable[str], options) -> Iterator[Row]:
    """Yields each line with its prefix, or None without --prefixes.

    Raises:
        InputError: If the numbers of prefixes and lines differ.
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
                f" {number - 1} prefixes and more lines. Write an empty line for no prefix."
            )
        yield line, prefix
    if next(prefixes, None) is not None:
        raise InputError(
            f"{options.prefixes}: there must be as many prefixes as lines. Received: {number} lines"
            " and more prefixes. Remove the prefixes that have no line."
        )


def _translator(options, parser: CommandParser):
    """Loads the run or the export that the options name.

    Raises:
        InputError: If there is neither, or the export cannot do what the options ask for.
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
            f"{options.run}: an export supports only its own beam search, --n-best, --scores,"
            " --prefixes and, without prefixes, greedy search with --beam-size 1. Received:"
            f" {', '.join(unfit)}. Leave that out, or name the run."
        )
    return ExportedTranslator(version, greedy=greedy, with_prefixes=with_prefixes)


def _translation_of(options, translator) -> Callable[[list[Row]], list[str]]:
    """Returns a function that turns rows into output lines, as the options ask."""
    if options.samples is None and not 1 <= options.n_best <= translator.beam_size:
        raise InputError(
            f"--n-best must be 1 to the beam size. Received: --n-best {options.n_best}, beam size"
            f" {translator.beam_size}. Choose a smaller --n-best or a larger --beam-size."
        )
    is_plain = options.samples is None and options.n_best == 1 and not options.scores
    drawing = {name: options[name] for name in ("temperature", "top_k", "top_p", "seed")}
    num_lines = 0

    def translate(rows):
        nonlocal num_lines
        texts, prefixes = map(list, zip(*rows, strict=True))
        more = {} if options.prefixes is None else {"prefixes": prefixes}
        if is_plain:
            return translator.translate(texts, **more)
        if options.samples is None:
            found = translator.n_best(texts, options.n_best, **more)
        else:
            more |= drawing | {"first_place": num_lines}
            found = translator.sample(texts, options.samples, **more)
        num_lines += len(texts)
        return ["\t".join(_columns(hypotheses, options.scores)) for hypotheses in found]

    return translate


def _columns(hypotheses: list[tuple[str, float]], with_scores: bool) -> Iterator[str]:
    """Yields the translations, each after its score; tabs in a translation become spaces."""
    for text, score in hypotheses:
        if with_scores:
            yield f"{score:.6f}"
        yield text.replace("\t", " ")


def _check_numbers(options) -> None:
    if options.samples is None:
        return
    if options.samples < 1:
        raise InputError(
            f"--samples must be at least 1. Received: {options.samples}. For example: 5."
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


if __name__ == "__main__":
    sys.exit(run_command(main))
