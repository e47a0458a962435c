"""Scores a run's translations of a test set: `python -m training.evaluate --help`."""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from training.command_line.arriving_lines import batches
from training.command_line.lines import LINES_AT_ONCE, translated
from training.command_line.outputs import check_output_files
from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_keras, run_command, tell
from training.command_line.search_options import add_search_options, search_settings
from training.runs.bleu_tokenizer import check_bleu_tokenizer, chosen_tokenizer, warn_if_unspaced
from training.runs.files import write_or_keep
from training.runs.folder import RunFolder
from training.runs.scores import score
from training.runs.translator import load_translator
from training.settings import BleuTokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    options = parse(_parser(), arguments)
    check_output_files(
        {"--json": options.json, "--hypotheses": options.hypotheses},
        {"--source": options.source, "--reference": options.reference},
        overwrite=options.overwrite,
    )
    own_tokenizer = RunFolder(options.run).read_record().settings.bleu_tokenizer
    tokenizer = chosen_tokenizer(options.tokenized, options.bleu_tokenizer, own_tokenizer)
    check_bleu_tokenizer(tokenizer)
    import_keras()
    from keras_transformer.data import read_pairs
    from keras_transformer.wording import counted

    sources, references = read_pairs(options.source, options.reference)
    warn_if_unspaced(references, tokenizer)
    translator = load_translator(options.run, **search_settings(options))
    tell(f"translating {len(sources):,} sentences ...")
    start_seconds = time.monotonic()
    parts = translated(translator.translate, batches(sources, LINES_AT_ONCE))
    hypotheses = [translation for part in parts for translation in part]
    seconds = time.monotonic() - start_seconds
    scores = score(hypotheses, references, tokenizer)
    if options.hypotheses is not None:
        write_or_keep(Path(options.hypotheses), "".join(line + "\n" for line in hypotheses))
    print(f"BLEU {scores.bleu:.2f}  ({scores.bleu_signature})")
    print(f"chrF {scores.chrf:.2f}  ({scores.chrf_signature})")
    print(f"{counted(scores.num_sentences, 'sentence')} in {seconds:.1f} s")
    if options.json is not None:
        names = ("beam_size", "length_penalty", "length_normalization", "precision")
        content = {
            **dataclasses.asdict(scores),
            "seconds": round(seconds, 3),
            **{name: getattr(translator, name) for name in names},
        }
        write_or_keep(Path(options.json), json.dumps(content, indent=2) + "\n")


def _parser() -> CommandParser:
    parser = CommandParser("evaluate", "Translates a test set and scores it with sacreBLEU.")
    parser.add_positional("run", "The folder of a finished run.")
    parser.add_option("source", str, None, "Sentences to translate, one per line.", required=True)
    parser.add_option("reference", str, None, "Their translations, line by line.", required=True)
    add_search_options(parser)
    parser.add_threads()
    parser.add_option(
        "bleu_tokenizer",
        BleuTokenizer | None,
        None,
        "How sacreBLEU splits text into words (default: the run's setting).",
    )
    parser.add_flag("tokenized", "Same as --bleu-tokenizer none, for text already tokenized.")
    parser.add_option("json", str | None, None, "File to write the scores to.")
    parser.add_option("hypotheses", str | None, None, "File to write the translations to.")
    parser.add_flag("overwrite", "Replace the two output files if they exist.")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
