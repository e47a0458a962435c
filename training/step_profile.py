"""Where the time of a training step goes, by part of the model, from TensorFlow's profiler."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# A part, and what the path of an operation holds that belongs to it; the first that fits counts.
# Operations without a path are the loss', the metrics' and those of the gradients' sums.
PARTS = {
    "optimizer": ("adam/",),
    "dropout": ("/dropout",),
    "layer normalization": ("layer_normalization",),
    "attention": ("multi_head_",),
    "feed-forward networks": ("feed_forward",),
    "embeddings and logits": ("embedding",),
}
REST = "loss, metrics and sums"
OUTSIDE = "outside of TensorFlow's graph"


def step_profile(fit: Callable[[int], None], steps: int) -> dict[str, float]:
    """Milliseconds of a step by part.

    Args:
        fit: Trains so many steps of a model that has been traced already, on TensorFlow.
        steps: How many to measure.

    Returns:
        The parts of the graph, largest first, and behind them the time that no operation ran:
        reading batches, callbacks, Python. With several threads, operations overlap and their sum
        may exceed the step.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        start_seconds = time.perf_counter()
        fit(steps)
        step_ms = 1000 * (time.perf_counter() - start_seconds) / steps
        tf.profiler.experimental.stop()
        (path,) = Path(folder).glob("plugins/profile/*/*.xplane.pb")
        picoseconds = _picoseconds_by_part(path.read_bytes())
    parts = {part: round(time / 1e9 / steps, 2) for part, time in picoseconds.most_common()}
    return {**parts, OUTSIDE: round(max(step_ms - sum(parts.values()), 0.0), 2)}


def _picoseconds_by_part(serialized: bytes) -> Counter:
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(serialized)
    counter = Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                # "PATH:KIND" is an operation; "A::B", "A: B" and calls are what is around them.
                name = plane.event_metadata[event.metadata_id].name.split("#")[0]
                path, _, kind = name.rpartition(":")
                is_operation = path and not path.endswith(":") and kind.isidentifier()
                if is_operation and "PartitionedCall" not in kind:
                    counter[_part_of(path)] += event.duration_ps
    return counter


def _part_of(path: str) -> str:
    for part, marks in PARTS.items():
        if any(mark in path for mark in marks):
            return part
    return REST
