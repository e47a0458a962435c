"""Reproduces rows of the paper's Table 3: `python -m training.experiments table3 --help`.

Without text, this counts each row's parameters. With text, it trains the rows, at any scale.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from training.command_line.errors import InputError
from training.command_line.parser import CommandParser, parse
from training.command_line.running import tell
from training.devices.opening import leave_devices_to_children
from training.experiments.names import PAPER
from training.experiments.report import write_report
from training.experiments.runs import trained_and_scored
from training.experiments.text_folder import add_text_options, text_of
from training.settings import DATA_SETTINGS, TrainingSettings, make_settings, read_settings_file

if TYPE_CHECKING:
    from keras_transformer.config import TransformerConfig

CONFIGS = Path(__file__).parents[1] / "configs" / "table3"

PAPER_VOCABULARY = 37_000  # "about 37000 tokens", section 5.1
# With this many embeddings, our counts match each published one, except "big", to the million.
FITTING_VOCABULARY = 41_000

MODEL_COLUMNS = ("N", "d_model", "d_ff", "h", "d_k", "d_v", "P_drop", "eps_ls")
SCALED = ("model_dim", "feed_forward_dim", "head_dim", "value_dim")
PAPER_WARMUP_STEPS = 4000

REASON = (
    f"The differences look like rows of the embeddings: with {FITTING_VOCABULARY:,} rows instead of"
    f" {PAPER_VOCABULARY:,}, every count except that of `big` matches the published one to the"
    " million, the paper's precision. Embeddings matter more in a smaller model, so three counts"
    " differ by more than 3.5%: C_layers_2, C_model_dim_256 and C_feed_forward_dim_1024. (The count"
    ' of `big` matches with 35,300 to 36,200 rows.) The paper says only "about 37000 tokens".'
    " Biases and normalizations are at most 0.3% of a model, too few to explain the differences."
    " Rows B match only with values of width 64."
)


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = _parser()
    options = parse(parser, arguments)
    rows = [row for row in PAPER if row in options.rows]  # in the paper's order
    text = text_of(options)
    leave_devices_to_children()  # counting needs no device
    if text:
        train_rows(rows, text, options)
    else:
        count_rows(rows, Path(options.output))


def _parser() -> CommandParser:
    parser = CommandParser(
        "experiments table3",
        "Counts the parameters of each row of the paper's Table 3. With text (--data, or the four"
        " files), trains the rows at any scale, one after the other, and prints the paper's"
        " columns. Run the command again to resume, or to add rows; finished runs are kept.",
    )
    parser.add_output_folder("output", "runs/table3", "The folder for the results and the runs.")
    help_text = "The rows. Training always includes base."
    parser.add_option("rows", Literal[tuple(PAPER)], list(PAPER), help_text, nargs="+")
    add_text_options(parser)
    parser.add_option(
        "steps", int | None, None, "Updates of each row; by default, the paper's 100,000 or more."
    )
    parser.add_option(
        "scale",
        float,
        1.0,
        "The factor for d_model, d_ff, d_k and d_v of each row; 0.125 is the smallest that leaves"
        " all of them even.",
    )
    parser.add_option("vocabulary_size", int, PAPER_VOCABULARY, "Sub-words of trained rows.")
    parser.add_option("batch_tokens", int, 25_000, "Tokens in a batch on each side.")
    parser.add_option(
        "warmup_steps",
        int | None,
        None,
        "Updates until the peak learning rate; by default, the paper's 4,000 or a quarter of the"
        " steps, whichever is less.",
    )
    parser.add_option("seed", int, 0, "Seed of all rows.")
    parser.add_threads()
    return parser


# Counting ----------------------------------------------------------------------------------------


def count_rows(rows: Sequence[str], output: Path) -> None:
    """Prints and writes the number of parameters of each row, and that of the paper."""
    tell(f"counting the parameters of {len(rows)} rows ...")
    ours = {row: _count(row, PAPER_VOCABULARY) for row in rows}
    fitting = {row: _count(row, FITTING_VOCABULARY) for row in rows}
    columns = ["row", *MODEL_COLUMNS, "parameters", "paper (10^6)", "difference"]
    cells = []
    for row in rows:
        published = PAPER[row].parameters
        against = ["", "", ""]
        if published is not None:
            off = difference_percent(ours[row], published)
            against = [published, f"{off:+.1f}%", f"{fitting[row] / 1e6:.2f}"]
        config = _config(row)
        cells.append([row, *_model_cells(config), f"{ours[row]:,}", *against])
    write_report(
        output,
        "table3_parameters",
        caption=f"Parameters of the rows of Table 3 with {PAPER_VOCABULARY:,} sub-words, and the"
        f" published numbers. {REASON}",
        columns=[*columns, f"with {FITTING_VOCABULARY:,} sub-words (10^6)"],
        rows=cells,
        measured={
            "vocabulary_size": PAPER_VOCABULARY,
            "parameters": ours,
            f"parameters_with_{FITTING_VOCABULARY}": fitting,
            "published_millions": {row: PAPER[row].parameters for row in rows},
        },
    )
    print(f"\n{REASON}")


def _config(row: str) -> "TransformerConfig":
    from keras_transformer.config import TransformerConfig

    return TransformerConfig.table3(row, PAPER_VOCABULARY)


def difference_percent(parameters: int, published_millions: int) -> float:
    """Returns the difference between a count and the published one, in % of the latter."""
    return 100 * (parameters / (1e6 * published_millions) - 1)


def count_parameters(config: "TransformerConfig") -> int:
    """Counts a model's parameters, by building only one block of each stack."""
    # Many rows differ only in settings without weights, so they share one count.
    return _count_shapes(dataclasses.replace(config, dropout=0.0, label_smoothing=0.0))


