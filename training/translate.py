"""Translates line by line: `python -m training.translate --help`."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from training.arriving import ArrivingLines, batches
from training.command import (
    CommandParser,
    InputError,
    UsageError,
    import_keras,
    import_tensorflow,
    option_name,
    parse,
    run_command,
)
from training.exported_translator import ExportedTranslator, find_version
from training.kept_epochs import check_kept, model_of_epoch
from training.outputs import check_output_files, check_utf_8
from training.run_folder import RunFolder, replacing

LINES_AT_ONCE = 1000

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
        for some in _translated(
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


def add_output_options(parser: CommandParser, lines_at_once: int) -> None:
    """Adds the options of a command that writes a line for each that it reads."""
    parser.add_option(
        "output", str | None, None, "File to write, whole or not at all; stdout if not given, or -."
    )
    parser.add_flag("overwrite", "Replace the output if it is there.")
    parser.add_option(
        "batch_lines",
        int,
        lines_at_once,
        "Lines at once at most; fewer go together if no more arrive.",
    )


def check_files(options, inputs: dict[str, str | None]) -> None:
    """Refuses what `add_output_options` was given if it cannot be obeyed.

    Raises:
        InputError: If the output cannot be written, or is a stdout that is closed.
        UsageError: If there are no lines at once.
    """
    if options.batch_lines < 1:
        raise UsageError(
            f"--batch-lines must be at least 1. Received: {options.batch_lines}. Choose for example"
            " 1000."
        )
    output = None if options.output == "-" else options.output
    if output is None and sys.stdout is None:
        raise InputError("stdout must be open. Received: none. Give --output FILE.")
    check_output_files({"--output": output}, inputs, overwrite=options.overwrite)


@contextlib.contextmanager
def opened_output(path: str | None) -> Iterator[BinaryIO]:
    """The file that --output names, which is there once the block has ended well; or stdout."""
    if path in (None, "-"):
        yield sys.stdout.buffer
        return
    with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
        yield file


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
    from keras_transformer.data.lines import iterate_any_lines

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


def add_search_options(parser: CommandParser) -> None:
    """Adds the options of the model and the search, for which a run has settings of its own."""
    parser.add_option("beam_size", int | None, None, "Beams; the run's setting if not given.")
    parser.add_option(
        "length_penalty", float | None, None, "alpha; the run's setting if not given."
    )
    parser.add_option(
        "length_normalization",
        Literal["gnmt", "length"] | None,
        None,
        "What alpha is the power of; the run's setting if not given.",
    )
    add_model_options(parser)


def add_model_options(parser: CommandParser) -> None:
    """Adds the options of whose weights are taken, and of the number format they are taken in."""
    parser.add_option(
        "epoch",
        int | None,
        None,
        "Takes the weights at the end of this epoch in place of the finished model; those of the"
        " last and the best epochs are kept. The run need not be finished.",
    )
    parser.add_option(
        "precision",
        Literal["float32", "bfloat16", "int8", "int8_bfloat16"],
        "float32",
        "Of the weights and products: int8 is fastest on x86 processors since 2019, bfloat16 on"
        " those that have AMX; int8_bfloat16 has int8 weights, and beams read half as much.",
    )


def search_settings(options) -> dict:
    """What `add_search_options` was given."""
    names = ("beam_size", "length_penalty", "length_normalization", "precision", "epoch")
    return {name: getattr(options, name) for name in names}


def load_translator(
    path: str,
    beam_size: int | None = None,
    length_penalty: float | None = None,
    length_normalization: str | None = None,
    precision: str = "float32",
    epoch: int | None = None,
):
    """The translator of a run, with another search if that is asked for.

    Args:
        path: The run's folder.
        beam_size: Instead of the run's own setting.
        length_penalty: Instead of the run's own setting.
        length_normalization: Instead of the run's own setting.
        precision: As for a Translator.
        epoch: Whose weights to take, of a run that need not be finished; None takes the finished
            model.

    Raises:
        InputError: If the folder is no finished run, the epoch is not kept, or the search's numbers
            are out of range.
    """
    run = RunFolder(path)
    settings = run.read_record().settings
    if epoch is None:
        run.check_finished()
    else:
        check_kept(run, settings, [epoch], "--epoch")
    search = {
        "beam_size": settings.beam_size if beam_size is None else beam_size,
        "length_penalty": settings.length_penalty if length_penalty is None else length_penalty,
    }
    check_search(**search)
    import_tensorflow(f"loading {path}")
    import training.baselines  # noqa: F401  registers their classes
    from keras_transformer.translator import Translator

    if epoch is None:
        return Translator.load(
            path, length_normalization=length_normalization, precision=precision, **search
        )
    model, tokenizer = model_of_epoch(run, settings, epoch)
    return Translator(
        model,
        tokenizer,
        length_normalization=length_normalization or settings.length_normalization,
        max_source_tokens=settings.max_source_tokens,
        precision=precision,
        **search,
    )


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
    from keras_transformer.decoding.sampling import check_sampling

    try:
        check_sampling(options.temperature, options.top_k, options.top_p)
    except ValueError as error:
        name, rest = str(error).split(" ", 1)
        raise InputError(f"{option_name(name)} {rest}") from error


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
    for translations in _translated(translate, batches(lines, at_once), shows=at_once > 1):
        yield from translations


def _translated(
    translate: Callable[[list], list[str]], in_turns: Iterable[list], *, shows: bool
) -> Iterator[list[str]]:
    """The translations of each batch; `shows` tells a terminal how many there are."""
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
    """Yields the lines of a stream of bytes, without their ends and a leading byte order mark.

    Lines end at LF or CR LF and nowhere else.

    Raises:
        InputError: If a line is not UTF-8. Names the line.
    """
    from keras_transformer.data.compressed import format_of_bytes
    from keras_transformer.data.lines import iterate_stream

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


if __name__ == "__main__":
    sys.exit(run_command(main))
