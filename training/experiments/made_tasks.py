"""Synthetic tasks with known answers, and the recipe to train on them."""

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

# From a sequence of symbols to the answer. The symbols' order matters to the first two.
REWRITINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "copy": lambda symbols: symbols,
    "reverse": lambda symbols: symbols[::-1],
    "sort": np.sort,
}


class Pairs(NamedTuple):
    """Data for a sequence-to-sequence model, as from `kt.pair_batches`.

    Attributes:
        inputs: "source_ids" and "target_ids", Integer (batch, longest + 1).
        labels: Integer (batch, longest + 1), `target_ids` moved by one.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray


def rewriting_pairs(
    task: str, lengths: Sequence[int], num_symbols: int, generator: np.random.Generator
) -> Pairs:
    """Sequences of symbols and their answers.

    Args:
        task: A name in `REWRITINGS`.
        lengths: Symbols of each sequence, at most `num_symbols`, since none repeats.
        num_symbols: The size of the alphabet; its ids start at FIRST_SYMBOL_ID.
        generator: Draws the symbols.
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
    """Sequences in a ring, and the symbols at some distances from each place.

    Args:
        num_sequences: Number of sequences.
        length: Symbols of each; its ends are joined.
        offsets: Distances, negative to the left.
        num_symbols: The size of the alphabet; its ids start at 0.
        generator: Draws the symbols.

    Returns:
        Integer (num_sequences, length), and Integer (num_sequences, length, offsets).
    """
    symbols = generator.integers(num_symbols, size=(num_sequences, length), dtype="int32")
    # rolling to the left by 1 puts each symbol's right neighbour in its place
    return symbols, np.stack([np.roll(symbols, -offset, axis=1) for offset in offsets], axis=-1)


def fit(model, loss, inputs, labels, *, num_updates: int) -> None:
    """Trains on each of BATCH_SIZE * num_updates examples once; a fifth of that is warm-up."""
    from keras_transformer.optimizers import Adam
    from keras_transformer.schedules import InverseSquareRootSchedule

    schedule = InverseSquareRootSchedule(PEAK_LEARNING_RATE, warmup_steps=max(1, num_updates // 5))
    model.compile(optimizer=Adam(schedule, beta_2=0.98, epsilon=1e-9), loss=loss)
    model.fit(inputs, labels, batch_size=BATCH_SIZE, epochs=1, shuffle=False, verbose=0)


def remembered(path: Path, settings: dict, measure: Callable[[], dict]) -> dict:
    """Numbers that were measured with these settings before, or are measured and saved now.

    Args:
        path: A JSON file.
        settings: Everything that the numbers depend on, as JSON.
        measure: Returns the numbers.
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
