"""Measures BLEU by seconds of training: `python -m training.experiments quality --help`.

Trains the Transformer and the systems that it replaced, each with its own YAML file, on the same
text, with the same sub-words and search, for the same time on the same machine. Only one process
trains at a time, and validation counts as training time.
"""

import hashlib
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from training.command_line.errors import UsageError
from training.command_line.parser import CommandParser, parse
from training.devices.opening import leave_devices_to_children
from training.experiments.names import SYSTEMS
from training.experiments.report import write_report
from training.experiments.runs import scores_of, trained_and_scored
from training.experiments.text_folder import add_text_options, text_of
from training.runs.bleu_tokenizer import check_bleu_tokenizer, chosen_tokenizer
from training.runs.files import file_sha256
from training.runs.folder import RunFolder
from training.settings import BleuTokenizer, TrainingSettings, make_settings, read_settings_file

CONFIGS = Path(__file__).parents[1] / "configs"

# LSTMs use the YAML files of GRUs, but are narrower, because an LSTM has one more gate: so both
# have as many parameters.
LSTM_DIM = 192
BY_DEFAULT = ("transformer", "gru_attention", "convolution", "gru")

# Enough that only the time limit ends a run.
EPOCHS = 10_000

COLUMNS = ("system", "parameters", "tokens/s", "epochs", "minutes", "validation BLEU")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse(_parser(), arguments)
    _check(options)
    text = _text(options)
    # All settings come first, so that an invalid one fails before any run.
    configs = Path(options.configs)
    planned = {
        (system, seed): system_settings(system, seed, text, options.minutes, configs)
        for seed in options.seeds  # seed by seed, so that an early table has all systems
        for system in options.systems
    }
    for settings in planned.values():
        check_bleu_tokenizer(settings.bleu_tokenizer)
    leave_devices_to_children()
    _check_test_text(options)
    output, measured = Path(options.output), {system: {} for system in options.systems}
    for number, ((system, seed), settings) in enumerate(planned.items(), start=1):
        print(f"\n{system}, seed {seed} ({number} of {len(planned)})", flush=True)
        folder = output / "runs" / f"{system}_seed_{seed}"
        scores = trained_and_scored(folder, settings)
        measured[system][seed] = scores | _course(folder) | _test_scores(folder, options)
        write_results(output, measured, options.minutes)


def _parser() -> CommandParser:
    parser = CommandParser(
        "experiments quality",
        "Trains the Transformer and the systems it replaced for the same time, one after the other,"
        " and compares their BLEU. Run the command again to resume, or to add systems and seeds;"
        " finished runs are kept.",
    )
    parser.add_output_folder("output", "runs/quality", "The folder for the results and the runs.")
    parser.add_option(
        "systems", Literal[tuple(SYSTEMS)], list(BY_DEFAULT), "The systems to train.", nargs="+"
    )
    parser.add_option(
        "seeds", int, [0, 1, 2], "Seeds, each for a training of every system.", nargs="+"
    )
    parser.add_option("minutes", float, 30.0, "Time limit of a run, with validation.", above=0)
    add_text_options(parser)
    parser.add_option("test_source", str | None, None, "The test text's source sentences.")
    parser.add_option("test_target", str | None, None, "The test text's translations.")
    parser.add_option(
        "bleu_tokenizer",
        BleuTokenizer | None,
        None,
        "SacreBLEU's tokenizer; by default, that in the YAML files.",
    )
    parser.add_flag("tokenized", "The same as --bleu-tokenizer none, for tokenized text.")
    parser.add_option(
        "configs", str, str(CONFIGS), "The folder with the YAML files of the systems."
    )
    parser.add_threads()
    return parser


def _check(options) -> None:
    if (options.test_source is None) != (options.test_target is None):
        raise UsageError(
            "--test-source and --test-target must be given together. Received: only one of them."
            " Give both."
        )


def _check_test_text(options) -> None:
    """Reads the test text once, so that an error in it shows before any run."""
    if options.test_source is not None:
        from keras_transformer.data import read_pairs

        read_pairs(options.test_source, options.test_target)


def _text(options) -> dict[str, str]:
    """Returns the settings for the files of the text and BLEU's tokenizer."""
    files = text_of(options)
    if not files:
        raise UsageError(
            "The text must be given as --data or by the names of its files. Received: neither."
            " Give --data DIRECTORY, for example."
        )
    tokenizer = chosen_tokenizer(options.tokenized, options.bleu_tokenizer, "")
    return files | ({"bleu_tokenizer": tokenizer} if tokenizer else {})


