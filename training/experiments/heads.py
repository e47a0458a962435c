"""Compares numbers of heads at equal parameters: `python -m training.experiments heads --help`.

The h heads have width d_model / h, as in rows A of Table 3.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_tensorflow
from training.experiments.made_tasks import BATCH_SIZE, RECIPE, fit, neighbours, remembered
from training.experiments.report import write_report
from training.experiments.runs import trained_and_scored

HEADS = (1, 2, 4, 8)
TASKS = ("neighbours", "translation")
OFFSETS = (-4, -3, -2, -1, 1, 2, 3, 4)
NUM_TEST = 500  # sequences
MODEL = {"length": 16, "num_symbols": 16, "model_dim": 64, "feed_forward_dim": 256}
NUM_PAIRS = 12_000
CAPTION = (
    "More heads at the same number of parameters. Neighbors: one layer must name the four symbols"
    " on each side of every position; a head gives one weighted mean, so several positions need"
    " several heads. In the picture, the line is the mean of the seeds, and the band their range."
)


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = CommandParser(
        "experiments heads",
        "Trains models with 1, 2, 4 and 8 heads of the same total width: one layer that must name"
        " the neighbors of each position, and translators of the demo's sentences.",
    )
    parser.add_output_folder("output", "runs/heads", "The folder for the results and the runs.")
    parser.add_option("tasks", Literal[TASKS], list(TASKS), "The tasks to train for.", nargs="+")
    parser.add_option(
        "steps", int, 2000, f"Updates for neighbours, with {BATCH_SIZE} sequences each.", least=1
    )
    parser.add_option("translation_steps", int, 1000, "Updates for translation.", least=1)
    parser.add_option("seeds", int, 3, "Runs of each model, with different seeds.", least=1)
    parser.add_threads()
    options = parse(parser, arguments)
    import_tensorflow()
    measure = {"translation": _translations, "neighbours": _all_neighbours}
    # Other processes train the translators, and this one trains on neighbors. It keeps the GPU's
    # memory from its first use on, so neighbors come last.
    measured = {task: measure[task](options) for task in measure if task in options.tasks}
    write_results({task: measured[task] for task in options.tasks}, options)


# Naming neighbors --------------------------------------------------------------------------------


def _all_neighbours(options) -> dict[int, list[dict]]:
    """Measures accuracy and parameters by number of heads, seed by seed."""
    return {
        heads: [_neighbours(heads, seed, options) for seed in range(options.seeds)]
        for heads in HEADS
    }


def _neighbours(heads: int, seed: int, options) -> dict:
    settings = {"num_heads": heads, "seed": seed, "steps": options.steps, **MODEL, **RECIPE}
    settings |= {"offsets": [*OFFSETS], "num_test": NUM_TEST}
    name = f"neighbours_heads_{heads}_steps_{options.steps}_seed_{seed}.json"
    path = Path(options.output) / "seeds" / name
    measured = remembered(path, settings, lambda: _name_neighbours(settings))
    print(f"neighbours, {heads} heads, seed {seed}: {measured['score']:.3f}", flush=True)
    return measured


def build_namer(num_heads: int):
    """Builds one encoder layer that names, at each position, the symbols at all `OFFSETS`.

    It maps Integer (batch, length) to logits, Float (batch, length, offsets, symbols).
    """
    import keras

    from keras_transformer.layers.embedding import PositionalEmbedding
    from keras_transformer.layers.encoder import EncoderBlock

    symbols = keras.Input((MODEL["length"],), dtype="int32")
    x = PositionalEmbedding(MODEL["num_symbols"], MODEL["model_dim"], dropout=0.0)(symbols)
    x = EncoderBlock(num_heads, MODEL["feed_forward_dim"], dropout=0.0)(x)
    x = keras.layers.Dense(len(OFFSETS) * MODEL["num_symbols"])(x)
    shape = (MODEL["length"], len(OFFSETS), MODEL["num_symbols"])
    return keras.Model(symbols, keras.layers.Reshape(shape)(x))


def _name_neighbours(settings: dict) -> dict:
    import keras
    from keras import ops

    keras.utils.set_random_seed(settings["seed"])
    generator = np.random.default_rng(settings["seed"])
    ring = (settings["length"], OFFSETS, settings["num_symbols"], generator)
    model = build_namer(settings["num_heads"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    symbols, named = neighbours(BATCH_SIZE * settings["steps"], *ring)
    fit(model, loss, symbols, named, num_updates=settings["steps"])
    symbols, named = neighbours(NUM_TEST, *ring)
    right = ops.convert_to_numpy(ops.argmax(model(symbols, training=False), axis=-1)) == named
    return {"score": float(right.mean()), "parameters": model.count_params()}


# Translating -------------------------------------------------------------------------------------


def _translations(options) -> dict[int, list[dict]]:
    """Measures BLEU and parameters by number of heads, seed by seed."""
    seeds = range(options.seeds)
    found = {heads: [_translation(heads, seed, options) for seed in seeds] for heads in HEADS}
    for heads, of_seeds in found.items():
        # After the last run, since reading a model may take the GPU's memory.
        parameters = _parameters(_run_path(heads, 0, options))
        for one in of_seeds:
            one["parameters"] = parameters
    return found


def _run_path(heads: int, seed: int, options) -> Path:
    return Path(options.output) / "runs" / f"heads_{heads}_seed_{seed}"


def _translation(heads: int, seed: int, options) -> dict:
    from training.phrases.text import CONFIG, DemoText
    from training.settings import make_settings, read_settings_file

    text = DemoText(Path(options.output) / "text")
    if not text.path("validation", "target").exists():
        text.write(NUM_PAIRS)
    values = read_settings_file(CONFIG) | text.data_settings()
    values |= {"num_heads": heads, "seed": seed, "average_checkpoints": 1}
    values |= {"steps_per_epoch": options.translation_steps, "epochs": 1}
    scores = trained_and_scored(_run_path(heads, seed, options), make_settings(values))
    return {"score": scores["bleu"], **scores}


def _parameters(run: Path) -> int:
    from keras_transformer.finished_run import read_model

    return read_model(run / "model.keras").count_params()


# Table and picture -------------------------------------------------------------------------------


def write_results(measured: dict[str, dict[int, list[dict]]], options) -> None:
    """Writes the report.

    `measured` has "score" and "parameters" of each seed, by task and number of heads.
    """
    digits = {"neighbours": 3, "translation": 2}
    rows = []
    for task, of_heads in measured.items():
        for heads, of_seeds in of_heads.items():
            scores = [one["score"] for one in of_seeds]
            low, mean, high = min(scores), np.mean(scores), max(scores)
            shown = [f"{value:.{digits[task]}f}" for value in (mean, low, high)]
            rows.append([task, heads, *shown, f"{of_seeds[0]['parameters']:,}"])
    write_report(
        options.output,
        "heads",
        caption=f"{CAPTION} Neighbors: {options.steps:,} updates, share of right symbols."
        f" Translation: {options.translation_steps:,} updates, BLEU. {options.seeds} seeds.",
        columns=["task", "heads", "mean", "lowest", "highest", "parameters"],
        rows=rows,
        measured={
            "steps": options.steps,
            "translation_steps": options.translation_steps,
            "offsets": OFFSETS,
            "model": MODEL,
            "tasks": measured,
        },
    )
