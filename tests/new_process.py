"""Runs Python programs in a new process."""

import os
import subprocess
import sys


def output_of(program, *arguments, **environment):
    """Returns what the program prints; fails with its errors."""
    finished = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()
