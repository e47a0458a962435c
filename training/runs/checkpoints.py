"""What training can resume from: the weights, and all else that the next update depends on.

    checkpoints/epoch_0007_batch_00000.weights.npz   the model's weights
    checkpoints/epoch_0007_batch_00000.state.npz     dropout's random states, the optimizer, the
                                                     epoch's metrics so far, its seconds so far
    checkpoints/epoch_0007_batch_00000.average.npz   at an epoch's end, with ema_decay: the averages
                                                     of the weights, in the order of the weights

The name says where it was written: after 7 complete epochs and 0 batches of the next. The state is
written last, so a checkpoint that has one is complete. More than one is kept, since a file can be
damaged. The files hold plain arrays in the order of the model's variables; nothing is unpickled.
"""

import dataclasses
import logging
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transformer.averaging import averaged_variables, keeps_averages
from training.command_line.errors import InputError
from training.runs.files import replacing
from training.runs.folder import START, Position, RunFolder

LOGGER = logging.getLogger("keras_transformer")


class DamagedCheckpoint(Exception):
    """A checkpoint's file is cut short, altered, or of another model."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far training has come.

    Attributes:
        position: Epochs and batches done.
        seconds: Time spent on the current epoch.
        metrics: The states of the current epoch's metrics, in the order of the model's variables;
            empty at the beginning of an epoch.
    """

    position: Position = START
    seconds: float = 0.0
    metrics: Sequence[np.ndarray] = ()


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The values of a model's weights and state, and the progress they were saved at."""

    values: Sequence[np.ndarray]
    progress: Progress
    backend: str

    @classmethod
    def read(cls, run: RunFolder, model: keras.Model, position: Position) -> "Checkpoint":
        """The checkpoint of a compiled model with a built optimizer.

        Raises:
            DamagedCheckpoint: If it cannot be read or is of another model.
        """
        weights = load_weights(run, model, position)
        path = run.checkpoint_path(position, "state")
        arrays = load_arrays(path)
        state = _group(arrays, "state")
        _check_shapes(path, state, _state_variables(model))
        if "seconds" not in arrays:
            raise DamagedCheckpoint(f"{path} is of another version")
        progress = Progress(position, float(arrays["seconds"]), _group(arrays, "metrics"))
        # A checkpoint that does not name its backend is older than the choice of one.
        return cls([*weights, *state], progress, str(arrays.get("backend", "tensorflow")))

    def set(self, model: keras.Model) -> None:
        """Gives the model these values; not the metrics, which `fit` resets at first."""
        backend = keras.backend.backend()
        if self.backend != backend and random_states(model):
            LOGGER.warning(
                "the checkpoint was written on %s: weights and optimizer carry over, but %s draws"
                " other random numbers for dropout",
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

    Workers call it together, since each has metrics of its own share of the batches; the one whose
    run is not read-only writes.
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
    """Reads the latest undamaged checkpoint into a compiled model.

    Args:
        run: The run. If it is read-only, the checkpoint that the chief has read is taken.
        model: The model; unchanged if there is no checkpoint.
        from_chief: As `training.devices.base.Devices.from_chief`.

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
    """The "weights" of a checkpoint, or their "average", in the order of the model's.

    Raises:
        DamagedCheckpoint: If they cannot be read or are of another model.
    """
    path = run.checkpoint_path(position, kind)
    weights = _group(load_arrays(path), "weights")
    _check_shapes(path, weights, model.weights)
    return weights


def remove_other_checkpoints(run: RunFolder, latest: Position, keep: int, epochs: Iterable[int]):
    """Removes all but the last `keep` checkpoints up to `latest`, and the weights of `epochs`.

    Where there are averages of an epoch's weights, these are kept in place of the weights.
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
    """Writes groups of arrays as GROUP.NUMBER, in order, and `more` under its names."""
    arrays = {
        f"{group}.{index:05d}": array
        for group, members in groups.items()
        for index, array in enumerate(members)
    }
    with replacing(path) as temporary:
        np.savez(temporary, **arrays, **more)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a file of `save_arrays`; every array is checked against its checksum.

    Raises:
        DamagedCheckpoint: If the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in sorted(file.files)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({error})") from error


def _group(arrays: Mapping[str, np.ndarray], group: str) -> list[np.ndarray]:
    return [array for name, array in arrays.items() if name.startswith(f"{group}.")]


def _check_shapes(path: Path, arrays, variables) -> None:
    if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
        raise DamagedCheckpoint(f"{path} is of another model")


def _state_variables(model: keras.Model) -> list[keras.Variable]:
    return [*random_states(model), *model.optimizer.variables]


def random_states(model: keras.Model) -> list[keras.Variable]:
    """The states of dropout's generators: for each its seed and a count of draws."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def values_of(variables: Iterable[keras.Variable]) -> list[np.ndarray]:
    """The values of variables or tensors, wherever they live."""

    def tensor(variable):
        value = getattr(variable, "value", variable)
        # NumPy does not take a TensorFlow variable that is spread over replicas.
        return value.read_value() if hasattr(value, "read_value") else value

    return [keras.ops.convert_to_numpy(tensor(variable)) for variable in variables]
