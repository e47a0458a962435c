"""Translates line by line, stdin to stdout: `python -m training.translate --help`."""

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, Literal

from training.command import (
    CommandParser,
    InputError,
    import_tensorflow,
    option_name,
    parse,
    run_command,
)
from training.kept_epochs import check_kept, model_of_epoch
from training.run_folder import RunFolder

LINES_AT_ONCE = 1000


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
    parser.add_option("samples", int | None, None, "Draw so many translations by chance instead.")
    parser.add_option("temperature", float, 1.0, "Of samples: the lower, the more probable.")
    parser.add_option("top_k", int | None, None, "Sample among so many tokens.")
    parser.add_option("top_p", float | None, None, "Sample among tokens of this probability.")
    parser.add_option("seed", int, 0, "Of samples; the same seed draws the same.")
    parser.add_flag("scores", "Write the score and a tab in front of each translation.")
    options = parse(parser, arguments)
    if options.samples is not None:
        check_sampling_options(options)
    translator = load_translator(options.run, **search_settings(options))
    at_once = 1 if sys.stdin.isatty() else LINES_AT_ONCE
    lines = translate_lines(
        _translation_of(options, translator), read_text_lines(sys.stdin.buffer), at_once
    )
    for line in lines:
        sys.stdout.buffer.write(line.encode("utf-8") + b"\n")
        if at_once == 1:
            sys.stdout.buffer.flush()
    sys.stdout.buffer.flush()


def _translation_of(options, translator) -> Callable[[list[str]], list[str]]:
    """What makes lines of texts, as the options ask for."""
    if options.samples is not None:
        num_lines = 0

        def sample(texts):
            nonlocal num_lines
            first_place, num_lines = num_lines, num_lines + len(texts)
            return translator.sample(
                texts,
                options.samples,
                temperature=options.temperature,
                top_k=options.top_k,
                top_p=options.top_p,
                seed=options.seed,
                first_place=first_place,
            )

        return in_columns(sample, with_scores=options.scores)
    check_n_best(options.n_best, translator.beam_size)
    if options.n_best == 1 and not options.scores:
        return translator.translate
    return in_columns(
        lambda texts: translator.n_best(texts, options.n_best), with_scores=options.scores
    )


def add_search_options(parser: CommandParser) -> None:
    """Adds the options of the weights and the search, for which a run has settings of its own."""
    parser.add_option(
        "epoch",
        int | None,
        None,
        "Takes the weights at the end of this epoch in place of the finished model; those of the"
        " last and the best epochs are kept. The run need not be finished.",
    )
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
    import_tensorflow()
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


def check_sampling_options(options) -> None:
    """Refuses numbers that nothing can be drawn with.

    Raises:
        InputError: If one is out of its range.
    """
    if options.samples < 1:
        raise InputError(
            f"--samples must be at least 1. Received: {options.samples}. Choose for example 5."
        )
    if options.seed < 0:
        raise InputError(f"--seed must be at least 0. Received: {options.seed}. Choose 0.")
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
    hypotheses_of: Callable[[list[str]], list[list[tuple[str, float]]]], *, with_scores: bool
) -> Callable[[list[str]], list[str]]:
    """A function from texts to lines with their translations, separated by tabs.

    A tab inside a translation becomes a space.
    """

    def columns(hypotheses: list[tuple[str, float]]) -> Iterator[str]:
        for text, score in hypotheses:
            if with_scores:
                yield f"{score:.6f}"
            yield text.replace("\t", " ")

    return lambda texts: ["\t".join(columns(found)) for found in hypotheses_of(texts)]


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
    from keras_transformer.data.lines import without_end

    for number, line in enumerate(stream, start=1):
        line = without_end(line)
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}:{number}: the text must be UTF-8. Received: the byte"
                f" 0x{line[error.start]:02x} at position {error.start}. Convert it to UTF-8."
            ) from error


if __name__ == "__main__":
    sys.exit(run_command(main))
