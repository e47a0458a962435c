"""Lines of decoding speed: ours, of `training.benchmark decode`, and those of other programs.

A line is a JSON object. Both kinds have `task`, `dtype`, `batch` and `length`; what else is read of
them is called differently: preset or size, beam_size or beams, source_length or src,
tokens_per_second or tokens_per_s, and only others' have `peer`, the program's name.
"""

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from training.command_line.errors import InputError

US = "this project"


class Work(NamedTuple):
    """What was done; speeds are compared where it is the same."""

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
    """Who did it, and in which precision."""

    name: str
    dtype: str


Speeds = dict[Program, dict[Work, float]]


def read_speeds(paths: Sequence[str]) -> Speeds:
    """Target tokens a second by program and work; the median of the lines of the same work.

    Lines of other tasks are left out, and those of real text, whose tokens nobody knows.

    Raises:
        InputError: If a file cannot be read, a line is no measurement, or none is of decoding.
    """
    measured = {}
    for path in paths:
        for number, line in enumerate(_lines(path), start=1):
            for program, work, tokens_per_second in _decoding(line, f"{path}:{number}"):
                measured.setdefault(program, {}).setdefault(work, []).append(tokens_per_second)
    if not measured:
        raise InputError(
            f"{', '.join(paths)}: must hold lines of decoding speed. Received: none. Give what"
            " `python -m training.benchmark decode` printed."
        )
    return _medians(measured)


def read_memory(paths: Sequence[str]) -> Speeds:
    """MiB that decoding took at most beyond the loaded model, by program and work; ours alone.

    Raises:
        InputError: As `read_speeds`.
    """
    measured = {}
    for path in paths:
        for number, line in enumerate(_lines(path), start=1):
            for program, work, _ in _decoding(line, f"{path}:{number}"):
                record = json.loads(line)
                if program.name == US and "peak_memory_mib" in record:
                    taken = record["peak_memory_mib"] - record["memory_mib"]
                    measured.setdefault(program, {}).setdefault(work, []).append(taken)
    if not measured:
        raise InputError(
            f"{', '.join(paths)}: must hold lines of ours with peak_memory_mib. Received: none."
            " Give what `python -m training.benchmark decode` printed."
        )
    return _medians(measured)


def _medians(measured: dict) -> Speeds:
    return {
        program: {work: statistics.median(numbers) for work, numbers in works.items()}
        for program, works in measured.items()
    }


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: must be UTF-8. Received: {error}. Check the path.") from error


def _decoding(line: str, where: str) -> Iterable[tuple[Program, Work, float]]:
    """The measurement of a line, or nothing."""
    if not line.strip():
        return
    try:
        record = json.loads(line)
        if record["task"] != "decode" or "saved_model" in record:
            return
        if "peer" in record:  # whose scripts run on one thread
            # CTranslate2's name for int8 says what the rest is computed in.
            program = Program(record["peer"], record["dtype"].removesuffix("_float32"))
            names = "size", "batch", "beams", "src", "threads", "length", "tokens_per_s"
            record = {"threads": 1, **record}
        else:
            program = Program(US, record["dtype"])
            names = "preset batch beam_size source_length threads length tokens_per_second".split()
            if "num_layers" in record:
                record["preset"] += f" of {record['num_layers']} layers"
        *work, tokens_per_second = (record[name] for name in names)
        yield program, Work(*work), float(tokens_per_second)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{where}: a line must be one measurement in JSON. Received: {line[:80]!r}"
            f" ({type(error).__name__}: {error}). Take the line out."
        ) from error
