"""Synthetic tasks with known answers, and a recipe for training on them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.command_line.running import tell
from training.runs.files import write_text

PADDING_ID, START_ID, END_ID = 0, 2, 3
FIRST_SYMBOL_ID = 4
PEAK_LEARNING_RATE = 0.003
BATCH_SIZE = 64
RECIPE = {"peak_learning_rate": PEAK_LEARNING_RATE, "batch_size": BATCH_SIZE}

# Functions from a sequence of symbols to the answer. The order of symbols matters in the first two.
REWRITINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "copy": lambda symbols: symbols,
    "reverse": lambda symbols: symbols[::-1],
    "sort": np.sort,
}


class Pairs(NamedTuple):
    """Data for a sequence-to-sequence model, like that of `kt.pair_batches`.

    Attributes:
        inputs: "source_ids" and "target_ids", Integer (batch, longest + 1) each, where `longest` is
            the largest number of symbols.
        labels: Integer (batch, longest + 1), `target_ids` moved by one position.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray


def rewriting_pairs(
    task: str, lengths: Sequence[int], num_symbols: int, generator: np.random.Generator
) -> Pairs:
    """Makes sequences of symbols, and the answers.

    Args:
        task: A name in `REWRITINGS`.
        lengths: The number of symbols in each sequence, at most `num_symbols`, since none repeats.
        num_symbols: The size of the alphabet, whose ids start at FIRST_SYMBOL_ID.
        generator: The generator that draws the symbols.
    """
    longest = max(lengths)
    source, target, labels = np.zeros((3, len(lengths), longest + 1), "int32")
    for row, length in enumerate(lengths):
        symbols = FIRST_SYMBOL_ID + generator.permutation(num_symbols)[:length]
        answer = REWRITINGS[task](symbols)
        source[row, : length + 1] = [*symbols, END_ID]
        target[row, : length + 1] = [START_ID, *answer]
        labels[row, : length + 1] = [*answer, END_ID]
    return Pairs({"source_ids": source, "target_ids": target}, labels)


def neighbours(
    num_sequences: int,
    length: int,
    offsets: Sequence[int],
    num_symbols: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Makes rings of symbols, and for each position the symbols at the given offsets from it.

    Args:
        num_sequences: The number of sequences.
        length: The number of symbols in each sequence, whose ends are joined.
        offsets: Distances in positions, negative to the left.
        num_symbols: The size of the alphabet, whose ids start at 0.
        generator: The generator that draws the symbols.

    Returns:
        The symbols, Integer (num_sequences, length), and their neighbors,
        Integer (num_sequences, length, offsets).
    """
    symbols = generator.integers(num_symbols, size=(num_sequences, length), dtype="int32")
    # Rolling to the left by 1 puts each symbol's right neighbor in its place.
    return symbols, np.stack([np.roll(symbols, -offset, axis=1) for offset in offsets], axis=-1)


def fit(model, loss, inputs, labels, *, num_updates: int) -> None:
    """Trains once on BATCH_SIZE * num_updates examples; a fifth of the updates are warm-up."""
    from keras_transformer.optimizers import Adam
    from keras_transformer.schedules import InverseSquareRootSchedule

    schedule = InverseSquareRootSchedule(PEAK_LEARNING_RATE, warmup_steps=max(1, num_updates // 5))
    model.compile(optimizer=Adam(schedule, beta_2=0.98, epsilon=1e-9), loss=loss)
    model.fit(inputs, labels, batch_size=BATCH_SIZE, epochs=1, shuffle=False, verbose=0)


def remembered(path: Path, settings: dict, measure: Callable[[], dict]) -> dict:
    """Reads the numbers that an earlier call measured with the same settings, or measures them now.

    Args:
        path: The JSON file to read, or to write after measuring.
        settings: Everything that the numbers depend on; must be JSON.
        measure: A function that measures the numbers.
    """
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier["settings"] == settings:
            return earlier["measured"]
    tell(f"training for {path} ...")
    measured = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"settings": settings, "measured": measured}) + "\n")
    return measured
