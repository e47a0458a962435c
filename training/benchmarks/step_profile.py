"""Measures the time of each part of a training step or a search with TensorFlow's profiler."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from training.benchmarks.measuring import seconds_of

# Each part with patterns; an operation belongs to the first part with a pattern in its path.
# TensorFlow adds a number to a layer's name if the graph already has that name. Operations without
# a path belong to the loss, the metrics and the sums of gradients.
PARTS = {
    "optimizer": ("adam",),  # adam_1 if the process already had an optimizer
    "dropout": ("/dropout",),
    "layer normalization": ("normalization",),
    "attention": (r"_attention(_\d+)?/",),
    "feed-forward networks": (r"feed_forward(_\d+)?/",),
    "embeddings and logits": ("embedding",),
}
REST = "loss, metrics and sums"

# The same for a search. Its steps compute attention and int8 products under no layer's name, and
# the feed-forward network's second product is fused with the residual sum after it.
DECODING_PARTS = {
    "sub-words": ("SentenceTokenizer",),
    "encoder": ("/encoder_", "/key_value_"),
    "embeddings and logits": ("embedding",),
    "feed-forward networks": (r"feed_forward(_\d+)?/", "/add:_"),
    "layer normalization": ("normalization",),
    "attention's linear maps": ("/query_", "/output_", "QuantizedMatMul"),
    "attention over the caches": ("BatchMatMul", "Softmax", "Transpose", "Inplace"),
}
DECODING_REST = "search, order of the caches, small operations"

OUTSIDE = "outside of TensorFlow's graph"


def step_profile(fit: Callable[[int], None], steps: int) -> dict[str, float]:
    """Returns the milliseconds per step of each part.

    Args:
        fit: Trains the given number of steps on TensorFlow; the model is already traced.
        steps: The number of steps to measure.

    Returns:
        The parts of the graph, largest first, then the time in which no operation ran: reading
        batches, callbacks, Python. With several threads, operations overlap, and their sum may
        exceed the time of a step.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        step_ms = 1000 * seconds_of(lambda: fit(steps)) / steps
        tf.profiler.experimental.stop()
        return milliseconds_by_part(folder, PARTS, REST, step_ms, steps)


def milliseconds_by_part(
    folder: str, parts: dict[str, tuple[str, ...]], rest: str, step_ms: float, steps: int = 1
) -> dict[str, float]:
    """Reads the profile in a folder; returns the milliseconds per step as `step_profile` does.

    Args:
        folder: The folder of one profile.
        parts: Each part with patterns, as in `PARTS`.
        rest: The name of the part for all other operations.
        step_ms: The wall-clock time of a step.
        steps: The number of steps in the profile.
    """
    (path,) = Path(folder).glob("plugins/profile/*/*.xplane.pb")
    picoseconds = _picoseconds_by_part(path.read_bytes(), parts, rest)
    milliseconds = {part: round(time / 1e9 / steps, 2) for part, time in picoseconds.most_common()}
    return {**milliseconds, OUTSIDE: round(max(step_ms - sum(milliseconds.values()), 0.0), 2)}


def _picoseconds_by_part(serialized: bytes, parts, rest) -> Counter:
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(serialized)
    # Starts with 0 for each part, since the profiler omits quick operations.
    counter = Counter(dict.fromkeys([*parts, rest], 0))
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            # "PATH:KIND" is an operation; "A::B", "A: B" and calls enclose operations.
            name = plane.event_metadata[event.metadata_id].name.split("#")[0]
            path, _, kind = name.rpartition(":")
            is_operation = path and not path.endswith(":") and kind.isidentifier()
            if is_operation and "PartitionedCall" not in kind:
                counter[_part_of(name, parts, rest)] += event.duration_ps
    return counter


def _part_of(name: str, parts, rest) -> str:
    for part, patterns in parts.items():
        if any(re.search(pattern, name) for pattern in patterns):
            return part
    return rest
