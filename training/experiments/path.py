"""Measures how far layers can look back: `python -m training.experiments path --help`.

Two tasks on sequences of random symbols:

    one   one symbol is marked; k tokens later, at the end, the model must name it
    all   at each of the last positions, the model must name the token k positions back

The gradient must take the same path back: through one layer of self-attention for any k, or through
k steps of a recurrent layer. In the second task, a recurrent state must always contain the k newest
tokens, while attention can look them up.
"""

import itertools
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np

from training.command_line.parser import CommandParser, parse
from training.command_line.running import tell
from training.experiments.machine import prepare_tensorflow
from training.experiments.report import write_report
from training.experiments.stacks import COMPILED, KINDS, check_model_dim, reach, stack

BEFORE = 3  # tokens before the marked one
ANSWERS = 16  # in each sequence of the task "all"
TEST_SEQUENCES = 1024
TASKS = ("one", "all")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse(_parser(), arguments)
    check_model_dim(options.model_dim)
    prepare_tensorflow(options.threads)
    distances = sorted({*options.distances})
    kinds = list(dict.fromkeys(options.kinds))
    tasks = list(dict.fromkeys(options.tasks))
    accuracies, parameters = _measure(tasks, distances, kinds, options)
    settings = ("symbols", "steps", "batch", "learning_rate", "model_dim", "num_blocks", "seeds")
    write_report(
        options.output,
        "path",
        caption=_caption(options),
        columns=["asked for", "stack", "parameters", "path", *(f"k = {k}" for k in distances)],
        rows=[
            [
                task,
                KINDS[kind],
                f"{parameters[kind]:,}",
                _path(kind, options.num_blocks),
                *(f"{statistics.mean(accuracies[task, kind, k]):.2f}" for k in distances),
            ]
            for task in tasks
            for kind in kinds
        ],
        measured={
            **{name: options[name] for name in settings},
            "distances": distances,
            "parameters": parameters,
            "chance": 1 / options.symbols,
            "reach_of_convolution": reach(options.num_blocks),
            "accuracies": {
                task: {kind: [accuracies[task, kind, k] for k in distances] for kind in kinds}
                for task in tasks
            },
        },
    )


def _measure(tasks, distances, kinds, options) -> tuple[dict, dict]:
    """Measures accuracies of all seeds by (task, kind, distance), and parameters by kind."""
    accuracies, parameters = {}, {}
    for task, distance, kind in itertools.product(tasks, distances, kinds):
        tell(f"training: {task}, k = {distance}, {KINDS[kind]}")
        learner = Learner(kind, task, distance, options)
        parameters[kind] = learner.model.count_params()
        accuracies[task, kind, distance] = [learner.accuracy(seed) for seed in options.seeds]
        shown = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies[task, kind, distance])
        tell(f"{task}, k = {distance}, {KINDS[kind]}: {shown}")
    return accuracies, parameters


def _parser() -> CommandParser:
    parser = CommandParser(
        "experiments path",
        "Trains stacks of equal size to recall the token k positions back, and plots their"
        " accuracy against k. Takes half an hour on two cores.",
    )
    add = parser.add_option
    parser.add_output_folder("output", "runs/experiments", "The folder for the results.")
    add("tasks", Literal[TASKS], list(TASKS), "Recall one marked token, or all.", nargs="+")
    add("distances", int, [1, 4, 8, 16, 32, 64, 128], "k, each with a model.", least=1, nargs="+")
    add("kinds", Literal[tuple(KINDS)], list(KINDS), "The stacks to train.", nargs="+")
    add("seeds", int, [1, 2], "Seeds, each for a training of every model.", least=0, nargs="+")
    add("steps", int, 600, "Updates of each training.", least=1)
    add("batch", int, 32, "Sequences in an update.", least=1)
    add("learning_rate", float, 0.002, "Adam's learning rate.", above=0)
    add("symbols", int, 16, "The number of different symbols.", least=2)
    add("model_dim", int, 64, "Width of all layers.")
    add("num_blocks", int, 1, "Blocks of 12 model_dim² parameters.", least=1)
    add("threads", int, 0, "TensorFlow's threads; 0 for all processors.")
    return parser


