"""BLEU by seconds of training: `python -m training.experiments quality --help`.

The Transformer and the systems that it replaced, each as its YAML has it, on the same text, with
the same sub-words and search, for the same time on the same machine. One process at a time trains,
and validation counts as training time, for all alike.
"""

import dataclasses
import hashlib
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from training.command_line.errors import UsageError
from training.command_line.parser import CommandParser, parse
from training.devices.opening import leave_devices_to_children
from training.experiments.report import write_report
from training.experiments.runs import scores_of, trained_and_scored
from training.experiments.text_folder import text_settings
from training.files import file_sha256
from training.pictures.style import clear_axes, line_style, new_figure
from training.runs.bleu_tokenizer import check_bleu_tokenizer, chosen_tokenizer
from training.runs.folder import RunFolder
from training.settings import (
    DATA_SETTINGS,
    BleuTokenizer,
    TrainingSettings,
    make_settings,
    read_settings_file,
)

CONFIGS = Path(__file__).parents[1] / "configs"

# The YAML of each system, and how pictures and tables call it; LSTMs are those of GRUs with one
# gate more, and so much narrower that they have as many parameters.
LSTM_DIM = 192
SYSTEMS = {
    "transformer": ("multi30k_transformer", "Transformer"),
    "gru_attention": ("multi30k_gru_attention", "GRU with attention"),
    "lstm_attention": ("multi30k_gru_attention", "LSTM with attention"),
    "convolution": ("multi30k_convolution", "convolution"),
    "gru": ("multi30k_gru", "GRU, one vector"),
    "lstm": ("multi30k_gru", "LSTM, one vector"),
}
BY_DEFAULT = ("transformer", "gru_attention", "convolution", "gru")

# More than fit in any time: only the time ends a training.
EPOCHS = 10_000

COLUMNS = ("system", "parameters", "tokens/s", "epochs", "minutes", "validation BLEU")


def run(arguments: Sequence[str]) -> None:
    """The command."""
    options = parse(_parser(), arguments)
    _check(options)
    text = _text(options)
    # All settings come first, so that a wrong one costs no training.
    configs = Path(options.configs)
    asked = {
        (system, seed): system_settings(system, seed, text, options.minutes, configs)
        for seed in options.seeds  # seed by seed: an early table has all systems
        for system in options.systems
    }
    for settings in asked.values():
        check_bleu_tokenizer(settings.bleu_tokenizer)
    leave_devices_to_children()
    _check_test_text(options)
    output, measured = Path(options.output), {system: {} for system in options.systems}
    for number, ((system, seed), settings) in enumerate(asked.items(), start=1):
        print(f"\n{system}, seed {seed} ({number} of {len(asked)})", flush=True)
        folder = output / "runs" / f"{system}_seed_{seed}"
        scores = trained_and_scored(folder, settings)
        measured[system][seed] = scores | _course(folder) | _test_scores(folder, options)
        write_results(output, measured, options.minutes)


def _parser() -> CommandParser:
    parser = CommandParser(
        "experiments quality",
        "Trains the Transformer and the systems it replaced for the same time, one after the other,"
        " and compares their BLEU. Run it again to resume, or with more systems and seeds: what is"
        " trained stays so.",
    )
    parser.add_output_folder("output", "runs/quality", "The folder for table, picture and runs.")
    parser.add_option("systems", str, list(BY_DEFAULT), "Which systems.", nargs="+")
    parser.add_option("seeds", int, [0, 1, 2], "Each system is trained with each seed.", nargs="+")
    parser.add_option("minutes", float, 30.0, "Time of each training at most, validation included.")
    parser.add_option(
        "data", str | None, None, "A folder with train.en, train.de, val.en, val.de, or .gz, .xz."
    )
    parser.add_option(
        "languages", str, ["en", "de"], "Suffixes of source and target in --data.", nargs=2
    )
    for name in DATA_SETTINGS:
        if name != "train_corpora":
            parser.add_option(name, str | None, None, "Instead of --data: this file.")
    parser.add_option("test_source", str | None, None, "Sentences to test on in the end.")
    parser.add_option("test_target", str | None, None, "Their translations.")
    parser.add_option(
        "bleu_tokenizer",
        BleuTokenizer | None,
        None,
        "How sacreBLEU splits text into words; that of the YAML files if not given.",
    )
    parser.add_flag("tokenized", "The same as --bleu-tokenizer none, for text that is tokenised.")
    parser.add_option(
        "configs", str, str(CONFIGS), "The folder with the YAML files of the systems."
    )
    parser.add_threads()
    return parser


def _check(options) -> None:
    unknown = [system for system in options.systems if system not in SYSTEMS]
    if unknown or not options.systems:
        raise UsageError(
            f"--systems must name some of {', '.join(SYSTEMS)}. Received:"
            f" {unknown[0] if unknown else 'none'}. Choose among them."
        )
    if not options.minutes > 0:
        raise UsageError(
            f"--minutes must be above 0. Received: {options.minutes:g}. Choose for example 30."
        )
    if (options.test_source is None) != (options.test_target is None):
        raise UsageError(
            "--test-source and --test-target must come together. Received: one of them. Give both."
        )


def _check_test_text(options) -> None:
    """Reads the test text once, since what is wrong with it would show after all training."""
    if options.test_source is not None:
        from keras_transformer.data import read_pairs

        read_pairs(options.test_source, options.test_target)


