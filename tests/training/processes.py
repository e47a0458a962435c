"""Commands in processes of their own, to be stopped, killed and started again."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

# On a machine that is busy with other things.
SECONDS_OF_A_START, SECONDS_TO_THE_END = 300, 1200


@contextlib.contextmanager
def started(module, *arguments, **environment):
    """`python -m MODULE ...`, which is killed at the end in any case."""
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
    """Waits for its end and returns what it said to stderr."""
    _, errors = process.communicate(timeout=SECONDS_TO_THE_END)
    assert process.returncode == code, errors
    return errors


def wait_until(is_true, process):
    """Waits for what a running process brings about."""
    deadline = time.monotonic() + SECONDS_OF_A_START
    while not is_true():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
