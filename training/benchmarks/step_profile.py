"""Where the time of a training step or of a search goes, by part, from TensorFlow's profiler."""

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# A part, and patterns of which one is found in the path of each of its operations; the first that
# fits counts. TensorFlow numbers a layer's name that the graph has more than once.
# Operations without a path are the loss', the metrics' and those of the gradients' sums.
PARTS = {
    "optimizer": ("adam",),  # adam_1 where it is not the first of the process
    "dropout": ("/dropout",),
    "layer normalization": ("normalization",),
    "attention": (r"_attention(_\d+)?/",),
    "feed-forward networks": (r"feed_forward(_\d+)?/",),
    "embeddings and logits": ("embedding",),
}
REST = "loss, metrics and sums"

# The same of a search. Its steps compute attention and int8 products outside of a layer's name,
# and the network's second product is fused with the residual sum behind it.
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
        return milliseconds_by_part(folder, PARTS, REST, step_ms, steps)


def milliseconds_by_part(
    folder: str, parts: dict[str, tuple[str, ...]], rest: str, step_ms: float, steps: int = 1
) -> dict[str, float]:
    """What the profiler wrote into a folder, as `step_profile` returns it.

    Args:
        folder: Of one profile.
        parts: A part, and patterns of which one is found in the path or the kind of each of its
            operations; the first that fits counts.
        rest: The name of the part that all other operations belong to.
        step_ms: What the clock measured for a step.
        steps: How many the profile holds.
    """
    (path,) = Path(folder).glob("plugins/profile/*/*.xplane.pb")
    picoseconds = _picoseconds_by_part(path.read_bytes(), parts, rest)
    milliseconds = {part: round(time / 1e9 / steps, 2) for part, time in picoseconds.most_common()}
    return {**milliseconds, OUTSIDE: round(max(step_ms - sum(milliseconds.values()), 0.0), 2)}


def _picoseconds_by_part(serialized: bytes, parts, rest) -> Counter:
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(serialized)
    # The profiler leaves out what is quick; such a part is there with 0.
    counter = Counter(dict.fromkeys([*parts, rest], 0))
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                # "PATH:KIND" is an operation; "A::B", "A: B" and calls are what is around them.
                name = plane.event_metadata[event.metadata_id].name.split("#")[0]
                path, _, kind = name.rpartition(":")
                is_operation = path and not path.endswith(":") and kind.isidentifier()
                if is_operation and "PartitionedCall" not in kind:
                    counter[_part_of(name, parts, rest)] += event.duration_ps
    return counter


def _part_of(name: str, parts, rest) -> str:
    for part, marks in parts.items():
        if any(re.search(mark, name) for mark in marks):
            return part
    return rest
