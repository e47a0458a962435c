"""Scores a run's translations of a test set: `python -m training.evaluate --help`."""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from training.command import CommandParser, InputError, parse, run_command
from training.run_folder import write_text
from training.translate import (
    add_search_options,
    load_translator,
    search_settings,
    translate_lines,
)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What the JSON holds.

    Attributes:
        bleu: Corpus BLEU of sacreBLEU, 0 to 100.
        bleu_signature: How sacreBLEU computed it; figures compare only under one signature.
        chrf: Corpus chrF of sacreBLEU, 0 to 100.
        chrf_signature: How sacreBLEU computed it.
        num_sentences: Sentences scored.
    """

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str
    num_sentences: int


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandParser("evaluate", "Translates a test set and scores it with sacreBLEU.")
    parser.add_positional("run", "The folder of a finished run.")
    parser.add_option("source", str, None, "Sentences to translate, one a line.", required=True)
    parser.add_option("reference", str, None, "Their translations, line by line.", required=True)
    add_search_options(parser)
    parser.add_flag("tokenized", "References are tokenised already: score the text as it is.")
    parser.add_option("json", str | None, None, "File to write the scores to.")
    parser.add_option("hypotheses", str | None, None, "File to write the translations to.")
    parser.add_flag("overwrite", "Replace these files if they are there.")
    options = parse(parser, arguments)
    if not options.overwrite:
        check_absent([options.json, options.hypotheses])
    from keras_transformer.data import read_pairs

    sources, references = read_pairs(options.source, options.reference)
    translator = load_translator(options.run, **search_settings(options))
    start_seconds = time.monotonic()
    hypotheses = list(translate_lines(translator.translate, sources))
    seconds = time.monotonic() - start_seconds
    scores = score(hypotheses, references, tokenized=options.tokenized)
    if options.hypotheses:
        write_text(Path(options.hypotheses), "".join(line + "\n" for line in hypotheses))
    report(scores, seconds, translator, options.json)


def score(hypotheses: list[str], references: list[str], *, tokenized: bool) -> Scores:
    """Corpus BLEU and chrF.

    Args:
        hypotheses: Translations.
        references: The right ones, in the same order.
        tokenized: Whether words and punctuation are set apart already in both, so that BLEU
            must not do it again (sacreBLEU's tokenize="none").
    """
    from sacrebleu.metrics import BLEU, CHRF

    # force: no advice about text that looks tokenised, where it is said to be.
    bleu = BLEU(tokenize="none", force=True) if tokenized else BLEU()
    chrf = CHRF()
    return Scores(
        bleu=bleu.corpus_score(hypotheses, [references]).score,
        bleu_signature=str(bleu.get_signature()),
        chrf=chrf.corpus_score(hypotheses, [references]).score,
        chrf_signature=str(chrf.get_signature()),
        num_sentences=len(hypotheses),
    )


def report(scores: Scores, seconds: float, translator, json_path: str | None) -> None:
    """Prints the scores, and writes them where that is asked for."""
    print(f"BLEU {scores.bleu:.2f}  ({scores.bleu_signature})")
    print(f"chrF {scores.chrf:.2f}  ({scores.chrf_signature})")
    plural = "s" * (scores.num_sentences != 1)
    print(f"{scores.num_sentences:,} sentence{plural} in {seconds:.1f} s")
    if json_path:
        content = {
            **dataclasses.asdict(scores),
            "seconds": round(seconds, 3),
            "beam_size": translator.beam_size,
            "length_penalty": translator.length_penalty,
            "length_normalization": translator.length_normalization,
            "precision": translator.precision,
        }
        write_text(Path(json_path), json.dumps(content, indent=2) + "\n")


def check_absent(paths: Sequence[str | None]) -> None:
    """Refuses to write over a result.

    Raises:
        InputError: If one of the files is there.
    """
    for path in paths:
        if path and Path(path).exists():
            raise InputError(
                f"{path}: the output must not exist. Received: a file that does. Choose another"
                " name, or give --overwrite."
            )


if __name__ == "__main__":
    sys.exit(run_command(main))
