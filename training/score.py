"""Scores given translations by their probability: `python -m training.score --help`."""

import sys
from collections.abc import Sequence

from training.command_line.arriving_lines import batches
from training.command_line.errors import InputError
from training.command_line.lines import add_output_options, check_files, opened_output
from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_keras, run_command
from training.command_line.search_options import add_model_options
from training.runs.translator import load_translator

PAIRS_AT_ONCE = 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    options = parse(_parser(), arguments)
    files = {"--source": options.source, "--target": options.target}
    check_files(options, files)
    import_keras()
    from keras_transformer.text.lines import iterate_pairs

    for _ in iterate_pairs(*files.values()):
        pass  # reports a bad line before the work starts, not halfway through
    translator = load_translator(options.run, precision=options.precision, epoch=options.epoch)
    num_done = 0
    with opened_output(options.output) as output:
        for pairs in batches(iterate_pairs(*files.values()), options.batch_lines):
            sides = [list(side) for side in zip(*pairs, strict=True)]
            _check_lengths(translator, zip(files.values(), sides, strict=True), num_done)
            for log_probability, num_tokens in translator.score(*sides):
                output.write(f"{log_probability:.6f}\t{num_tokens}\n".encode("ascii"))
            output.flush()
            num_done += len(pairs)


def _parser() -> CommandParser:
    parser = CommandParser(
        "score",
        "Writes a line for each pair of lines: the natural logarithm of the target's probability"
        " given the source, a tab, and the number of target tokens, including the end token.",
    )
    parser.add_positional("run", "The folder of a run.")
    parser.add_option("source", str, None, "Source sentences, one per line.", required=True)
    parser.add_option("target", str, None, "Their translations, line by line.", required=True)
    add_output_options(parser, PAIRS_AT_ONCE)
    add_model_options(parser)
    parser.add_threads()
    return parser


def _check_lengths(translator, texts_of_files, num_before: int) -> None:
    """Refuses lines with too many tokens.

    Raises:
        InputError: If a line is too long; names its file and line.
    """
    sides = (
        (translator.tokenizer.source, translator.max_source_tokens),
        (translator.tokenizer.target, translator.most_target_tokens),
    )
    for (path, texts), (tokenizer, limit) in zip(texts_of_files, sides, strict=True):
        for number, ids in enumerate(tokenizer.encode(texts), start=num_before + 1):
            if len(ids) >= limit:  # the end token is one more
                raise InputError(
                    f"{path}:{number}: a line to score must have at most {limit} tokens, including"
                    f" the end token. Received: {len(ids) + 1}. Shorten it, or leave out the pair."
                )


if __name__ == "__main__":
    sys.exit(run_command(main))