def sequences(
    task: str, generator: np.random.Generator, num_sequences: int, distance: int, symbols: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws random symbols, and gets the answers: those `distance` before the last positions.

    A symbol is a token from 0 to symbols - 1. The marked symbol is greater by `symbols`.

    Returns:
        The tokens, Int32 (num_sequences, length), and the answers, Int32 (num_sequences,
        num_answers).
    """
    num_answers = _num_answers(task)
    shape = (num_sequences, _length(task, distance))
    tokens = generator.integers(symbols, size=shape, dtype=np.int32)
    answers = tokens[:, -num_answers - distance : -distance].copy()
    if task == "one":
        tokens[:, BEFORE] += symbols
    return tokens, answers


def _num_answers(task) -> int:
    return 1 if task == "one" else ANSWERS


def _length(task, distance) -> int:
    before = BEFORE if task == "one" else 0
    return before + _num_answers(task) + distance


class Learner:
    """A model for one task and k, which trains from scratch with each seed but compiles only once.

    Args:
        kind: One of KINDS.
        task: One of TASKS.
        distance: k.
        options: The command's options.
    """

    def __init__(self, kind: str, task: str, distance: int, options):
        self.kind, self.task, self.distance, self.options = kind, task, distance, options
        self.model = self._new_model()
        import keras

        self.model.compile(
            optimizer=keras.optimizers.Adam(options.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=kind in COMPILED,
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self.optimizer_start = [value.numpy() for value in self.model.optimizer.variables]

    def accuracy(self, seed: int) -> float:
        """Trains from scratch, and returns the share of right answers on new sequences."""
        import keras

        keras.utils.set_random_seed(seed)
        self.model.set_weights(self._new_model().get_weights())
        starts = zip(self.model.optimizer.variables, self.optimizer_start, strict=True)
        for variable, value in starts:
            variable.assign(value)
        options, generator = self.options, np.random.default_rng(seed)
        tokens, answers = self._sequences(generator, options.steps * options.batch)
        self.model.fit(tokens, answers, batch_size=options.batch, shuffle=False, verbose=0)
        tokens, answers = self._sequences(generator, TEST_SEQUENCES)
        # `predict` would compile the model, which takes longer than it saves for a single call.
        logits = keras.ops.convert_to_numpy(self.model(tokens))
        return float(np.mean(logits.argmax(-1) == answers))

    def _sequences(self, generator, num_sequences):
        return sequences(self.task, generator, num_sequences, self.distance, self.options.symbols)

    def _new_model(self):
        import keras

        token_ids = keras.Input((_length(self.task, self.distance),), dtype="int32")
        options = self.options
        states = stack(
            self.kind, token_ids, 2 * options.symbols, options.model_dim, options.num_blocks
        )
        last = states[:, -_num_answers(self.task) :]
        return keras.Model(token_ids, keras.layers.Dense(options.symbols)(last))


def _path(kind, num_blocks) -> str:
    """Returns the number of operations between the token and the answer, in words."""
    if kind == "self_attention":
        return "1"
    if kind == "convolution":
        return f"k / 2, at most {reach(num_blocks)} back"
    return "k"


def _caption(options) -> str:
    return (
        f"Accuracy of recalling which of {options.symbols} symbols was k tokens back: one marked"
        f" symbol, at the last position, or all, at the last {ANSWERS} positions. After"
        f" {options.steps} updates of {options.batch} sequences; a model for each k, mean of"
        f" {len(options.seeds)} seeds on {TEST_SEQUENCES:,} new sequences. Chance is"
        f" {1 / options.symbols:.2f}. Path: the operations between the token and the answer, in a"
        " layer or from layer to layer. Stacks of"
        f" {options.num_blocks} x 12 d² parameters, d = {options.model_dim}, Adam at"
        f" {options.learning_rate:g}. In the picture, the lines are means of the seeds, and the"
        " bands their range."
    )
