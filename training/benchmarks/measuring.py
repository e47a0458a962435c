"""Helpers of all benchmarks: model sizes, child processes, memory."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.command_line.errors import InputError

# By preset: vocabulary, sentences per batch, tokens per sentence.
PRESETS = {"tiny": (10_000, 64, 20), "base": (8_000, 32, 25), "big": (8_000, 32, 25)}


def seconds_of(call: Callable[[], object]) -> float:
    """Returns the wall-clock time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure_alone(script: str, request: dict[str, Any], rule: str) -> dict[str, Any]:
    """Runs a script of this folder in a new process, in Python's isolated mode.

    Args:
        script: The script's file name.
        request: JSON for its stdin.
        rule: The beginning of the error message: what must hold in that process.

    Returns:
        The JSON that it prints.

    Raises:
        InputError: If the process fails; the message has its last line.
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
        last_words = f"signal {name}. If memory ran out, choose a smaller --batch."
    else:
        last_words = (process.stderr.strip() or "no message").splitlines()[-1]
    raise InputError(f"{rule} in a process of its own. Received: {last_words}")


def memory_mib(process_id: int, field: str) -> int | None:
    """Returns a process's memory, current (VmRSS) or peak (VmHWM); None without a /proc file."""
    with contextlib.suppress(OSError), open(f"/proc/{process_id}/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) // 1024
    return None
