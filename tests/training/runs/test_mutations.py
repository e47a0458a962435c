"""A damaged file of a run is refused in one line or read as the same model; nothing else happens.

MUTATION_TRIALS sets the number of trials of each kind of file, 200 by default.
"""

import collections
import json
import os
import subprocess
import sys

import pytest

from tests.training.runs.mutated_runs import FILES, ROOT

NUM_TRIALS = int(os.environ.get("MUTATION_TRIALS", "200"))
NUM_PROCESSES = 2
MOST_SECONDS, MOST_BYTES = 10, 512 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_a_mutated_file_is_refused_or_read_and_does_nothing_else(kind, tmp_path):
    command = [sys.executable, "-m", "tests.training.runs.mutated_runs", kind]
    processes = [
        subprocess.Popen(
            [*command, str(first), str(NUM_PROCESSES), str(NUM_TRIALS), str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in range(NUM_PROCESSES)
    ]
    trials = []
    for process in processes:
        out, err = process.communicate()
        lines = [json.loads(line) for line in out.splitlines()]
        assert process.returncode == 0, (lines[-1:], err[-2000:])
        trials += [begun | seen for begun, seen in zip(lines[::2], lines[1::2], strict=True)]
    assert len(trials) == NUM_TRIALS
    for trial in trials:
        assert trial["outcome"] in ("refused", "loaded"), trial
        assert trial["seconds"] < MOST_SECONDS, trial
        assert trial["bytes"] < MOST_BYTES, trial
        assert trial["seen"] == [], trial
    counts = collections.Counter(trial["outcome"] for trial in trials)
    print(kind, dict(counts), f"most bytes {max(trial['bytes'] for trial in trials):,}")
    # Damaged lines of metrics count as lines that were never written.
    assert counts["loaded" if kind == "metrics" else "refused"] > NUM_TRIALS / 4
