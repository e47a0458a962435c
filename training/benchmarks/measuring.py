"""Shared by the benchmarks: sizes of models, checks of options, child processes, memory."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.command_line.errors import InputError, UsageError
from training.command_line.parser import Options, option_name

# By preset: vocabulary, sentences per batch, tokens per sentence.
PRESETS = {"tiny": (10_000, 64, 20), "base": (8_000, 32, 25), "big": (8_000, 32, 25)}


def check_fewest(options: Options, fewest: dict[str, int]) -> None:
    """Raises a UsageError if an option, or one of its numbers, is below the number given here."""
    for name, least in fewest.items():
        given = options[name]
        for number in given if isinstance(given, list) else [given]:
            if number is not None and number < least:
                raise UsageError(
                    f"{option_name(name)} must be at least {least}. Received: {number}. Choose"
                    f" {least} or more."
                )


def seconds_of(call: Callable[[], object]) -> float:
    """The wall-clock time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure_alone(script: str, request: dict[str, Any], rule: str) -> dict[str, Any]:
    """Runs a script of this folder in a process that cannot see this project.

    Args:
        script: The file's name.
        request: JSON for its stdin.
        rule: What must hold in that process, for the error message.

    Returns:
        The JSON that it prints.

    Raises:
        InputError: With the process's last line, if it fails.
    """
    process = subprocess.run(
        [sys.executable, "-I", Path(__file__).with_name(script)],
        input=json.dumps(request),
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
    )
    if process.returncode == 0:
        return json.loads(process.stdout)
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        last_words = f"{name}, which ended it. If memory ran out, choose a smaller --batch."
    else:
        last_words = (process.stderr.strip() or "no message").splitlines()[-1]
    raise InputError(f"{rule} in a process of its own. Received: {last_words}")


def memory_mib(process_id: int, field: str) -> int | None:
    """The memory of a process now (VmRSS) or at most (VmHWM), if Linux still knows it."""
    with contextlib.suppress(OSError), open(f"/proc/{process_id}/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) // 1024
    return None