@functools.cache
def _count_shapes(config: "TransformerConfig") -> int:
    from keras_transformer.model import build_transformer

    model = build_transformer(dataclasses.replace(config, num_layers=1))
    blocks = [*model.encoder_blocks, *model.decoder_blocks]
    of_one_layer = sum(block.count_params() for block in blocks)
    return model.count_params() + (config.num_layers - 1) * of_one_layer


def _count(row: str, vocabulary_size: int) -> int:
    """Counts the parameters of a row with another vocabulary size."""
    config = _config(row)
    added = (vocabulary_size - PAPER_VOCABULARY) * config.model_dim
    return count_parameters(config) + added


def _model_cells(config: "TransformerConfig") -> list:
    """Returns the values for `MODEL_COLUMNS`."""
    head_dim = config.head_dim or config.model_dim // config.num_heads
    widths = (config.num_layers, config.model_dim, config.feed_forward_dim, config.num_heads)
    shares = (config.dropout, config.label_smoothing)
    return [*widths, head_dim, config.value_dim or head_dim, *shares]


# Training ----------------------------------------------------------------------------------------


def train_rows(rows: Sequence[str], text: dict[str, str], options) -> None:
    """Trains the rows that are not finished, and writes the table and the picture of all rows."""
    output = Path(options.output)
    # The other rows are compared to base. All settings come first, so that an invalid one fails
    # before any run.
    rows = list(dict.fromkeys(["base", *rows]))
    settings = {row: row_settings(row, text, options) for row in rows}
    measured = {}
    for number, row in enumerate(rows, start=1):
        print(f"\n{row} ({number} of {len(rows)})", flush=True)
        measured[row] = _measured(output / "runs" / row, settings[row])
    write_results(output, settings, measured, options.scale)


def row_settings(row: str, text: dict[str, str], options) -> TrainingSettings:
    """Returns a row's settings, with the text, scale, steps and sizes of the options."""
    values = read_settings_file(CONFIGS / f"{row}.yaml") | text
    values |= {name: _scaled(row, name, values[name], options.scale) for name in SCALED}
    names = ("vocabulary_size", "batch_tokens", "seed")
    values |= {name: options[name] for name in names}
    if options.steps is not None:
        # One epoch, so that the last weights are kept, as in the paper.
        values |= {"steps_per_epoch": options.steps, "epochs": 1}
        values["warmup_steps"] = max(1, min(PAPER_WARMUP_STEPS, options.steps // 4))
    if options.warmup_steps is not None:
        values["warmup_steps"] = options.warmup_steps
    return make_settings(values)


def _scaled(row: str, name: str, width: int, scale: float) -> int:
    scaled = width * scale
    if scaled != int(scaled) or scaled < 1:
        raise InputError(
            f"--scale must leave widths whole. Received: --scale {scale:g}, with which {name} of"
            f" row {row} would be {scaled:g}. For example, choose --scale 0.125."
        )
    return int(scaled)


def _measured(run: Path, settings: TrainingSettings) -> dict:
    scores = trained_and_scored(run, settings)
    from keras_transformer.text.tokenizer_pair import load_tokenizer

    vocabulary_size = load_tokenizer(run / "tokenizer.model").vocabulary_size
    return {
        **scores,
        "steps": settings.epochs * settings.steps_per_epoch,
        "parameters": count_parameters(settings.model_config(vocabulary_size)),
    }


def write_results(
    output: Path, settings: dict[str, TrainingSettings], measured: dict[str, dict], scale: float
) -> None:
    """Writes and prints a table with the paper's columns, for our numbers and the paper's.

    Args:
        output: The folder to write to.
        settings: The settings of each row, including "base".
        measured: For each row, the result of `trained_and_scored` with "steps" and "parameters".
        scale: The factor of the widths.
    """
    columns = ["row", *MODEL_COLUMNS, "steps", "dev PPL", "dev BLEU", "parameters (10^6)"]
    cells = []
    for row, numbers in measured.items():
        ours = [
            f"{numbers['steps']:,}",
            f"{numbers['val_perplexity']:.2f}",
            f"{numbers['bleu']:.1f}",
            f"{numbers['parameters'] / 1e6:.2f}",
        ]
        paper = ["" if value is None else value for value in PAPER[row]]
        model_cells = _model_cells(settings[row].model_config(PAPER_VOCABULARY))
        cells.append([row, *model_cells, *ours, *paper])
    base, steps = settings["base"], measured["base"]["steps"]
    how = (
        f"widths times {scale:g}, {steps:,} updates of at most {base.batch_tokens:,} tokens a side,"
        f" at most {base.vocabulary_size:,} sub-words, seed {base.seed}"
    )
    write_report(
        output,
        "table3",
        caption=f"Rows of Table 3, {how}; dev is the validation text, BLEU sacreBLEU's with beam"
        f" search. Signature: {measured['base']['bleu_signature']}.",
        columns=[*columns, "paper PPL", "paper BLEU", "paper parameters"],
        rows=cells,
        measured={"scale": scale, "settings": _as_numbers(base), "rows": measured},
    )


def _as_numbers(settings: TrainingSettings) -> dict:
    """Returns all settings except the text's paths, which belong to one machine."""
    values = dataclasses.asdict(settings)
    return {name: value for name, value in values.items() if name not in DATA_SETTINGS}
