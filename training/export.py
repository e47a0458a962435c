"""Exports a run for TensorFlow Serving: `python -m training.export --help`."""

import sys
from collections.abc import Sequence

from training.command import CommandParser, parse, run_command
from training.translate import add_search_options, load_translator, search_settings


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandParser("export", "Writes a run as the next version of a SavedModel.")
    parser.add_positional("run", "The folder of a finished run.")
    parser.add_positional("directory", "saved_models/NAME; the version becomes a folder in it.")
    add_search_options(parser)
    options = parse(parser, arguments)
    translator = load_translator(options.run, **search_settings(options))
    from keras_transformer.export import export_saved_model

    print(f"exported: {export_saved_model(translator, options.directory)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
