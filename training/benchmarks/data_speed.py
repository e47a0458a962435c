"""Whether training waits for its text: `python -m training.benchmark data --help`.

The same made-up text is trained on three times: a small part of it that is held in memory, all of
it streamed from one file a side, and all of it streamed from many. Where nothing waits, the tokens
a second are the same.
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

from training.command_line.errors import InputError, UsageError
from training.command_line.parser import CommandParser, option_name, parse
from training.command_line.running import quiet_stderr, tell
from training.settings import read_settings_file

CONSONANTS, VOWELS = "bdklmnrst", "aeiou"
NUM_WORDS = 30_000
WORDS_PER_LINE = 6, 30  # at least, and fewer than
PAIRS_PER_BLOCK = 50_000
VALIDATION_PAIRS = 100
FEWEST_PAIRS = 500
SECONDS_BETWEEN_LOOKS = 0.05
STOPPED = 143  # the exit code of a command that SIGTERM has stopped


class Text(NamedTuple):
    """A text to train on.

    Attributes:
        name: For the answer.
        pattern: Of its files, without the suffix that tells the sides apart.
        num_pairs: How many it has.
        num_files: Of each side.
        streamed: Or else held in memory.
    """

    name: str
    pattern: str
    num_pairs: int
    num_files: int
    streamed: bool


def measure_data(arguments: Sequence[str]) -> None:
    """Prints a line of JSON for each way to read the text."""
    parser = CommandParser(
        "benchmark data",
        "Makes a text, trains on a part of it in memory, and on all of it from one file and from"
        " many, in turns, each in processes of their own: seconds from the start of the process to"
        " the first update, tokens a second, memory. 5,000,000 pairs are 3 GB on the disk and take"
        " a quarter of an hour.",
    )
    parser.add_option("num_pairs", int, 5_000_000, "Pairs of the text.")
    parser.add_option("in_memory", int, 5_000, "Pairs of the part that is held in memory.")
    parser.add_option("num_files", int, 100, "Files of each side, where there are many.")
    parser.add_option("steps", int, 60, "Updates that are measured.")
    parser.add_option("repeats", int, 3, "Measurements of each; the median counts.")
    parser.add_option("batch_tokens", int, 2048, "Tokens of a batch on each side.")
    parser.add_option("vocabulary_size", int, 8_000, "Sub-words.")
    parser.add_option("config", str, "training/configs/multi30k_tiny.yaml", "Other settings.")
    parser.add_option("folder", str | None, None, "Where the text is made; a temporary folder.")
    parser.add_threads()
    options = parse(parser, arguments)
    for name in ("num_pairs", "in_memory"):
        if options[name] < FEWEST_PAIRS:
            raise UsageError(
                f"{option_name(name)} must be at least {FEWEST_PAIRS}. Received: {options[name]}."
                " Choose more."
            )
    for name, least in {"num_files": 2, "steps": 2, "repeats": 1}.items():
        if options[name] < least:
            raise UsageError(
                f"{option_name(name)} must be at least {least}. Received: {options[name]}. Choose"
                " more."
            )
    read_settings_file(options.config)  # a fault is named before the text is written
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        tell(f"writing {options.num_pairs:,} pairs to {folder} ...")
        texts = write_texts(folder, options.num_pairs, options.in_memory, options.num_files)
        tokenizer = _train_tokenizer(folder, texts[0], options.vocabulary_size)
        rounds = [
            [_measured(folder, text, tokenizer, options) for text in texts]
            for _ in range(options.repeats)
        ]
        for text, measured in zip(texts, zip(*rounds, strict=True), strict=True):
            print(json.dumps(_line(text, measured, options.batch_tokens)))


def write_texts(folder: Path, num_pairs: int, in_memory: int, num_files: int) -> list[Text]:
    """Writes the text as one file and as many, its beginning, and pairs to validate on.

    Returns:
        The three texts, the small one first.
    """
    numbers = np.random.default_rng(0)
    with contextlib.ExitStack() as stack:

        def files(name):
            paths = (folder / f"{name}.source", folder / f"{name}.target")
            return [stack.enter_context(open(path, "w", encoding="utf-8")) for path in paths]

        whole, part, validation = files("all"), files("part"), files("validation")
        pairs = _pairs(numbers)
        for pair in itertools.islice(pairs, VALIDATION_PAIRS):
            _write(validation, pair)
        for number, pair in enumerate(itertools.islice(pairs, num_pairs)):
            _write(whole, pair)
            if number < in_memory:
                _write(part, pair)
    _write_shards(folder, num_pairs, num_files)
    return [
        Text("in memory", str(folder / "part"), min(in_memory, num_pairs), 1, streamed=False),
        Text("one file", str(folder / "all"), num_pairs, 1, streamed=True),
        Text("many files", str(folder / "shard-*"), num_pairs, num_files, streamed=True),
    ]


def _write_shards(folder: Path, num_pairs: int, num_files: int) -> None:
    """Cuts each side into so many files of about as many lines."""
    for side in ("source", "target"):
        with open(folder / f"all.{side}", encoding="utf-8") as whole:
            for number in range(num_files):
                lines = (number + 1) * num_pairs // num_files - number * num_pairs // num_files
                with open(folder / f"shard-{number:04d}.{side}", "w", encoding="utf-8") as shard:
                    shard.writelines(itertools.islice(whole, lines))


def _train_tokenizer(folder: Path, text: Text, vocabulary_size: int) -> Path:
    """A tokenizer of the small text, for all."""
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer

    files = [f"{text.pattern}.{side}" for side in ("source", "target")]
    with quiet_stderr():  # SentencePiece tells what it reads
        tokenizer = SubwordTokenizer.train(files, vocabulary_size)
    path = folder / "tokenizer.model"
    tokenizer.save(path)
    return path


def _write(files, pair: tuple[str, str]) -> None:
    for file, line in zip(files, pair, strict=True):
        file.write(line + "\n")


def _pairs(numbers: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Lines of made-up words, few of them frequent and many rare, and each line mirrored."""
    words = sorted({_word(numbers) for _ in range(NUM_WORDS)})
    words = np.array(words)[numbers.permutation(len(words))]
    mirrored = np.array([word[::-1] for word in words])
    frequency = 1 / np.arange(1, len(words) + 1)  # Zipf's law
    cumulative = np.cumsum(frequency / frequency.sum())
    while True:
        lengths = numbers.integers(*WORDS_PER_LINE, PAIRS_PER_BLOCK)
        chosen = np.searchsorted(cumulative, numbers.random(lengths.sum())).clip(max=len(words) - 1)
        source, target = words[chosen].tolist(), mirrored[chosen].tolist()
        ends = np.cumsum(lengths).tolist()
        for start, end in zip([0, *ends], ends, strict=False):
            yield " ".join(source[start:end]), " ".join(reversed(target[start:end]))


