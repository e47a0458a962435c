"""Measures the cost of sequential steps: `python -m training.experiments parallel --help`.

A recurrent layer's steps wait for each other. Does its time grow with length, for the same work?
"""

import statistics
from collections.abc import Sequence

from training.command_line.errors import UsageError
from training.command_line.parser import CommandParser, parse
from training.command_line.running import tell
from training.experiments.machine import device, prepare_tensorflow, seconds_per_call
from training.experiments.report import rounded, write_report
from training.experiments.stacks import COMPILED, KINDS, check_model_dim, stack

VOCABULARY = 64


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse(_parser(), arguments)
    _check(options)
    prepare_tensorflow(options.threads)
    import keras

    keras.utils.set_random_seed(0)
    lengths = sorted({*options.lengths})
    seconds, parameters = _measure(lengths, options)
    milliseconds = {
        kind: [1000 * statistics.median(seconds[kind, length]) for length in lengths]
        for kind in KINDS
    }
    settings = ("tokens", "model_dim", "num_blocks", "threads", "repeats")
    write_report(
        options.output,
        "parallel",
        caption=_caption(options),
        columns=["stack", "parameters", *(f"ms, n = {n:,}" for n in lengths), "longest / shortest"],
        rows=[
            [
                label,
                f"{parameters[kind]:,}",
                *map(rounded, milliseconds[kind]),
                f"{milliseconds[kind][-1] / milliseconds[kind][0]:.2f}",
            ]
            for kind, label in KINDS.items()
        ],
        measured={
            **{name: options[name] for name in settings},
            "device": device(),
            "lengths": lengths,
            "parameters": parameters,
            "seconds": {kind: [seconds[kind, length] for length in lengths] for kind in KINDS},
        },
    )


def _measure(lengths, options) -> tuple[dict, dict]:
    """Measures the seconds of each repeat by (kind, length), and parameters by kind."""
    models = {
        (kind, length): training_model(kind, length, options.model_dim, options.num_blocks)
        for length in lengths
        for kind in KINDS
    }
    functions = {
        (kind, length): _steps(model, options.tokens // length, length)
        for (kind, length), model in models.items()
    }
    tell(f"preparing {len(functions)} training steps")
    parameters = {kind: models[kind, lengths[0]].count_params() for kind in KINDS}
    return seconds_per_call(functions, options.repeats), parameters


def _parser() -> CommandParser:
    parser = CommandParser(
        "experiments parallel",
        "Measures a training step with a constant number of tokens, in few long sequences or many"
        " short ones, of a Transformer's encoder, a GRU, an LSTM and a convolution of equal size."
        " Takes four minutes on two processor cores.",
    )
    add = parser.add_option
    parser.add_output_folder("output", "runs/experiments", "The folder for the results.")
    add("lengths", int, [8, 16, 32, 64, 128, 256, 512], "Tokens in a sequence.", nargs="+")
    add("tokens", int, 4096, "Tokens in a batch, a multiple of each length.", least=1)
    add("model_dim", int, 128, "Width of all layers.")
    add("num_blocks", int, 1, "Blocks of 12 model_dim² parameters.", least=1)
    add("repeats", int, 20, "Measurements of each stack; the median is reported.", least=1)
    add("threads", int, 0, "TensorFlow's threads; 0 for all processors.")
    return parser


def _check(options) -> None:
    bad = [length for length in options.lengths if length < 1 or options.tokens % length]
    if bad:
        raise UsageError(
            f"--lengths must divide --tokens {options.tokens}. Received: {bad[0]}. Choose another"
            " length, or another number of tokens."
        )
    check_model_dim(options.model_dim)


def training_model(kind: str, length: int, model_dim: int, num_blocks: int):
    """Builds and compiles a model that predicts each token."""
    import keras

    token_ids = keras.Input((length,), dtype="int32")
    states = stack(kind, token_ids, VOCABULARY, model_dim, num_blocks)
    model = keras.Model(token_ids, keras.layers.Dense(VOCABULARY)(states))
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=kind in COMPILED,
    )
    return model


def _steps(model, batch, length):
    """Returns a function that trains for a number of steps on one batch of random tokens."""
    import tensorflow as tf

    token_ids = tf.random.uniform((batch, length), maxval=VOCABULARY, dtype=tf.int32)

    def train(steps):
        for _ in range(steps):
            model.train_on_batch(token_ids, token_ids)

    return train


def _caption(options) -> str:
    threads = f"{options.threads} threads" if options.threads else "all threads"
    return (
        f"Milliseconds of a training step (forward, backward, update) over {options.tokens:,}"
        " tokens, in sequences of n tokens: as n grows, the batch shrinks, and the work stays the"
        " same except for self-attention's n². Stacks of"
        f" {options.num_blocks} x 12 d² parameters, d = {options.model_dim}, on {device()} with"
        f" {threads}, float32, median of {options.repeats}. The recurrent layers compute everything"
        " at once except what depends on the previous step, and XLA compiles them. On a core or"
        " two, which compute little in parallel, waiting costs only what small products lose"
        " against large ones; where a step takes as long for 8 sequences as for 512, as on a GPU,"
        " the time grows with n."
    )
