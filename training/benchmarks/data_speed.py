"""Measures whether training waits for its text: `python -m training.benchmark data --help`.

Trains on one made-up text in three ways: on a small part held in memory, on the whole text streamed
from one file per side, and on the whole text streamed from many files. If training never waits, all
three process the same number of tokens per second.
"""

import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.benchmarks.measuring import memory_mib
from training.command_line.errors import InputError
from training.command_line.parser import CommandParser, Options, parse
from training.command_line.running import import_keras, quiet_stderr, tell
from training.settings import read_settings_file

SIDES = ("source", "target")
CONSONANTS, VOWELS = "bdklmnrst", "aeiou"
NUM_WORDS = 30_000
WORDS_PER_LINE = 6, 30  # from 6 to 29
PAIRS_PER_BLOCK = 50_000
VALIDATION_PAIRS = 100
SECONDS_BETWEEN_LOOKS = 0.05
STOPPED = 143  # exit code of a command that SIGTERM stopped


class Text(NamedTuple):
    """A text to train on; `pattern` matches the paths of its files without the side's suffix."""

    name: str
    pattern: str
    num_pairs: int
    num_files: int
    streamed: bool


def measure_data(arguments: Sequence[str]) -> None:
    """Prints a line of JSON for each way of reading the text."""
    parser = CommandParser(
        "benchmark data",
        "Makes up a text, then trains on a part of it in memory, and on all of it from one file and"
        " from many files. Each run has its own process. Measures the seconds from its start to the"
        " first update, tokens per second, and memory. 5,000,000 pairs need 3 GB of disk space and"
        " about 15 minutes.",
    )
    parser.add_option("num_pairs", int, 5_000_000, "Pairs in the text.", least=500)
    parser.add_option("in_memory", int, 5_000, "Pairs in the part in memory.", least=500)
    parser.add_option("num_files", int, 100, "Files per side of the text in many files.", least=2)
    parser.add_option("steps", int, 60, "Updates to measure.", least=2)
    parser.add_option("repeats", int, 3, "Measurements of each text; the median counts.", least=1)
    parser.add_option("batch_tokens", int, 2048, "Tokens per batch on each side.")
    parser.add_option("vocabulary_size", int, 8_000, "Sub-words.")
    parser.add_option("config", str, "training/configs/multi30k_tiny.yaml", "Other settings.")
    parser.add_option(
        "folder",
        str | None,
        None,
        "Where to put the text (default: the system's temporary folder).",
    )
    parser.add_threads()
    options = parse(parser, arguments)
    read_settings_file(options.config)  # finds errors before the text is written
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        tell(f"writing {options.num_pairs:,} pairs to {folder} ...")
        texts = write_texts(folder, options.num_pairs, options.in_memory, options.num_files)
        _train_tokenizer(folder, texts[0], options.vocabulary_size)
        rounds = [
            [_measured(folder, text, options) for text in texts] for _ in range(options.repeats)
        ]
        for text, measured in zip(texts, zip(*rounds, strict=True), strict=True):
            print(json.dumps(_line(text, measured, options.batch_tokens)))


def write_texts(folder: Path, num_pairs: int, in_memory: int, num_files: int) -> list[Text]:
    """Writes the whole text in one file and in many, its beginning, and validation pairs.

    Returns:
        The three texts to train on, the small one first.
    """
    pairs = _pairs(np.random.default_rng(0))
    _write(folder / "validation", itertools.islice(pairs, VALIDATION_PAIRS))
    _write(folder / "all", itertools.islice(pairs, num_pairs))
    for side in SIDES:
        _write_parts(folder, side, num_pairs, in_memory, num_files)
    return [
        Text("in memory", str(folder / "part"), min(in_memory, num_pairs), 1, streamed=False),
        Text("one file", str(folder / "all"), num_pairs, 1, streamed=True),
        Text("many files", str(folder / "shard-*"), num_pairs, num_files, streamed=True),
    ]


def _write(path: Path, pairs: Iterator[tuple[str, str]]) -> None:
    with open(f"{path}.source", "w") as sources, open(f"{path}.target", "w") as targets:
        for source, target in pairs:
            sources.write(source + "\n")
            targets.write(target + "\n")


