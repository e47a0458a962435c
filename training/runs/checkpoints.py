"""Saves and restores checkpoints: the weights and all else that the next update depends on.

    checkpoints/epoch_0007_batch_00000.weights.npz   the model's weights
    checkpoints/epoch_0007_batch_00000.state.npz     dropout's random states, the optimizer, the
                                                     epoch's metrics and seconds so far
    checkpoints/epoch_0007_batch_00000.average.npz   at an epoch's end, with ema_decay: the averaged
                                                     weights, in the order of the weights

The name gives the position: after 7 complete epochs and 0 batches of the next. The state is written
last, so a checkpoint that has one is complete. A run keeps more than one checkpoint, since a file
can be damaged. The files hold plain arrays in the order of the model's variables; loading unpickles
nothing, and compares the arrays' declared shapes with the model's before it reads one.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transformer.averaging import averaged_variables, keeps_averages
from keras_transformer.reading.files import DamagedFile
from keras_transformer.reading.npz import Header, read_headers, read_npz
from keras_transformer.reading.variables import check_finite
from training.command_line.errors import InputError
from training.runs.files import replacing
from training.runs.folder import START, Position, RunFolder

LOGGER = logging.getLogger("keras_transformer")

_BACKENDS = ("tensorflow", "jax", "torch", "numpy")
_MOST_METRIC_NUMBERS = 1000


class DamagedCheckpoint(Exception):
    """Raised if a checkpoint's file is truncated, altered, or from a different model."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far training has progressed.

    Attributes:
        position: Complete epochs, and complete batches of the next.
        seconds: Time spent on the current epoch.
        metrics: The states of the current epoch's metrics, in the order of the model's variables;
            empty at the start of an epoch.
    """

    position: Position = START
    seconds: float = 0.0
    metrics: Sequence[np.ndarray] = ()


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The weights and state of a model, and the progress at which they were saved."""

    values: Sequence[np.ndarray]
    progress: Progress
    backend: str

    @classmethod
    def read(cls, run: RunFolder, model: keras.Model, position: Position) -> "Checkpoint":
        """Reads the checkpoint at a position, for a compiled model with a built optimizer.

        Raises:
            DamagedCheckpoint: If the checkpoint cannot be read or is from a different model.
        """
        weights = load_weights(run, model, position)
        path = run.checkpoint_path(position, "state")

        def check(headers: Mapping[str, Header]) -> None:
            _check_like(path, headers, "state", _state_variables(model))
            _check_numbers(path, headers)

        arrays = load_arrays(path, check)
        seconds = float(arrays["seconds"])
        # Checkpoints that name no backend were written before there was a choice.
        backend = next((name for name in _BACKENDS if name == arrays.get("backend", name)), None)
        if not 0 <= seconds < math.inf or backend is None:
            raise DamagedCheckpoint(f"{path} is from a different version")
        progress = Progress(position, seconds, _group(arrays, "metrics"))
        return cls([*weights, *_group(arrays, "state")], progress, backend)

    def set(self, model: keras.Model) -> None:
        """Assigns the values to the model, except the metrics, which `fit` resets first."""
        backend = keras.backend.backend()
        if self.backend != backend and random_states(model):
            LOGGER.warning(
                "the checkpoint was written on %s: weights and optimizer carry over, but %s draws"
                " different random numbers for dropout",
                self.backend,
                backend,
            )
        variables = [*model.weights, *_state_variables(model)]
        for variable, value in zip(variables, self.values, strict=True):
            variable.assign(value)


def save_checkpoint(
    run: RunFolder, model: keras.Model, position: Position, seconds: float = 0.0
) -> None:
    """Writes the model, its optimizer and, within an epoch, its metrics.

    All workers must call this together, since each has the metrics of its share of the batches;
    the worker whose run is not read-only writes.
    """
    metrics = values_of(model.metrics_variables if position.batch else [])
    if run.read_only:
        return
    run.checkpoints_path.mkdir(exist_ok=True)
    if keeps_averages(model) and not position.batch:
        averages = {"weights": values_of(averaged_variables(model))}
        save_arrays(run.checkpoint_path(position, "average"), averages)
    save_arrays(run.checkpoint_path(position, "weights"), {"weights": values_of(model.weights)})
    save_arrays(
        run.checkpoint_path(position, "state"),
        {"state": values_of(_state_variables(model)), "metrics": metrics},
        seconds=np.float64(seconds),
        backend=np.array(keras.backend.backend()),
    )


def restore_latest(
    run: RunFolder, model: keras.Model, from_chief: Callable[[Any], Any] = lambda value: value
) -> Progress:
    """Restores a compiled model from the latest undamaged checkpoint; returns its progress.

    Args:
        run: The run. If it is read-only, reads the same checkpoint as the chief.
        model: The model; unchanged if there is no checkpoint.
        from_chief: Like `training.devices.base.Devices.from_chief`.

    Raises:
        InputError: If a worker cannot read the checkpoint that the chief has read.
    """
    model.optimizer.build(model.trainable_variables)
    checkpoint = None if run.read_only else _read_latest(run, model)
    position = from_chief(checkpoint and checkpoint.progress.position)
    if position is None:
        return Progress()
    if checkpoint is None:
        try:
            checkpoint = Checkpoint.read(run, model, Position(*position))
        except DamagedCheckpoint as error:
            raise InputError(
                f"{run.path}: all workers must be able to read the run folder. Received: {error}."
                " Put it where all machines see the same files."
            ) from error
    checkpoint.set(model)
    return checkpoint.progress