def system_settings(
    system: str, seed: int, text: dict[str, str], minutes: float, configs: Path = CONFIGS
) -> TrainingSettings:
    """Returns the settings of a system's YAML file with the given text, seed and time limit."""
    values = read_settings_file(configs / f"{SYSTEMS[system][0]}.yaml")
    narrower = {"recurrent_dim": LSTM_DIM} if system.startswith("lstm") else {}
    return make_settings(
        values
        | narrower
        | text
        | {
            "model": system,
            "seed": seed,
            "max_minutes": minutes,
            "epochs": EPOCHS,
            "validation_bleu": True,
        }
    )


def _course(folder: Path) -> dict:
    """Returns a run's progress by epoch, and its number of parameters."""
    import keras

    import training.baselines  # noqa: F401  registers their classes
    from keras_transformer.finished_run import read_model

    run = RunFolder(folder)
    epochs = [line for line in run.read_metrics() if "epoch" in line]
    parameters = read_model(run.model_path).count_params()
    keras.backend.clear_session()
    return {
        "parameters": parameters,
        "epochs": len(epochs),
        "updates": epochs[-1]["steps"],
        # The median over epochs, since the first epoch includes tracing.
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in epochs),
        "seconds_by_epoch": np.cumsum([line["seconds"] for line in epochs]).tolist(),
        "val_bleu_by_epoch": [line["val_bleu"] for line in epochs],
    }


def _test_scores(folder: Path, options) -> dict:
    """Returns the scores of the run's beam search on the test text; scores each text only once."""
    if options.test_source is None:
        return {}
    texts = file_sha256(options.test_source) + file_sha256(options.test_target)
    path = folder / f"test_{hashlib.sha256(texts.encode()).hexdigest()[:12]}.json"
    scores = scores_of(folder, path, options.test_source, options.test_target)
    return {"test_bleu": scores["bleu"], "test_bleu_signature": scores["bleu_signature"]}


def write_results(output: Path, measured: dict[str, dict[int, dict]], minutes: float) -> None:
    """Writes the table, the numbers and the picture of the finished runs, and prints the table.

    Args:
        output: The folder to write to.
        measured: By system and seed: "parameters", "tokens_per_second", "epochs", "bleu" (on the
            validation text), "seconds_by_epoch", "val_bleu_by_epoch" and, with a test text,
            "test_bleu". At least one system must have a seed.
        minutes: The time limit of each run.
    """
    measured = {system: seeds for system, seeds in measured.items() if seeds}
    one = next(iter(next(iter(measured.values())).values()))
    has_test = "test_bleu" in one
    rows = []
    for system, seeds in measured.items():
        runs = list(seeds.values())
        cells = [
            SYSTEMS[system][1],
            f"{runs[0]['parameters']:,}",
            f"{_mean(runs, 'tokens_per_second'):,.0f}",
            f"{_mean(runs, 'epochs'):.0f}",
            f"{statistics.mean(run['seconds_by_epoch'][-1] for run in runs) / 60:.1f}",
            _mean_and_range(runs, "bleu"),
        ]
        if has_test:
            cells.append(_mean_and_range(runs, "test_bleu"))
        rows.append(cells)
    signatures = {one["bleu_signature"], *([one["test_bleu_signature"]] if has_test else [])}
    write_report(
        output,
        "quality_and_time",
        caption=f"Each system was trained for at most {minutes:g} minutes, validation included, by"
        " the same commands on the same machine; a run ends if another epoch as long as the last"
        f" would exceed that. {_of_seeds(measured)}. Tokens per second are target tokens without"
        " padding, in the median epoch. BLEU is sacreBLEU's, of beam search with averaged weights."
        " The picture has the BLEU of greedy translations of the validation text at the end of each"
        " epoch that all seeds finished, the seeds' mean and their range."
        f" Signatures: {'; '.join(sorted(signatures))}.",
        columns=[*COLUMNS, "test BLEU"] if has_test else COLUMNS,
        rows=rows,
        measured={"minutes": minutes, "systems": measured},
    )


def _of_seeds(measured: dict[str, dict[int, dict]]) -> str:
    """Describes the number of seeds of a row; some systems may already have one more seed."""
    numbers = sorted({len(seeds) for seeds in measured.values()})
    if numbers == [1]:
        return "One seed"
    return f"Means of {' to '.join(map(str, numbers))} seeds and their range"


def _mean(runs: list[dict], name: str) -> float:
    return statistics.mean(run[name] for run in runs)


def _mean_and_range(runs: list[dict], name: str) -> str:
    values = [run[name] for run in runs]
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