def _text(options) -> dict[str, str]:
    """The files to train and validate on, and how BLEU splits them, by setting."""
    files = {name: options.get(name) for name in DATA_SETTINGS if options.get(name) is not None}
    if (options.data is None) == (not files):
        raise UsageError(
            "The text must be given as --data or by the names of its files. Received:"
            f" {'both' if files else 'neither'}. Give one."
        )
    files = files or text_settings(options.data, options.languages)
    tokenizer = chosen_tokenizer(options.tokenized, options.bleu_tokenizer, "")
    return files | ({"bleu_tokenizer": tokenizer} if tokenizer else {})


def system_settings(
    system: str, seed: int, text: dict[str, str], minutes: float, configs: Path = CONFIGS
) -> TrainingSettings:
    """The settings of a system's YAML, for this text, seed and time."""
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
    """How a training went, epoch by epoch, and how large the model is."""
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
        # Of the median epoch: in the first there is tracing.
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in epochs),
        "seconds_by_epoch": np.cumsum([line["seconds"] for line in epochs]).tolist(),
        "val_bleu_by_epoch": [line["val_bleu"] for line in epochs],
    }


def _test_scores(folder: Path, options) -> dict:
    """What the run's beam search reaches on the test text; each text is scored but once."""
    if options.test_source is None:
        return {}
    texts = file_sha256(options.test_source) + file_sha256(options.test_target)
    path = folder / f"test_{hashlib.sha256(texts.encode()).hexdigest()[:12]}.json"
    scores = scores_of(folder, path, options.test_source, options.test_target)
    return {"test_bleu": scores["bleu"], "test_bleu_signature": scores["bleu_signature"]}


def write_results(output: Path, measured: dict[str, dict[int, dict]], minutes: float) -> None:
    """Writes and prints the table, the numbers and the picture of what is trained so far.

    Args:
        output: The folder.
        measured: By system and seed: "parameters", "tokens_per_second", "epochs", "bleu" (of the
            validation text), "test_bleu" if there is one, "seconds_by_epoch" and
            "val_bleu_by_epoch". At least one system has a seed.
        minutes: The time of each training at most.
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
        " the same commands on the same machine; a training ends where one more epoch, as long as"
        f" its last, would take it beyond that. {_of_seeds(measured)}. Tokens per second are"
        " target tokens, padding left out, in the median epoch. BLEU is sacreBLEU's of beam search"
        f" over averaged weights. Signatures: {'; '.join(sorted(signatures))}.",
        columns=[*COLUMNS, "test BLEU"] if has_test else COLUMNS,
        rows=rows,
        measured={"minutes": minutes, "systems": measured},
        figure=quality_figure(measured, minutes),
    )


def _of_seeds(measured: dict[str, dict[int, dict]]) -> str:
    """How many seeds a row of the table stands for; some systems may have one more than others."""
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


def quality_figure(measured: dict[str, dict[int, dict]], minutes: float) -> Figure:
    """A line of each system: BLEU by seconds of training; in the legend the best stands on top."""
    if max(len(seeds) for seeds in measured.values()) == 1:
        what = "text; a mark is the end of an epoch."
    else:
        what = (
            "text, the mean over seeds; a band is the seeds' range; a mark is the end of an epoch"
            " (of the first seed)."
        )
    figure = new_figure(
        8.6,
        5.0,
        f"Who translates best after the same time on the same machine, up to {minutes:g} minutes?"
        f" A line is the BLEU of greedy translations of the validation {what} What stands higher is"
        " better, what rises further left is sooner.",
    )
    axes = figure.subplots()
    clear_axes(axes)
    for system, seeds in measured.items():
        style = line_style(list(SYSTEMS).index(system))
        band = seeds_over_time(list(seeds.values()))
        axes.fill_between(band.seconds, band.lowest, band.highest, color=style["color"], alpha=0.18)
        axes.plot(
            band.seconds,
            band.mean,
            **style | {"markevery": band.marks},
            label=SYSTEMS[system][1],
        )
    axes.set_xlabel("seconds of training, validation included")
    axes.set_ylabel("validation BLEU (0 to 100)")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(handles)), key=lambda i: -handles[i].get_ydata()[-1])
    axes.legend([handles[i] for i in order], [labels[i] for i in order], frameon=False)
    return figure


@dataclasses.dataclass
class Band:
    """BLEU over time, of several seeds.

    Attributes:
        seconds: Float (times,).
        lowest, mean, highest: Float (times,), over the seeds.
        marks: Which of the times are ends of the first seed's epochs.
    """

    seconds: np.ndarray
    lowest: np.ndarray
    mean: np.ndarray
    highest: np.ndarray
    marks: list[int]


def seeds_over_time(runs: list[dict]) -> Band:
    """What several seeds have at the same times, between epochs along straight lines.

    No two runs end their epochs at the same time. The times are those at which any seed ends one,
    from when all have ended one until the first has ended its last.
    """
    first = max(run["seconds_by_epoch"][0] for run in runs)
    last = max(min(run["seconds_by_epoch"][-1] for run in runs), first)
    times = {first, last}
    times |= {s for run in runs for s in run["seconds_by_epoch"] if first <= s <= last}
    seconds = np.array(sorted(times))
    values = np.array(
        [np.interp(seconds, run["seconds_by_epoch"], run["val_bleu_by_epoch"]) for run in runs]
    )
    own = set(runs[0]["seconds_by_epoch"])
    marks = [i for i, second in enumerate(seconds) if second in own]
    return Band(seconds, values.min(axis=0), values.mean(axis=0), values.max(axis=0), marks)