def _word(numbers: np.random.Generator) -> str:
    syllables = numbers.integers(1, 5)
    return "".join(
        CONSONANTS[numbers.integers(len(CONSONANTS))] + VOWELS[numbers.integers(len(VOWELS))]
        for _ in range(syllables)
    )


def _measured(folder: Path, text: Text, tokenizer: Path, options) -> dict[str, float]:
    """What two trainings of a text took: one that ends with its first update, and one that counts.

    Raises:
        InputError: With the last words of a training that fails.
    """
    tell(f"training twice on {text.name} ...")
    command = _command(folder, text, tokenizer, options)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        runs = Path(name)
        first_update_seconds = _seconds_to_first_update(command, runs / "first")
        peak_memory_mib = _train(command, runs / "counted")
        metrics = json.loads((runs / "counted" / "metrics.jsonl").read_text().splitlines()[0])
    return {
        "first_update_seconds": round(first_update_seconds, 1),
        "tokens_per_second": round(metrics["tokens_per_second"]),
        "peak_memory_mib": peak_memory_mib,
        "steps": metrics["steps"],
    }


def _line(text: Text, measured: Sequence[dict[str, float]], batch_tokens: int) -> dict:
    """What is printed of a text: the medians of its measurements."""
    return {
        "task": "data",
        "text": text.name,
        "pairs": text.num_pairs,
        "files": text.num_files,
        "megabytes": round(_bytes_of(text) / 1e6, 1),
        **{name: statistics.median(one[name] for one in measured) for name in measured[0]},
        "batch_tokens": batch_tokens,
        "repeats": len(measured),
    }


def _command(folder: Path, text: Text, tokenizer: Path, options) -> list[str]:
    """What trains on a text for one epoch; where it writes, and its checkpoints, are left open."""
    settings = {
        "config": options.config,
        "train-source": f"{text.pattern}.source",
        "train-target": f"{text.pattern}.target",
        "validation-source": folder / "validation.source",
        "validation-target": folder / "validation.target",
        "tokenizer": tokenizer,
        "batch-tokens": options.batch_tokens,
        "epochs": 1,
        "max-minutes": "null",
        "average-checkpoints": 1,
        # What is in memory has as many batches as it has.
        "steps-per-epoch": options.steps if text.streamed else "null",
    }
    command = [sys.executable, "-m", "training.train"]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    return command


def _seconds_to_first_update(command: list[str], run: Path) -> float:
    """From the start of the process to the checkpoint behind the first batch."""
    start = time.perf_counter()
    with _running(command, run, checkpoint_steps="1") as process:
        while process.poll() is None and not list(run.glob("checkpoints/epoch_*")):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        seconds = time.perf_counter() - start
        process.terminate()
    return seconds


def _train(command: list[str], run: Path) -> int:
    """Trains to the end, and returns the most memory that it had, in MiB."""
    peak_mib = 0
    with _running(command, run, checkpoint_steps="null") as process:
        while process.poll() is None:
            peak_mib = max(peak_mib, _peak_mib(process.pid))
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return peak_mib


@contextlib.contextmanager
def _running(command: list[str], run: Path, checkpoint_steps: str) -> Iterator[subprocess.Popen]:
    """A training that is over when the block is.

    Raises:
        InputError: If it ends otherwise than by itself or as told.
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
            words = log.read().strip().splitlines()
            raise InputError(
                "A training must end well. Received:"
                f" {words[-1] if words else f'exit code {process.returncode}'}"
            )


def _peak_mib(process_id: int) -> int:
    """The most memory that a process has had so far, by Linux' account; 0 once it has ended."""
    with contextlib.suppress(OSError, ProcessLookupError):
        lines = Path(f"/proc/{process_id}/status").read_text(encoding="ascii").splitlines()
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return 0


def _bytes_of(text: Text) -> int:
    pattern = Path(text.pattern)
    return sum(
        path.stat().st_size
        for side in ("source", "target")
        for path in pattern.parent.glob(f"{pattern.name}.{side}")
    )
