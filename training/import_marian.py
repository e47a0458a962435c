"""Imports a Marian, OPUS-MT or Hugging Face model: `python -m training.import_marian --help`."""

import sys
from collections.abc import Sequence

from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_tensorflow, run_command


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    options = parse(_parser(), arguments)
    import_tensorflow(f"importing {options.folder}")
    from training.runs.imported import import_run

    config = import_run(
        options.folder,
        options.run,
        punctuation=(options.source_punctuation, options.target_punctuation),
        overwrite=options.overwrite,
    )
    print(
        f"imported: {options.run}, {config.num_layers} + {config.decoder_layers} layers of width"
        f" {config.model_dim}, {config.vocabulary_size:,} sub-words"
    )


def _parser() -> CommandParser:
    parser = CommandParser(
        "import_marian",
        "Writes a finished run from a model that Marian or Hugging Face trained, so that"
        " evaluate, translate, export, serve and train --initial-run work on it. FOLDER holds"
        " decoder.yml (Marian, OPUS-MT) or config.json (Hugging Face).",
    )
    parser.add_positional("folder", "The model's folder.")
    parser.add_positional("run", "The run folder to write.")
    for side in ("source", "target"):
        parser.add_option(
            f"{side}_punctuation",
            str | None,
            None,
            f"The language of the {side}, such as en, whose punctuation to normalize by the"
            " rules of Moses, which OPUS-MT uses (default: keep it).",
        )
    parser.add_flag("overwrite", "Replace a run in the folder.")
    parser.add_threads()
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
