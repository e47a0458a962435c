"""Rebuilds a run's model from epochs that it kept: `python -m training.average --help`."""

import sys
from collections.abc import Sequence

from training.command_line.errors import UsageError
from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_tensorflow, run_command
from training.runs.claim import locked
from training.runs.folder import RunFolder
from training.runs.kept_epochs import best_kept, check_kept


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
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
        "Averages the weights of epochs that a finished run has kept, and makes that its model. The"
        " model that training made is kept as model.trained.keras.",
    )
    parser.add_positional("run", "The folder of a finished run.")
    parser.add_option("epochs", int, None, "The epochs to average.", nargs="+")
    parser.add_option(
        "best", int | None, None, "Average this many of the best epochs by the run's `monitor`."
    )
    parser.add_threads()
    parser.add_flag("overwrite", "Do not keep the model that training made.")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
