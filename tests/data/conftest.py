import threading

import pytest

from tests.data.made_text import random_lines


@pytest.fixture
def text_pair(tmp_path):
    """Two files with 613 pairs, which make about 60 batches of 211 tokens."""
    paths = tmp_path / "train.en", tmp_path / "train.de"
    for seed, path in enumerate(paths):
        path.write_text("\n".join(random_lines(613, seed=seed)) + "\n")
    return paths


@pytest.fixture
def running_threads():
    """Returns the read-ahead threads that this test has started."""

    def running():
        threads = set(threading.enumerate()) - before
        return [thread for thread in threads if thread.name == "read_ahead"]

    before = set(threading.enumerate())
    return running
