"""How probable a run finds given translations: `python -m training.score --help`."""

import sys
from collections.abc import Iterator, Sequence

from training.command_line.arriving_lines import batches
from training.command_line.errors import InputError
from training.command_line.lines import add_output_options, check_files, opened_output
from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_keras, run_command
from training.command_line.search_options import add_model_options
from training.runs.translator import load_translator

Pair = tuple[str, str]
PAIRS_AT_ONCE = 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(_parser(), arguments)
    files = {"--source": options.source, "--target": options.target}
    check_files(options, files)
    for _ in _pairs(options):
        pass  # a fault is named before the work, not in the midst of it
    translator = load_translator(options.run, precision=options.precision, epoch=options.epoch)
    num_done = 0
    with opened_output(options.output) as output:
        for pairs in batches(_pairs(options), options.batch_lines):
            for log_probability, num_tokens in _scores(translator, pairs, num_done, files):
                output.write(f"{log_probability:.6f}\t{num_tokens}\n".encode("ascii"))
            output.flush()
            num_done += len(pairs)


def _parser() -> CommandParser:
    parser = CommandParser(
        "score",
        "Writes a line for each pair of lines: the natural logarithm of the target's probability,"
        " given the source, and the target's tokens, its end included, separated by a tab.",
    )
    parser.add_positional("run", "The folder of a run.")
    parser.add_option("source", str, None, "Source sentences, one a line.", required=True)
    parser.add_option("target", str, None, "Their translations, line by line.", required=True)
    add_output_options(parser, PAIRS_AT_ONCE)
    add_model_options(parser)
    parser.add_threads()
    return parser


def _pairs(options) -> Iterator[Pair]:
    import_keras()
    from keras_transformer.text.lines import iterate_pairs

    return iterate_pairs(options.source, options.target)


def _scores(
    translator, pairs: Sequence[Pair], num_before: int, files: dict[str, str]
) -> list[tuple[float, int]]:
    """The log-probability and the number of tokens of each target.

    Raises:
        InputError: If a line has too many tokens; names it by the lines before the pairs.
    """
    sides = [list(side) for side in zip(*pairs, strict=True)]
    limits = translator.max_source_tokens, translator.most_target_tokens
    for path, texts, limit in zip(files.values(), sides, limits, strict=True):
        for number, ids in enumerate(translator.tokenizer.encode(texts), start=num_before + 1):
            if len(ids) >= limit:  # the end is one more
                raise InputError(
                    f"{path}:{number}: a line that is scored must have at most {limit} tokens, the"
                    f" end included. Received: {len(ids) + 1}. Shorten it, or leave the pair out."
                )
    return translator.score(*sides)


if __name__ == "__main__":
    sys.exit(run_command(main))
