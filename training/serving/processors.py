"""How many processors there are to run on."""

import os


def num_processors() -> int:
    """How many processors this process may use; on macOS, how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
