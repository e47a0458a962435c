"""Reads measurements of decoding speed: from `training.benchmark decode`, and of other programs.

A line is a JSON object. Both kinds have `task`, `dtype`, `batch` and `length`. The other keys have
different names: preset or size, beam_size or beams, source_length or src, tokens_per_second or
tokens_per_s. Only lines of other programs have `peer`, the program's name.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from training.command_line.errors import InputError

US = "this project"


class Work(NamedTuple):
    """The work that was measured. Only speeds of equal work are compared."""

    preset: str
    batch: int
    beam_size: int
    source_length: int
    threads: int
    length: int

    @property
    def search(self) -> str:
        return "greedy" if self.beam_size == 1 else f"beam {self.beam_size}"


class Program(NamedTuple):
    """A program and its precision."""

    name: str
    dtype: str


Speeds = dict[Program, dict[Work, float]]


def read_speeds(paths: Sequence[str]) -> Speeds:
    """Returns target tokens per second, the median over lines of equal work.

    Skips lines of other tasks and of real text, whose tokens are not counted.

    Raises:
        InputError: If a file cannot be read, a line is not a measurement, or none is of decoding.
    """
    return _medians(paths, "lines of decoding speed", lambda record, speed: speed)


def read_memory(paths: Sequence[str]) -> Speeds:
    """Returns the peak memory of this project's decoding in MiB, beyond the loaded model.

    Raises:
        InputError: As `read_speeds` does.
    """

    def memory_taken(record, _speed):
        if "peer" not in record and "peak_memory_mib" in record:
            return record["peak_memory_mib"] - record["memory_mib"]
        return None

    return _medians(paths, "lines of ours with peak_memory_mib", memory_taken)


def _medians(paths: Sequence[str], what: str, number_of) -> Speeds:
    measured = {}
    for path in paths:
        for program, work, record, speed in _decoding_lines(path):
            number = number_of(record, speed)
            if number is not None:
                measured.setdefault(program, {}).setdefault(work, []).append(number)
    if not measured:
        raise InputError(
            f"{', '.join(paths)}: must have {what}. Received: no such line. Give files with the"
            " output of `python -m training.benchmark decode`."
        )
    return {
        program: {work: statistics.median(numbers) for work, numbers in works.items()}
        for program, works in measured.items()
    }


def _decoding_lines(path: str) -> Iterator[tuple[Program, Work, dict, float]]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: must be UTF-8. Received: {error}. Check the path.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if record["task"] == "decode" and "saved_model" not in record:
                yield _measurement(record)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}:{number}: a line must be one measurement in JSON. Received: {line[:80]!r}"
                f" ({type(error).__name__}: {error}). Remove the line."
            ) from error


def _measurement(record: dict) -> tuple[Program, Work, dict, float]:
    if "peer" in record:  # other programs run on one thread unless their line says otherwise
        # CTranslate2's int8_float32 also names the precision of the other computations.
        program = Program(record["peer"], record["dtype"].removesuffix("_float32"))
        names = "size", "batch", "beams", "src", "threads", "length", "tokens_per_s"
        record = {"threads": 1, **record}
    else:
        program = Program(US, record["dtype"])
        names = "preset batch beam_size source_length threads length tokens_per_second".split()
        if "num_layers" in record:
            record["preset"] += f" of {record['num_layers']} layers"
        if "num_decoder_layers" in record:
            record["preset"] += f", {record['num_decoder_layers']} in the decoder"
    *work, tokens_per_second = (record[name] for name in names)
    return program, Work(*work), record, float(tokens_per_second)