def _write_parts(folder: Path, side: str, num_pairs: int, in_memory: int, num_files: int) -> None:
    """Copies the beginning of a side, and splits the side into files of about equal length."""
    path = folder / f"all.{side}"
    with open(path) as whole, open(folder / f"part.{side}", "w") as part:
        part.writelines(itertools.islice(whole, in_memory))
    ends = [number * num_pairs // num_files for number in range(num_files + 1)]
    with open(path) as whole:
        for number, (start, end) in enumerate(itertools.pairwise(ends)):
            with open(folder / f"shard-{number:04d}.{side}", "w") as shard:
                shard.writelines(itertools.islice(whole, end - start))


def _train_tokenizer(folder: Path, text: Text, vocabulary_size: int) -> None:
    import_keras()
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer

    with quiet_stderr():  # SentencePiece reports what it reads
        files = [f"{text.pattern}.{side}" for side in SIDES]
        SubwordTokenizer.train(files, vocabulary_size).save(folder / "tokenizer.model")


def _pairs(numbers: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yields lines of made-up words with natural frequencies, each with its reversed line."""
    words = sorted({_word(numbers) for _ in range(NUM_WORDS)})
    words = np.array(words)[numbers.permutation(len(words))]
    mirrored = np.array([word[::-1] for word in words])
    frequency = 1 / np.arange(1, len(words) + 1)  # Zipf's law
    cumulative = np.cumsum(frequency / frequency.sum())
    while True:
        lengths = numbers.integers(*WORDS_PER_LINE, PAIRS_PER_BLOCK)
        chosen = np.searchsorted(cumulative, numbers.random(lengths.sum())).clip(max=len(words) - 1)
        source, target = words[chosen].tolist(), mirrored[chosen].tolist()
        for start, end in itertools.pairwise([0, *np.cumsum(lengths).tolist()]):
            yield " ".join(source[start:end]), " ".join(reversed(target[start:end]))


def _word(numbers: np.random.Generator) -> str:
    syllables = numbers.integers(1, 5)
    return "".join(
        CONSONANTS[numbers.integers(len(CONSONANTS))] + VOWELS[numbers.integers(len(VOWELS))]
        for _ in range(syllables)
    )


def _measured(folder: Path, text: Text, options: Options) -> dict[str, float]:
    """Runs training twice, once up to its first update and once to the end; returns measurements.

    Raises:
        InputError: If a run fails; the message has its last line.
    """
    tell(f"training twice on {text.name} ...")
    command = _command(folder, text, options)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        first, whole = Path(name, "first"), Path(name, "whole")
        first_update_seconds = _seconds_to_first_update(command, first)
        peak_memory_mib = _peak_mib(command, whole)
        metrics = json.loads((whole / "metrics.jsonl").read_text().splitlines()[0])
    return {
        "first_update_seconds": round(first_update_seconds, 1),
        "tokens_per_second": round(metrics["tokens_per_second"]),
        "peak_memory_mib": peak_memory_mib,
        "steps": metrics["steps"],
    }


def _line(text: Text, measured: Sequence[dict[str, float]], batch_tokens: int) -> dict:
    """Returns the line to print for a text, with the medians of its measurements."""
    pattern = Path(text.pattern)
    files = [path for side in SIDES for path in pattern.parent.glob(f"{pattern.name}.{side}")]
    return {
        "task": "data",
        "text": text.name,
        "pairs": text.num_pairs,
        "files": text.num_files,
        "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        **{name: statistics.median(one[name] for one in measured) for name in measured[0]},
        "batch_tokens": batch_tokens,
        "repeats": len(measured),
    }


def _command(folder: Path, text: Text, options: Options) -> list[str]:
    """Returns the command that trains on a text for one epoch; `_running` adds the output."""
    settings = {
        "config": options.config,
        "train-source": f"{text.pattern}.source",
        "train-target": f"{text.pattern}.target",
        "validation-source": folder / "validation.source",
        "validation-target": folder / "validation.target",
        "tokenizer": folder / "tokenizer.model",
        "batch-tokens": options.batch_tokens,
        "epochs": 1,
        "max-minutes": "null",
        "average-checkpoints": 1,
        # A text in memory determines the number of steps itself.
        "steps-per-epoch": options.steps if text.streamed else "null",
    }
    command = [sys.executable, "-m", "training.train"]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    return command


def _seconds_to_first_update(command: list[str], run: Path) -> float:
    """Measures the time from the process's start to its checkpoint after the first batch."""
    start = time.perf_counter()
    with _running(command, run, checkpoint_steps="1") as process:
        while process.poll() is None and not list(run.glob("checkpoints/epoch_*")):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        seconds = time.perf_counter() - start
        process.terminate()
    return seconds


def _peak_mib(command: list[str], run: Path) -> int:
    """Trains to the end, and returns the process's peak memory in MiB."""
    peak_mib = 0
    with _running(command, run, checkpoint_steps="null") as process:
        while process.poll() is None:
            peak_mib = max(peak_mib, memory_mib(process.pid, "VmHWM") or 0)
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return peak_mib


@contextlib.contextmanager
def _running(command: list[str], run: Path, checkpoint_steps: str) -> Iterator[subprocess.Popen]:
    """Runs a training process, and waits for its end at the end of the block.

    Raises:
        InputError: If the process failed.
    """
    command = [*command, "--output", str(run), "--checkpoint-steps", checkpoint_steps]
    with open(run.with_suffix(".log"), "w+", encoding="utf-8") as log:
        with subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
        if process.returncode not in (0, STOPPED):
            log.seek(0)
            lines = log.read().strip().splitlines() or [f"exit code {process.returncode}"]
            raise InputError(f"Training must succeed. Received: {lines[-1]}")
