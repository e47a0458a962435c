"""Runs commands in new processes, which tests stop, kill and start again."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Enough for a busy machine.
SECONDS_OF_A_START, SECONDS_TO_THE_END = 300, 1200


@contextlib.contextmanager
def started(module, *arguments, **environment):
    """Starts `python -m MODULE ...`, and kills it at the end in any case."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process, code=0):
    """Waits for the process to end, and returns its stderr."""
    _, errors = process.communicate(timeout=SECONDS_TO_THE_END)
    assert process.returncode == code, errors
    return errors


def wait_until(is_true, process):
    """Waits until a running process has made a condition true."""
    deadline = time.monotonic() + SECONDS_OF_A_START
    while not is_true():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
