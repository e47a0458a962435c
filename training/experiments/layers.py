"""Measures Table 1: `python -m training.experiments layers --help`.

The table shows the time and memory of one layer by length n and width d.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from training.command_line.errors import UsageError
from training.command_line.parser import CommandParser, parse
from training.command_line.running import tell
from training.experiments.machine import (
    device,
    peak_bytes,
    prepare_tensorflow,
    seconds_per_call,
)
from training.experiments.names import PASSES
from training.experiments.report import markdown_table, rounded, write_report
from training.experiments.slopes import Crossing, crossing, slope

if TYPE_CHECKING:
    import keras

RADIUS = 32  # of the restricted self-attention's neighborhood
KERNEL = 3
MIB = 2**20


class Kind(NamedTuple):
    """A row of Table 1.

    Attributes:
        label: The layer's name in tables.
        in_length: The paper's exponent of n.
        in_width: The paper's exponent of d.
        multiply_adds: Maps (n, d) to our layer's number of multiply-adds for one sequence.
        compiled: Whether XLA compiles the layer, as is faster on a CPU for some.
        reason: The reason why measured exponents may differ from the paper's.
    """

    label: str
    in_length: int
    in_width: int
    multiply_adds: Callable[[int, int], int]
    compiled: bool
    reason: str


KINDS = {
    "self_attention": Kind(
        "self-attention",
        2,
        1,
        lambda n, d: 4 * n * d * d + 2 * n * n * d,
        False,
        "Table 1 omits the four projections, 4 n d² of 4 n d² + 2 n² d operations: they are most of"
        " the work up to n = 2 d, so time grows more slowly with n, and faster with d, than in the"
        " paper. The softmax over n² weights per head takes more time than its few operations"
        " suggest.",
    ),
    "restricted": Kind(
        "restricted self-attention",
        1,
        1,
        lambda n, d: 4 * n * d * d + 6 * RADIUS * n * d,
        False,
        f"4 n d² for the projections and 2 · 3 · {RADIUS} n d for attention: with d above"
        f" {3 * RADIUS // 2} the projections, which Table 1 omits, are the larger part, and grow"
        " with d². The blocks are small, and each key and value is copied twice, so this layer is"
        " cheaper than self-attention only in long sequences.",
    ),
    "recurrent": Kind(
        "recurrent (GRU)",
        1,
        2,
        lambda n, d: 6 * n * d * d,
        True,
        "linear in n, as each step waits for the previous one. With d, time grows more slowly than"
        " d² where a step's fixed time (starting operations on one vector) exceeds that of its"
        " product, and faster where the 3 d² weights, which every step reads again, no longer fit"
        " into the nearest cache.",
    ),
    "convolutional": Kind(
        f"convolutional (k = {KERNEL})",
        1,
        2,
        lambda n, d: KERNEL * n * d * d,
        False,
        "one matrix product, as in the paper. With d, time grows more slowly than d² where wide"
        " matrices multiply at a better rate than narrow ones.",
    ),
}


class Line(NamedTuple):
    """Median time and memory of one layer at each length; None where memory is unknown."""

    seconds: list[float]
    mib: list[float | None]


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse(_parser(), arguments)
    _check(options)
    prepare_tensorflow(options.threads)
    import keras

    keras.utils.set_random_seed(0)
    lengths, widths = sorted({*options.lengths}), sorted({*options.widths})
    seconds, memory = _measure(lengths, widths, list(dict.fromkeys(options.passes)), options)
    lines = {
        key: Line(
            [statistics.median(seconds[*key, length]) for length in lengths],
            [_mib(memory[*key, length]) for length in lengths],
        )
        for key in dict.fromkeys(key[:3] for key in seconds)
    }
    settings = {name: options[name] for name in ("batch", "threads", "repeats", "slope_lengths")}
    measured = {**settings, "device": device(), "lengths": lengths, "widths": widths}
    measured |= {"radius": RADIUS, "kernel": KERNEL}
    columns, rows, numbers = _table(lines, lengths, options.slope_lengths)
    crossings = _crossings(lines, lengths)
    measured["lines"] = [
        {**number, "seconds": [seconds[*key, length] for length in lengths], "mib": line.mib}
        for number, (key, line) in zip(numbers, lines.items(), strict=True)
    ]
    measured["exponents_of_width"] = _exponents_of_width(lines, lengths, widths)
    measured["crossings"] = [
        {"pass": which, "width": width, "length": found.x, "is_above": found.is_above}
        for (which, width), found in crossings.items()
    ]
    write_report(
        options.output,
        "layers",
        caption=_caption(options, lengths),
        columns=columns,
        rows=rows,
        measured=measured,
        notes=_notes(measured["exponents_of_width"], crossings, lengths),
    )


def _parser() -> CommandParser:
    parser = CommandParser(
        "experiments layers",
        "Measures the time and memory of one layer by length and width: self-attention,"
        " self-attention in a neighborhood, a GRU, and a convolution. Takes five minutes on one"
        " core.",
    )
    add = parser.add_option
    parser.add_output_folder("output", "runs/experiments", "The folder for the results.")
    add("lengths", int, [2**power for power in range(6, 13)], "The lengths n.", nargs="+")
    add("widths", int, [64, 128, 512], "The widths d of the layer.", nargs="+")
    add("passes", Literal[tuple(PASSES)], list(PASSES), "The passes to measure.", nargs="+")
    add("batch", int, 1, "Sequences in a batch.", least=1)
    add("repeats", int, 3, "Measurements of each layer; the median is reported.", least=1)
    add("threads", int, 1, "TensorFlow's threads; 0 for all processors.")
    add("slope_lengths", int, 4, "The number of greatest lengths to fit a slope to.", least=2)
    return parser


def _check(options) -> None:
    bad = [n for n in options.lengths if n < RADIUS or n % RADIUS]
    if bad:
        raise UsageError(
            f"--lengths must be multiples of {RADIUS}, the block length of restricted"
            f" self-attention. Received: {bad[0]}. Choose {RADIUS} or a multiple."
        )
    if len({*options.lengths}) < 2:
        raise UsageError(
            "--lengths must be two or more, to determine a slope. Received:"
            f" {options.lengths[0]}. Add another length."
        )
    bad = [d for d in options.widths if d < 1 or (d > 64 and d % 64)]
    if bad:
        raise UsageError(
            "--widths must be at most 64, or multiples of 64, the width of a head. Received:"
            f" {bad[0]}. For example, choose 128."
        )


def make_layer(kind: str, model_dim: int) -> "keras.Layer":
    """Makes a layer of Table 1, with input and output of width model_dim and heads of width 64."""
    import keras

    from keras_transformer.layers.attention import MultiHeadSelfAttention
    from training.baselines.recurrent import Recurrence
    from training.experiments.restricted import RestrictedSelfAttention

    num_heads = max(1, model_dim // 64)
    if kind == "self_attention":
        return MultiHeadSelfAttention(num_heads)
    if kind == "restricted":
        return RestrictedSelfAttention(num_heads, RADIUS)
    if kind == "recurrent":
        return Recurrence("gru", model_dim)
    return keras.layers.Conv1D(model_dim, KERNEL, padding="same")


def _measure(lengths, widths, passes, options) -> tuple[dict, dict]:
    """Measures the seconds of each repeat, and peak bytes, by (pass, width, kind, length)."""
    functions, memory = {}, {}
    for which in passes:
        for width in widths:
            for kind in KINDS:
                tell(f"preparing {PASSES[which]}, d = {width}, {KINDS[kind].label}")
                layer = make_layer(kind, width)
                for length in lengths:
                    key = (which, width, kind, length)
                    work = _Work(layer, KINDS[kind].compiled, (options.batch, length, width), which)
                    work.once()  # before measuring, as tracing and compiling also take memory
                    memory[key] = peak_bytes(work.once)
                    functions[key] = work.repeat
    # Short sequences first: a warm cache matters less to long ones.
    functions = dict(sorted(functions.items(), key=lambda item: item[0][3]))
    seconds = seconds_per_call(functions, options.repeats)
    return {key: seconds[key] for key in memory}, memory


class _Work:
    """Runs a layer at one length inside TensorFlow's graph, to exclude Python's own time.

    Args:
        layer: A layer whose output has its input's shape.
        compiled: Whether XLA compiles the layer.
        shape: The input's shape, (batch, length, model_dim).
        which: One of PASSES; "training" computes the gradients of all weights and of the input.
    """

    def __init__(self, layer, compiled: bool, shape: tuple[int, int, int], which: str):
        import tensorflow as tf

        self.inputs, direction = tf.random.normal(shape), tf.random.normal(shape)
        layer(self.inputs[:, :RADIUS])  # makes the weights
        weights = [weight.value for weight in layer.trainable_variables]

        def forward(inputs):
            return [layer(inputs)]

        def training(inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = layer(inputs, training=True)  # prepares the GRU's gradients
            return tape.gradient(outputs, [inputs, *weights], output_gradients=direction)

        self.results = tf.function(
            {"forward": forward, "training": training}[which], jit_compile=compiled
        )
        self.in_graph = tf.function(self._in_graph)

    def once(self):
        """Computes all results once."""
        for result in self.results(self.inputs):
            result.numpy()

    def repeat(self, calls: int) -> None:
        """Computes all results `calls` times."""
        import tensorflow as tf

        self.in_graph(tf.constant(calls)).numpy()

    def _in_graph(self, calls):
        import tensorflow as tf

        def turn(number, last):
            # Each turn uses a number from the last one, so that TensorFlow cannot skip or move it.
            results = self.results(self.inputs + 1e-6 * last)
            return number + 1, tf.add_n([tf.reshape(result, [-1])[0] for result in results])

        return tf.while_loop(
            lambda number, _: number < calls, turn, (0, tf.zeros(())), parallel_iterations=1
        )[1]


def _mib(num_bytes: int | None) -> float | None:
    """Converts bytes to MiB; None if too few for TensorFlow's count, which skips small tensors."""
    return None if num_bytes is None or num_bytes < MIB / 2 else round(num_bytes / MIB, 2)


