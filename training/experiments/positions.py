"""Compares position encodings: `python -m training.experiments positions --help`.

Compares no positions, the learned table of Table 3's row E, and the paper's sinusoids, on two tasks
where order matters and one where it does not, also beyond the trained length.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_tensorflow
from training.experiments.made_tasks import (
    BATCH_SIZE,
    FIRST_SYMBOL_ID,
    PADDING_ID,
    RECIPE,
    REWRITINGS,
    fit,
    remembered,
    rewriting_pairs,
)
from training.experiments.names import ENCODINGS
from training.experiments.report import write_report

NUM_TEST = 200  # sequences of each length
# Quarters of the trained length, up to four times as long.
TESTED_QUARTERS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
MODEL = {
    "num_layers": 2,
    "model_dim": 64,
    "feed_forward_dim": 128,
    "num_heads": 4,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "normalize_first": True,
}
CAPTION = (
    "Share of right tokens by the length of the sequence, each given the right tokens before it;"
    " the band is from the worst to the best seed. Training used only lengths up to the dashed"
    " line. Beyond it, training never changed the rows of a learned table."
)


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = CommandParser(
        "experiments positions",
        "Trains small Transformers with no, learned and sinusoidal positions to copy, reverse and"
        " sort symbols, and tests them up to four times the trained length.",
    )
    parser.add_output_folder("output", "runs/positions", "The folder for the results.")
    tasks = list(REWRITINGS)
    parser.add_option("tasks", Literal[tuple(tasks)], tasks, "The tasks to train for.", nargs="+")
    parser.add_option("trained_length", int, 16, "Symbols in the longest training data.", least=4)
    parser.add_option("steps", int, 2000, f"Updates, with {BATCH_SIZE} sequences each.", least=1)
    parser.add_option("seeds", int, 3, "Runs of each model, with different seeds.", least=1)
    parser.add_threads()
    options = parse(parser, arguments)
    import_tensorflow()
    accuracies = {
        task: {encoding: _of_seeds(task, encoding, options) for encoding in ENCODINGS}
        for task in options.tasks
    }
    write_results(accuracies, options)


def tested_lengths(trained_length: int) -> list[int]:
    """Returns the lengths to test, up to four times the trained length."""
    return [quarters * trained_length // 4 for quarters in TESTED_QUARTERS]


def build_model(encoding: str, num_symbols: int, longest: int):
    """Builds a small Transformer.

    Args:
        encoding: A name in `ENCODINGS`.
        num_symbols: The size of the alphabet.
        longest: The length of the longest sequence to test, in symbols.
    """
    from keras_transformer.config import EXTRA_TARGET_TOKENS, TransformerConfig
    from keras_transformer.model import build_transformer

    config = TransformerConfig(
        vocabulary_size=FIRST_SYMBOL_ID + num_symbols,
        position_encoding="learned" if encoding == "learned" else "sinusoidal",
        max_source_tokens=longest + 1,
        max_positions=longest + 1 + EXTRA_TARGET_TOKENS,
        **MODEL,
    )
    model = build_transformer(config)
    if encoding == "none":
        # Not an option of a model, since translation needs positions, but one of the layer.
        model.embedding.position_encoding = None
    return model


def _of_seeds(task: str, encoding: str, options) -> list[list[float]]:
    """Returns the accuracies of each seed, by length."""
    found = []
    for seed in range(options.seeds):
        settings = {
            "task": task,
            "encoding": encoding,
            "seed": seed,
            "steps": options.steps,
            "trained_length": options.trained_length,
            "tested_quarters": [*TESTED_QUARTERS],
            "num_test": NUM_TEST,
            "model": MODEL,
            **RECIPE,
        }
        about = f"length_{options.trained_length}_steps_{options.steps}_seed_{seed}"
        path = Path(options.output) / "seeds" / f"{task}_{encoding}_{about}.json"
        measured = remembered(path, settings, lambda s=settings: _train_and_test(s))
        found.append(measured["accuracy"])
        print(f"{task}, {ENCODINGS[encoding]}, seed {seed}: {_shown(measured)}", flush=True)
    return found


def _shown(measured: dict) -> str:
    return " ".join(
        f"{length}:{accuracy:.2f}"
        for length, accuracy in zip(measured["length"], measured["accuracy"], strict=True)
    )


def _train_and_test(settings: dict) -> dict:
    import keras

    from keras_transformer.losses import LabelSmoothedCrossentropy

    lengths = tested_lengths(settings["trained_length"])
    num_symbols = lengths[-1] * 3 // 2  # so that even the longest sequences differ as sets
    keras.utils.set_random_seed(settings["seed"])
    generator = np.random.default_rng(settings["seed"])
    model = build_model(settings["encoding"], num_symbols, lengths[-1])
    trained = generator.integers(
        1, settings["trained_length"], size=BATCH_SIZE * settings["steps"], endpoint=True
    )
    pairs = rewriting_pairs(settings["task"], trained, num_symbols, generator)
    fit(model, LabelSmoothedCrossentropy(0.0), *pairs, num_updates=settings["steps"])
    accuracy = [
        token_accuracy(
            model, rewriting_pairs(settings["task"], [length] * NUM_TEST, num_symbols, generator)
        )
        for length in lengths
    ]
    return {"length": lengths, "accuracy": accuracy}


def token_accuracy(model, pairs) -> float:
    """Returns the share of right tokens, including the end, each given the right earlier tokens."""
    from keras import ops

    logits = model(pairs.inputs, training=False)
    right = ops.convert_to_numpy(ops.argmax(logits, axis=-1)) == pairs.labels
    return float(right[pairs.labels != PADDING_ID].mean())


def write_results(accuracies: dict[str, dict[str, list[list[float]]]], options) -> None:
    """Writes the report on accuracies, which are by task, encoding, seed and length."""
    lengths = tested_lengths(options.trained_length)
    rows = [
        [task, ENCODINGS[encoding], *(f"{value:.2f}" for value in np.mean(of_seeds, axis=0))]
        for task, of_encodings in accuracies.items()
        for encoding, of_seeds in of_encodings.items()
    ]
    how = (
        f"Small Transformers ({MODEL['num_layers']} + {MODEL['num_layers']} layers of width"
        f" {MODEL['model_dim']}), {options.steps:,} updates of {BATCH_SIZE} sequences of 1 to"
        f" {options.trained_length} symbols, {options.seeds} seeds."
    )
    write_report(
        options.output,
        "positions",
        caption=f"{CAPTION} Mean over the seeds. {how}",
        columns=["task", "positions", *(f"length {length}" for length in lengths)],
        rows=rows,
        measured={
            "lengths": lengths,
            "accuracy": accuracies,
            "trained_length": options.trained_length,
            "steps": options.steps,
            "batch_size": BATCH_SIZE,
            "model": MODEL,
        },
    )