def _read_latest(run: RunFolder, model: keras.Model) -> Checkpoint | None:
    for position in sorted(run.positions_with("state"), reverse=True):
        try:
            return Checkpoint.read(run, model, position)
        except DamagedCheckpoint as error:
            LOGGER.warning("%s; going back to an earlier checkpoint", error)
    return None


def load_weights(
    run: RunFolder, model: keras.Model, position: Position, kind: str = "weights"
) -> list[np.ndarray]:
    """Reads the "weights" of a checkpoint, or their "average", in the model's order.

    Raises:
        DamagedCheckpoint: If the file cannot be read or is from a different model, or a weight is
            not a finite number.
    """
    path = run.checkpoint_path(position, kind)

    def check(headers: Mapping[str, Header]) -> None:
        _check_like(path, headers, "weights", model.weights)
        if len(headers) != len(model.weights):
            raise DamagedCheckpoint(f"{path} is from a different model")

    arrays = load_arrays(path, check)
    try:
        check_finite(arrays)
    except DamagedFile as error:
        raise DamagedCheckpoint(f"{path} has {error}") from error
    return _group(arrays, "weights")


def check_declared_size(path: Path, num_parameters: int, num_layers: int) -> None:
    """Refuses a file of weights that declares fewer layers or other parameters; reads no array.

    Raises:
        DamagedCheckpoint: If it does, or the file cannot be read.
    """
    try:
        headers = read_headers(path)
    except DamagedFile as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({error})") from error
    found = sum(math.prod(header.shape) for header in headers.values())
    if len(headers) < num_layers or found != num_parameters:
        raise DamagedCheckpoint(
            f"{path} is from a different model, of {found:,} parameters in {len(headers)} arrays,"
            f" not {num_parameters:,} in {num_layers} layers"
        )


def remove_other_checkpoints(run: RunFolder, latest: Position, keep: int, epochs: Iterable[int]):
    """Removes checkpoints, except the last `keep` up to `latest` and the weights of `epochs`.

    If there are averages of an epoch's weights, keeps these instead of the weights.
    """
    if run.read_only:
        return
    earlier = sorted(position for position in run.positions_with("state") if position <= latest)
    whole = set(earlier[-keep:])
    ends = {Position(epoch, 0) for epoch in epochs}
    for kind, wanted in (
        ("state", whole),
        ("weights", whole | (ends - run.positions_with("average"))),
        ("average", whole | ends),
    ):
        for position in run.positions_with(kind) - wanted:
            run.checkpoint_path(position, kind).unlink()


def save_arrays(path: Path, groups: Mapping[str, Iterable[np.ndarray]], **more) -> None:
    """Writes each group of arrays as GROUP.NUMBER, in order, and `more` under its own names."""
    arrays = {
        f"{group}.{index:05d}": array
        for group, members in groups.items()
        for index, array in enumerate(members)
    }
    with replacing(path) as temporary:
        np.savez(temporary, **arrays, **more)


def load_arrays(
    path: Path, check: Callable[[Mapping[str, Header]], None] | None = None
) -> dict[str, np.ndarray]:
    """Reads a file that `save_arrays` wrote; checks every array against its checksum.

    Args:
        path: The file.
        check: Called with the declared shapes and dtypes before any array is read; raises
            `DamagedCheckpoint` if they are not what is expected.

    Raises:
        DamagedCheckpoint: If the file is missing or damaged.
    """
    try:
        return read_npz(path, check)
    except DamagedFile as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({error})") from error


def _group(members: Mapping[str, Any], group: str) -> list[Any]:
    return [member for name, member in members.items() if name.startswith(f"{group}.")]


def _check_like(
    path: Path, headers: Mapping[str, Header], group: str, variables: Iterable[keras.Variable]
) -> None:
    """Refuses arrays whose shapes or dtypes differ from those of the variables.

    Integers may have another size, since backends differ in it.
    """
    found = [(header.shape, _kind_of(header.dtype.name)) for header in _group(headers, group)]
    expected = [(tuple(variable.shape), _kind_of(variable.dtype)) for variable in variables]
    if found != expected:
        raise DamagedCheckpoint(f"{path} is from a different model")


def _kind_of(dtype: str) -> str:
    return "integer" if dtype.startswith(("int", "uint")) else dtype


def _check_numbers(path: Path, headers: Mapping[str, Header]) -> None:
    """Refuses a state without its time, or with more metrics than any model has."""
    metrics = _group(headers, "metrics")
    num_metrics = sum(math.prod(header.shape) for header in metrics)

    def is_known(name: str, header: Header) -> bool:
        group, is_single = name.partition(".")[0], header.shape == ()
        return {
            "state": True,
            "metrics": num_metrics <= _MOST_METRIC_NUMBERS and header.dtype.kind in "fiu",
            "seconds": is_single and header.dtype.kind == "f",
            "backend": is_single and header.dtype.kind == "U",
        }.get(group, False)

    if "seconds" not in headers or not all(is_known(*item) for item in headers.items()):
        raise DamagedCheckpoint(f"{path} is from a different version")


def _state_variables(model: keras.Model) -> list[keras.Variable]:
    return [*random_states(model), *model.optimizer.variables]


def random_states(model: keras.Model) -> list[keras.Variable]:
    """Returns the states of dropout's random generators: a seed and a count of draws for each."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def values_of(variables: Iterable[keras.Variable]) -> list[np.ndarray]:
    """Returns the values of variables or tensors, on any device."""

    def tensor(variable):
        value = getattr(variable, "value", variable)
        # NumPy cannot convert a TensorFlow variable that is spread over replicas.
        return value.read_value() if hasattr(value, "read_value") else value

    return [keras.ops.convert_to_numpy(tensor(variable)) for variable in variables]
