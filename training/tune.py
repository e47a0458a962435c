"""Searches for good settings with Keras Tuner: `python -m training.tune --help`."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from training.command_line.errors import InputError, UsageError
from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_keras, run_command
from training.runs.bleu_tokenizer import check_bleu_tokenizer, chosen_tokenizer, warn_if_unspaced
from training.runs.monitor import needs_translations
from training.runs.record import RunRecord
from training.settings import (
    FIELDS,
    SETTING_NAMES,
    FileSettings,
    Monitor,
    TrainingSettings,
    make_settings,
    make_settings_parser,
    read_settings_file,
)
from training.tuning.plan import Algorithm, SearchFolder, SearchPlan
from training.tuning.space import SUB_WORDS, Space

DEFAULT_SPACE = Path(__file__).parent / "configs" / "default_space.yaml"
# The extra `tuner`, since Keras Tuner itself does not require all of these.
PACKAGES = {
    "keras_tuner": "keras-tuner",
    "tensorboard": "tensorboard",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = _parser()
    given = parse(parser, arguments)
    from_file = None if given.config is None else read_settings_file(given.config)
    options = parse(parser, arguments, from_file)
    options.bleu_tokenizer = chosen_tokenizer(
        options.tokenized,
        given.bleu_tokenizer,
        options.bleu_tokenizer or FIELDS["bleu_tokenizer"].default,
    )
    _check_numbers(options)
    _check_installed()
    plan = _plan(options, from_file)
    folder = SearchFolder(options.output)
    from training.tuning.search import search
    from training.tuning.trials import Trials

    is_chief_or_alone = search(Trials(folder, plan), options.max_trials)
    if not is_chief_or_alone:
        return
    print(folder.table_path.read_text(encoding="utf-8"))
    if not folder.best_path.exists():
        raise InputError(
            f"{options.output}: at least one trial must succeed. Received: only failures; the table"
            f" and {folder.rows_path.name} show the reasons. Search another space or raise"
            " --max-parameters, with another --output."
        )
    print(f"finished: {options.output}")
    if options.confirm_seeds:
        from training.tuning.comparison import Comparison

        budget = {"epochs": options.confirm_epochs, "max_minutes": options.confirm_minutes}
        print(Comparison(folder, plan, num_seeds=options.confirm_seeds, **budget).perform())


def _parser() -> CommandParser:
    parser = make_settings_parser(
        "tune",
        "Searches for good settings with Keras Tuner; run the same command again to resume."
        " It starts from the settings of --config and the options.",
    )
    parser.set_defaults(bleu_tokenizer=None)  # None shows that it was not given
    parser.add_output_folder("output", None, "The folder to write the search to.", required=True)
    _add_search_options(parser)
    _add_comparison_options(parser)
    parser.add_threads()
    parser.add_flag("tokenized", "Same as --bleu-tokenizer none, for text already tokenized.")
    return parser


def _add_search_options(parser: CommandParser) -> None:
    parser.add_option(
        "space",
        str,
        str(DEFAULT_SPACE),
        "YAML file with the settings to tune, each a list of values or {min: ..., max: ..., step:"
        " ..., log: true}.",
    )
    parser.add_option(
        "algorithm",
        Algorithm,
        "hyperband",
        "random draws values at random; bayesian models the objective with a Gaussian process;"
        " hyperband trains many trials for few epochs, and the best ones for more.",
    )
    parser.add_option(
        "objective",
        Monitor,
        "val_perplexity",
        "The measure that compares trials, each by its best epoch. Perplexities of different"
        " vocabularies are not comparable: to tune the vocabulary, use val_bleu or val_chrf.",
    )
    parser.add_option(
        "max_trials",
        int | None,
        None,
        "The most trials; a later run may raise it. With hyperband, null lets the algorithm decide;"
        " the others need a number.",
    )
    parser.add_option("max_epochs", int | None, None, "The most epochs of a trial; null: `epochs`.")
    parser.add_option(
        "factor",
        int,
        3,
        "For hyperband: 3 trains the best third of the trials for three times as many epochs.",
    )
    parser.add_option(
        "max_parameters", int | None, None, "Skip models with more weights; null sets no limit."
    )


def _add_comparison_options(parser: CommandParser) -> None:
    parser.add_option(
        "confirm_seeds",
        int,
        0,
        "After the search, train the best settings and the initial ones from scratch, with this"
        " many new seeds each, and compare their validation BLEU.",
    )
    parser.add_option(
        "confirm_epochs", int | None, None, "Epochs of these trainings; null: `epochs`."
    )
    parser.add_option(
        "confirm_minutes", float | None, None, "The most minutes of each; null: `max_minutes`."
    )


def _check_numbers(options) -> None:
    least = {"max_trials": 1, "max_epochs": 1, "factor": 2, "max_parameters": 1}
    least |= {"confirm_seeds": 0, "confirm_epochs": 1}
    for name, number in least.items():
        if options[name] is not None and options[name] < number:
            raise UsageError(
                f"--{name.replace('_', '-')} must be at least {number}. Received: {options[name]}."
                f" Choose {number} or more."
            )
    if options.confirm_minutes is not None and not options.confirm_minutes > 0:
        raise UsageError(
            f"--confirm-minutes must be above 0. Received: {options.confirm_minutes}. For"
            " example: 60."
        )
    if options.confirm_seeds == 1:
        raise UsageError(
            "--confirm-seeds must be 0, or at least 2 to show a spread. Received: 1. Choose 3."
        )
    if options.max_trials is None and options.algorithm != "hyperband":
        raise UsageError(
            f"--max-trials must be given with --algorithm {options.algorithm}. Received:"
            " no --max-trials. For example: --max-trials 20."
        )


def _check_installed() -> None:
    missing = [name for module, name in PACKAGES.items() if not importlib.util.find_spec(module)]
    if missing:
        raise InputError(
            f"Tuning needs {', '.join(PACKAGES.values())}. Received: no {', '.join(missing)}. Run"
            " pip install 'keras-seq2seq-transformer[tuner]'."
        )


def _plan(options, from_file: FileSettings | None) -> SearchPlan:
    settings = make_settings({name: options[name] for name in SETTING_NAMES}, from_file)
    space = Space.read(options.space)
    _check_sub_words(settings, space, options.objective)
    check_bleu_tokenizer(settings.bleu_tokenizer)
    import_keras()
    from training.runs.text import check_text, validation_references

    check_text(settings)
    if needs_translations(options.objective) or options.confirm_seeds:
        warn_if_unspaced(validation_references(settings), settings.bleu_tokenizer)
    return SearchPlan(
        record=RunRecord.of(settings),
        space=space,
        algorithm=options.algorithm,
        objective=options.objective,
        max_epochs=options.max_epochs or settings.epochs,
        factor=options.factor,
        max_parameters=options.max_parameters,
    )


def _check_sub_words(settings: TrainingSettings, space: Space, objective: str) -> None:
    """Refuses to tune a given vocabulary; warns if perplexity compares different ones."""
    tuned = [name for name in SUB_WORDS if name in space.dimensions]
    given = [name for name in ("tokenizer", "initial_run") if getattr(settings, name) is not None]
    if tuned and given:
        raise InputError(
            f"{tuned[0]} must not be tuned when {given[0]} provides the sub-words. Received: both."
            " Leave one out."
        )
    if tuned and not needs_translations(objective):
        print(
            f"warning: {tuned[0]} is tuned, but perplexities of different vocabularies are not"
            " comparable; use --objective val_bleu or val_chrf",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
