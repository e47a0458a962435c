"""Chooses the weights that a run ends with: an average of epochs, or the best epoch alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_transformer.averaging import average_weights, averaged_variables
from training.command_line.errors import InputError
from training.runs.checkpoints import LOGGER, DamagedCheckpoint
from training.runs.files import replacing
from training.runs.folder import RunFolder
from training.runs.kept_epochs import epochs_wanted, in_words, weights_of_epoch
from training.runs.monitor import LABELS, badness, best_epoch
from training.settings import TrainingSettings

Numbers = dict[str, float]


class Candidate(NamedTuple):
    """Weights that a run may end with.

    Attributes:
        epochs: The epochs whose weights were averaged.
        numbers: The results on the validation text, named as in metrics.jsonl.
    """

    epochs: list[int]
    numbers: Numbers


class Choice(NamedTuple):
    """The weights that a run ends with, and the worse alternative, if there was one."""

    kept: Candidate
    dropped: Candidate | None = None

    def in_words(self, monitor: str) -> str:
        """Describes both in one line, with their values of `monitor`."""
        line = f"weights of {in_words(self.kept.epochs)}: {_in_words(self.kept.numbers, monitor)}"
        if self.dropped is None:
            return line
        what = in_words(self.dropped.epochs)
        what = f"{what} alone" if len(self.dropped.epochs) == 1 else f"the average of {what}"
        return f"{line}; {what}: {_in_words(self.dropped.numbers, monitor)}"


def set_final_weights(
    run: RunFolder,
    settings: TrainingSettings,
    model: keras.Model,
    measure: Callable[[], Numbers],
    from_chief: Callable[[Any], Any] = lambda value: value,
) -> Choice:
    """Assigns to a trained model the average of epochs, or the best epoch if that is better.

    Args:
        run: The run, with all checkpoints.
        settings: The settings of the run.
        model: The model.
        measure: Returns the model's results on the validation text. All workers must call it
            together, so the decision to call it depends only on values from the chief.
        from_chief: Like `training.devices.base.Devices.from_chief`.

    Raises:
        InputError: If a worker cannot read a checkpoint that the chief has read.
    """
    metrics = from_chief(run.read_metrics())
    found = _set_average(run, settings, model, epochs_wanted(metrics, settings), from_chief)
    best = best_epoch(metrics, settings.monitor)
    if best is None:  # metrics.jsonl has been lost
        return Choice(Candidate(found, measure()))
    line = next(line for line in metrics if line.get("epoch") == best)
    alone = Candidate([best], {name: line[name] for name in line if name.startswith("val_")})
    if found == [best]:
        return Choice(alone)
    average = Candidate(found, measure())
    # If the average's value is not a number, the comparison is false and the average loses.
    if badness(average.numbers, settings.monitor) <= badness(alone.numbers, settings.monitor):
        return Choice(average, alone)
    try:
        _assign(model, weights_of_epoch(run, settings, model, best))
    except DamagedCheckpoint as error:
        LOGGER.warning("%s; the average is kept", error)
        return Choice(average, alone)
    return Choice(alone, average)


def _set_average(run, settings, model, wanted, from_chief) -> list[int]:
    """Assigns the average of the epochs that the chief can read; returns these epochs."""
    found = []
    if not run.read_only:
        weights = average_weights(readable_weights(run, settings, model, wanted, found))
    chiefs = from_chief(found)
    if run.read_only:
        weights = average_weights(readable_weights(run, settings, model, chiefs, found))
        if found != chiefs:
            raise InputError(
                f"{run.path}: all workers must be able to read the run folder. Received:"
                f" {in_words(found)}, and on the first worker {in_words(chiefs)}. Put it where all"
                " machines see the same files."
            )
    _assign(model, weights)
    return found


def readable_weights(
    run: RunFolder,
    settings: TrainingSettings,
    model: keras.Model,
    wanted: Sequence[int],
    found: list[int],
) -> Iterator[list[np.ndarray]]:
    """Yields the weights of the epochs that can be read, or else those of the model.

    Uses the averaged weights where the optimizer keeps them. Adds each epoch to `found`.
    """
    for epoch in wanted:
        try:
            weights = weights_of_epoch(run, settings, model, epoch)
        except DamagedCheckpoint as error:
            LOGGER.warning("%s; left out", error)
        else:
            found.append(epoch)
            yield weights
    if not found:
        LOGGER.warning("none of the epochs %s can be read; using the last epoch", wanted)
        found.append(run.position_saved.epoch)
        is_averaged = settings.ema_decay is not None
        variables = averaged_variables(model) if is_averaged else model.weights
        yield [keras.ops.convert_to_numpy(variable) for variable in variables]


def save_model(run: RunFolder, model: keras.Model) -> None:
    """Writes model.keras, completely or not at all.

    Saves an uncompiled copy, because the optimizer's state is twice as large as the weights.
    """
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    run.remove_checksums()
    with replacing(run.model_path) as temporary:
        copy.save(temporary)


def _assign(model: keras.Model, weights: list[np.ndarray]) -> None:
    for variable, array in zip(model.weights, weights, strict=True):
        variable.assign(array)


def _in_words(numbers: Numbers, monitor: str) -> str:
    digits = {"val_perplexity": 3}
    names = dict.fromkeys([monitor, "val_perplexity"])
    return ", ".join(f"{LABELS[name]} {numbers[name]:.{digits.get(name, 2)}f}" for name in names)
