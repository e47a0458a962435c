"""What a training can be taken up from: weights, and all else that the next update depends on.

    checkpoints/epoch_0007_batch_00000.weights.npz   the model's weights
    checkpoints/epoch_0007_batch_00000.state.npz     dropout's random states, the optimizer, the
                                                     epoch's metrics so far, its seconds so far

The name says where it was written: after 7 complete epochs and 0 batches of the next. The state
is written last, so a checkpoint that has one is complete. More than one is kept, since a file can
be damaged. Plain arrays in the order of the model's variables; nothing is unpickled.
"""

import dataclasses
import logging
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from training.run_folder import Position, RunFolder, replacing

LOGGER = logging.getLogger("keras_transformer")

START = Position(0, 0)


class DamagedCheckpoint(Exception):
    """A checkpoint's file is cut short, altered, or of another model."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Attributes:
        position: The epochs and batches that are done.
        seconds: Time spent on the epoch that `position` stands in.
        metrics: The states of the metrics of that epoch, in the order of the model's; none at the
            beginning of an epoch.
    """

    position: Position = START
    seconds: float = 0.0
    metrics: Sequence[np.ndarray] = ()


def save_checkpoint(
    run: RunFolder, model: keras.Model, position: Position, seconds: float = 0.0
) -> None:
    """Writes the model, its optimizer and, inside an epoch, its metrics."""
    run.checkpoints_path.mkdir(exist_ok=True)
    metrics = model.metrics_variables if position.batch else []
    save_arrays(run.checkpoint_path(position, "weights"), {"weights": model.weights})
    save_arrays(
        run.checkpoint_path(position, "state"),
        {"state": _state_variables(model), "metrics": metrics},
        seconds=np.float64(seconds),
    )


def restore_latest(run: RunFolder, model: keras.Model) -> Progress:
    """Reads the latest whole checkpoint into a compiled model.

    Returns:
        Where it was written; the start if there is no checkpoint, and the model is as it was.
    """
    model.optimizer.build(model.trainable_variables)
    for position in sorted(run.positions_with("state"), reverse=True):
        try:
            return restore(run, model, position)
        except DamagedCheckpoint as error:
            LOGGER.warning("%s; going back to an earlier checkpoint", error)
    return Progress()


def restore(run: RunFolder, model: keras.Model, position: Position) -> Progress:
    """Reads one checkpoint into a compiled model with a built optimizer, all of it or nothing.

    The metrics are handed back, not set: `fit` resets them when it begins an epoch.

    Raises:
        DamagedCheckpoint: If it does not fit.
    """
    weights = load_weights(run, model, position)
    path = run.checkpoint_path(position, "state")
    arrays = load_arrays(path)
    state = _group(arrays, "state")
    _check_shapes(path, state, _state_variables(model))
    if "seconds" not in arrays:
        raise DamagedCheckpoint(f"{path} is of another version")
    for variable, array in zip(
        [*model.weights, *_state_variables(model)], [*weights, *state], strict=True
    ):
        variable.assign(array)
    return Progress(position, float(arrays["seconds"]), _group(arrays, "metrics"))


def load_weights(run: RunFolder, model: keras.Model, position: Position) -> list[np.ndarray]:
    """The weights of one checkpoint, in the order of the model's.

    Raises:
        DamagedCheckpoint: If they cannot be read or are of another model.
    """
    path = run.checkpoint_path(position, "weights")
    weights = _group(load_arrays(path), "weights")
    _check_shapes(path, weights, model.weights)
    return weights


def remove_other_checkpoints(run: RunFolder, latest: Position, keep: int, epochs: Iterable[int]):
    """Removes what is not needed any more, and whatever is later than the latest.

    Args:
        run: The run.
        latest: Where the latest checkpoint was written.
        keep: How many of the last checkpoints stay whole.
        epochs: Epochs whose weights at their end stay as well.
    """
    earlier = sorted(position for position in run.positions_with("state") if position <= latest)
    whole = set(earlier[-keep:])
    for kind, wanted in (
        ("state", whole),
        ("weights", whole | {Position(epoch, 0) for epoch in epochs}),
    ):
        for position in run.positions_with(kind) - wanted:
            run.checkpoint_path(position, kind).unlink()


def save_arrays(path: Path, groups: Mapping[str, Iterable[keras.Variable]], **more) -> None:
    """Writes groups of variables, each in its order, as GROUP.NUMBER; `more` under its names."""
    arrays = {
        f"{group}.{index:05d}": keras.ops.convert_to_numpy(variable.value)
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
    with replacing(path) as temporary:
        np.savez(temporary, **arrays, **more)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote; every array is checked against its checksum.

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
    """What is neither weight nor metric: the states of the random generators, the optimizer."""
    weights = {id(variable) for variable in model.weights}
    others = [variable for variable in model.variables if id(variable) not in weights]
    return [*others, *model.optimizer.variables]
