"""Averages the weights of epochs that a run has kept: `python -m training.average --help`."""

import sys
from collections.abc import Sequence

from training.command_line.errors import UsageError
from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_tensorflow, run_command
from training.runs.claim import locked
from training.runs.folder import RunFolder
from training.runs.kept_epochs import best_kept, check_kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    options = parse(_parser(), arguments)
    if (options.epochs is None) == (options.best is None):
        raise UsageError(
            "--epochs or --best must be given. Received:"
            f" {'neither' if options.epochs is None else 'both'}. Give one of them."
        )
    run = RunFolder(options.run)
    settings = run.read_record().settings
    run.check_finished()
    with locked(run):
        run.check_ended()
        epochs = options.epochs or best_kept(run, settings, options.best)
        check_kept(run, settings, epochs, "--epochs")
        import_tensorflow()
        from training.runs.averaging import average

        average(run, sorted({*epochs}), keeps_earlier=not options.overwrite)


def _parser() -> CommandParser:
    parser = CommandParser(
        "average",
        "Replaces the model of a finished run with the average of epochs that the run has kept. The"
        " model that training produced is kept as model.trained.keras.",
    )
    parser.add_positional("run", "The folder of a finished run.")
    parser.add_option("epochs", int, None, "The epochs to average.", nargs="+")
    parser.add_option(
        "best", int | None, None, "The number of best epochs, by the run's `monitor`, to average."
    )
    parser.add_threads()
    parser.add_flag("overwrite", "Do not keep the model that training produced.")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
