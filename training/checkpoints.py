"""One checkpoint an epoch: the weights of the last epochs, and all that resuming needs.

    checkpoints/epoch_0007.weights.npz   what averaging reads: the model's weights
    checkpoints/epoch_0007.state.npz     the rest: dropout's random states, the optimizer

The state of an epoch is written last, so an epoch with a state is complete. The states of the last
two epochs are kept, since a file can be damaged. Plain arrays; nothing is unpickled.
"""

import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from training.run_folder import RunFolder, replacing

LOGGER = logging.getLogger("keras_transformer")
STATES_KEPT = 2


class DamagedCheckpoint(Exception):
    """A checkpoint's file is cut short, altered, or of another model."""


def save_checkpoint(run: RunFolder, model: keras.Model, epoch: int) -> None:
    """Writes the model and its optimizer after `epoch` complete epochs."""
    run.checkpoints_path.mkdir(exist_ok=True)
    save_arrays(run.checkpoint_path(epoch, "weights"), model.weights)
    save_arrays(run.checkpoint_path(epoch, "state"), _state_variables(model))


def restore_latest(run: RunFolder, model: keras.Model) -> int:
    """Reads the latest whole checkpoint into a compiled model.

    Returns:
        The number of complete epochs; 0 if there is no checkpoint, and the model is as it was.
    """
    model.optimizer.build(model.trainable_variables)
    for epoch in sorted(run.epochs_with("state"), reverse=True):
        try:
            restore(run, model, epoch)
            return epoch
        except DamagedCheckpoint as error:
            LOGGER.warning("%s; going back to an earlier epoch", error)
    return 0


def restore(run: RunFolder, model: keras.Model, epoch: int) -> None:
    """Reads one checkpoint into a compiled model with a built optimizer, all of it or nothing.

    Raises:
        DamagedCheckpoint: If it does not fit.
    """
    weights = load_arrays(run.checkpoint_path(epoch, "weights"), model.weights)
    state = load_arrays(run.checkpoint_path(epoch, "state"), _state_variables(model))
    for variable, array in zip(
        [*model.weights, *_state_variables(model)], [*weights, *state], strict=True
    ):
        variable.assign(array)


def load_weights(run: RunFolder, model: keras.Model, epochs: Iterable[int]):
    """Yields the weights of each epoch; one that is damaged is left out with a warning."""
    for epoch in epochs:
        try:
            yield load_arrays(run.checkpoint_path(epoch, "weights"), model.weights)
        except DamagedCheckpoint as error:
            LOGGER.warning("%s; left out", error)


def remove_other_checkpoints(run: RunFolder, epochs: Iterable[int], latest: int) -> None:
    """Removes what is not needed any more, and whatever is later than the latest epoch.

    Args:
        run: The run.
        epochs: Epochs whose weights are still wanted.
        latest: The latest complete epoch; it and the one before stay whole.
    """
    whole = set(range(latest - STATES_KEPT + 1, latest + 1))
    for kind, wanted in (("state", whole), ("weights", whole | set(epochs))):
        for epoch in run.epochs_with(kind) - wanted:
            run.checkpoint_path(epoch, kind).unlink()


def save_arrays(path: Path, variables: Iterable[keras.Variable]) -> None:
    """Writes variables in their order."""
    arrays = {
        f"{index:05d}": keras.ops.convert_to_numpy(variable.value)
        for index, variable in enumerate(variables)
    }
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def load_arrays(path: Path, variables: Iterable[keras.Variable]) -> list[np.ndarray]:
    """Reads what `save_arrays` wrote of the same variables.

    Raises:
        DamagedCheckpoint: If a file is missing, damaged, or its arrays have other shapes.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in sorted(file.files)]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({error})") from error
    if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
        raise DamagedCheckpoint(f"{path} is of another model")
    return arrays


def _state_variables(model: keras.Model) -> list[keras.Variable]:
    """What is neither weight nor metric: the states of the random generators, the optimizer."""
    weights = {id(variable) for variable in model.weights}
    others = [variable for variable in model.variables if id(variable) not in weights]
    return [*others, *model.optimizer.variables]