def _table(lines, lengths, slope_lengths) -> tuple[list, list, list]:
    """Returns the table's columns and rows, and the same numbers by name."""
    shown = lengths[:: max(1, (len(lengths) - 1) // 3)]
    columns = ["layer", "d", "pass", *(f"ms, n = {n:,}" for n in shown)]
    columns += ["n: paper", "counted", "measured", f"MiB, n = {lengths[-1]:,}", "n: memory"]
    rows, numbers = [], []
    last = lengths[-slope_lengths:]
    for (which, width, kind), line in lines.items():
        counted = slope(last, [KINDS[kind].multiply_adds(n, width) for n in last])
        measured = slope(last, line.seconds[-slope_lengths:])
        memory = line.mib[-slope_lengths:]
        known = [(n, mib) for n, mib in zip(last, memory, strict=True) if mib]
        of_memory = slope(*zip(*known, strict=True)) if len(known) > 1 else None
        milliseconds = dict(zip(lengths, (1000 * s for s in line.seconds), strict=True))
        rows.append(
            [
                KINDS[kind].label,
                width,
                PASSES[which],
                *(rounded(milliseconds[n]) for n in shown),
                KINDS[kind].in_length,
                f"{counted:.2f}",
                f"{measured:.2f}",
                rounded(line.mib[-1]),
                "-" if of_memory is None else f"{of_memory:.2f}",
            ]
        )
        names = {"pass": which, "width": width, "kind": kind, "paper": KINDS[kind].in_length}
        numbers.append(
            {**names, "counted": counted, "measured": measured, "exponent_of_memory": of_memory}
        )
    return columns, rows, numbers


def _exponents_of_width(lines, lengths, widths) -> list[dict]:
    """Returns the exponents of d at the greatest length: in the paper, counted, and measured."""
    if len(widths) < 2:
        return []
    found = []
    for which, kind in dict.fromkeys((which, kind) for which, _, kind in lines):
        seconds = [lines[which, width, kind].seconds[-1] for width in widths]
        counted = [KINDS[kind].multiply_adds(lengths[-1], width) for width in widths]
        found.append(
            {
                "pass": which,
                "kind": kind,
                "paper": KINDS[kind].in_width,
                "counted": slope(widths, counted),
                "measured": slope(widths, seconds),
            }
        )
    return found


def _crossings(lines, lengths) -> dict[tuple[str, int], Crossing]:
    """Finds the lengths from which self-attention takes longer than the recurrent layer."""
    return {
        (which, width): crossing(
            lengths,
            lines[which, width, "self_attention"].seconds,
            lines[which, width, "recurrent"].seconds,
        )
        for which, width in dict.fromkeys((which, width) for which, width, _ in lines)
    }


def _caption(options, lengths) -> str:
    threads = f"{options.threads} thread{'s' * (options.threads != 1)}"
    return (
        f"Time and memory of one layer by length n and width d: batch {options.batch}, float32, on"
        f" {device()} with {threads if options.threads else 'all threads'}, median of"
        f" {options.repeats}. Self-attention has heads of 64; the restricted one sees {RADIUS}"
        " positions to either side; the GRU computes everything at once except what must wait, and"
        " XLA compiles it. The exponent of n is the slope over the greatest"
        f" {min(options.slope_lengths, len(lengths))} lengths: the paper's (Table 1), that of all"
        " multiplications of our layer (4 n d² + 2 n² d for self-attention, 6 n d² for the GRU),"
        " and that of the measured time. Memory is the peak of all tensors except input and"
        " weights, in blocks of TensorFlow's allocator, which may be larger than the tensors. In"
        " the picture, a dotted line marks the length from which self-attention takes longer than"
        " the GRU."
    )


def _notes(exponents_of_width, crossings, lengths) -> str:
    """Describes the exponents of d, the crossings, and the differences from the paper."""
    parts = []
    if exponents_of_width:
        rows = [
            [
                KINDS[found["kind"]].label,
                PASSES[found["pass"]],
                found["paper"],
                f"{found['counted']:.2f}",
                f"{found['measured']:.2f}",
            ]
            for found in exponents_of_width
        ]
        parts.append(f"How time grows with d at n = {lengths[-1]:,}:")
        parts.append(markdown_table(["layer", "pass", "d: paper", "counted", "measured"], rows))
    parts.append(
        "The length from which self-attention takes longer than the GRU. Counted in"
        " multiplications, it is n = d, both with all projections (4 n d² + 2 n² d = 6 n d²) and in"
        " the paper's short form (n² d = n d²). The measured length is greater if products of"
        " matrices, as in self-attention, run at a better rate than products with one vector of"
        " each sequence, as in a recurrent step:"
    )
    rows = [
        [width, PASSES[which], *_crossing_cells(width, found, lengths)]
        for (which, width), found in crossings.items()
    ]
    parts.append(markdown_table(["d", "pass", "measured at n", "n / d"], rows))
    parts.append(
        "The memory of activations grows with n or n², as the last column shows. In the backward"
        " pass, the weights' gradients add a constant, which is most of the memory in short"
        " sequences."
    )
    parts.append("Why exponents differ from the paper's:")
    parts.append("\n".join(f"- {kind.label}: {kind.reason}" for kind in KINDS.values()))
    return "\n\n".join(parts)


def _crossing_cells(width, found: Crossing, lengths) -> list[str]:
    if found.x is not None:
        return [f"{found.x:,.0f}", f"{found.x / width:.1f}"]
    if found.is_above:
        return [f"nowhere: longer at each n from {lengths[0]:,} to {lengths[-1]:,}", "-"]
    return [f"nowhere: shorter still at n = {lengths[-1]:,}", "-"]
