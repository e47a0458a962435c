"""Measures how fast exports translate a text, one after another in turns, and their BLEU."""

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from training.benchmarks.measuring import measure_alone
from training.command_line.errors import InputError
from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_keras, tell
from training.runs.exported_translator import find_version


def measure_text(arguments: Sequence[str]) -> None:
    """Translates a text with each export, and prints a line for each export and batch size."""
    options = parse(_parser(), arguments)
    import_keras()
    from keras_transformer.text.lines import read_lines
    from training.runs.scores import score

    versions = {export: _checked(export) for export in options.exports}
    sources, references = read_lines(options.source), read_lines(options.reference)
    if len(sources) != len(references):
        raise InputError(
            f"{options.reference}: must have a line for each line of {options.source}. Received:"
            f" {len(references)} and {len(sources)} lines. Check the files."
        )
    threads = options.threads or os.cpu_count()
    for batch in options.batch:
        measured = {export: [] for export in versions}
        for turn in range(options.repeats):
            for export, version in versions.items():
                tell(f"batch {batch}, turn {turn + 1} of {options.repeats}: {export}")
                request = {
                    "version": str(version),
                    "lines": sources,
                    "batch": batch,
                    "threads": threads,
                }
                rule = f"{export}: an export must load and translate"
                measured[export].append(measure_alone("text_translation.py", request, rule))
        for export, turns in measured.items():
            seconds = [turn["seconds"] for turn in turns]
            bleu = score(turns[0]["translations"], references, options.bleu_tokenizer).bleu
            line = {
                "task": "text",
                "export": export,
                "batch": batch,
                "threads": threads,
                "sentences": len(sources),
                "sentences_per_second": round(len(sources) / statistics.median(seconds), 2),
                "seconds": [round(number, 3) for number in seconds],
                "bleu": round(bleu, 2),
            }
            print(json.dumps(line), flush=True)


def _parser() -> CommandParser:
    parser = CommandParser(
        "benchmark text",
        "Measures how fast exports translate a text, from text to text, and their BLEU. Each export"
        " is a SavedModel of training.export or its folder for CTranslate2. The exports take"
        " turns, each time in a fresh process.",
    )
    parser.add_positional("exports", "Exports to compare.", nargs="+")
    parser.add_option("source", str, None, "Sentences to translate, one per line.", required=True)
    parser.add_option("reference", str, None, "Their translations.", required=True)
    parser.add_option("batch", int, [32], "Sentences at once.", least=1, nargs="+")
    parser.add_option("repeats", int, 3, "Turns; the median is reported.", least=1)
    parser.add_option("bleu_tokenizer", str, "13a", "SacreBLEU's tokenizer.")
    parser.add_threads()
    return parser


def _checked(export: str) -> Path:
    """Returns the folder to load: a version of a SavedModel, or that of CTranslate2."""
    version = find_version(export)
    if version is not None:
        from keras_transformer.checksums import check_export

        check_export(version)
        return version
    if (Path(export) / "options.json").is_file():
        return Path(export)
    raise InputError(
        f"{export}: must be an export. Received: neither a SavedModel nor a folder that"
        " `training.export --format ctranslate2` wrote. Check the path."
    )
