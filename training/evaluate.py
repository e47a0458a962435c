"""Scores a run's translations of a test set: `python -m training.evaluate --help`."""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from training.command_line.lines import translate_lines
from training.command_line.outputs import check_output_files
from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_keras, run_command, tell
from training.command_line.search_options import add_search_options, search_settings
from training.files import write_or_keep
from training.runs.bleu_tokenizer import check_bleu_tokenizer, chosen_tokenizer, warn_if_unspaced
from training.runs.folder import RunFolder
from training.runs.scores import Scores, score
from training.runs.translator import load_translator
from training.settings import BleuTokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandParser("evaluate", "Translates a test set and scores it with sacreBLEU.")
    parser.add_positional("run", "The folder of a finished run.")
    parser.add_option("source", str, None, "Sentences to translate, one a line.", required=True)
    parser.add_option("reference", str, None, "Their translations, line by line.", required=True)
    add_search_options(parser)
    parser.add_threads()
    parser.add_option(
        "bleu_tokenizer",
        BleuTokenizer | None,
        None,
        "How sacreBLEU splits text into words; the run's setting if not given.",
    )
    parser.add_flag("tokenized", "The same as --bleu-tokenizer none, for text that is tokenised.")
    parser.add_option("json", str | None, None, "File to write the scores to.")
    parser.add_option("hypotheses", str | None, None, "File to write the translations to.")
    parser.add_flag("overwrite", "Replace these files if they are there.")
    options = parse(parser, arguments)
    check_output_files(
        {"--json": options.json, "--hypotheses": options.hypotheses},
        {"--source": options.source, "--reference": options.reference},
        overwrite=options.overwrite,
    )
    tokenizer = _bleu_tokenizer(options)
    check_bleu_tokenizer(tokenizer)
    import_keras()
    from keras_transformer.data import read_pairs

    sources, references = read_pairs(options.source, options.reference)
    warn_if_unspaced(references, tokenizer)
    translator = load_translator(options.run, **search_settings(options))
    tell(f"translating {len(sources):,} sentences ...")
    start_seconds = time.monotonic()
    hypotheses = list(translate_lines(translator.translate, sources))
    seconds = time.monotonic() - start_seconds
    scores = score(hypotheses, references, tokenizer)
    if options.hypotheses is not None:
        write_or_keep(Path(options.hypotheses), "".join(line + "\n" for line in hypotheses))
    report(scores, seconds, translator, options.json)


def _bleu_tokenizer(options) -> str:
    otherwise = RunFolder(options.run).read_record().settings.bleu_tokenizer
    return chosen_tokenizer(options.tokenized, options.bleu_tokenizer, otherwise)


def report(scores: Scores, seconds: float, translator, json_path: str | None) -> None:
    """Prints the scores, and writes them where that is asked for."""
    from keras_transformer.wording import counted

    print(f"BLEU {scores.bleu:.2f}  ({scores.bleu_signature})")
    print(f"chrF {scores.chrf:.2f}  ({scores.chrf_signature})")
    print(f"{counted(scores.num_sentences, 'sentence')} in {seconds:.1f} s")
    if json_path is not None:
        content = {
            **dataclasses.asdict(scores),
            "seconds": round(seconds, 3),
            "beam_size": translator.beam_size,
            "length_penalty": translator.length_penalty,
            "length_normalization": translator.length_normalization,
            "precision": translator.precision,
        }
        write_or_keep(Path(json_path), json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
