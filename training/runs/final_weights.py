"""The weights that a training ends with: an average of epochs, or the best one alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_transformer.averaging import average_weights, averaged_variables
from training.runs.checkpoints import LOGGER, DamagedCheckpoint
from training.runs.folder import RunFolder
from training.runs.kept_epochs import in_words, weights_of_epoch
from training.runs.monitor import LABELS, badness
from training.runs.progress import best_epoch, epochs_wanted
from training.settings import TrainingSettings

Numbers = dict[str, float]


class Candidate(NamedTuple):
    """Weights that a training may end with.

    Attributes:
        epochs: Whose mean they are.
        numbers: What they reach on the validation text, named as in metrics.jsonl.
    """

    epochs: list[int]
    numbers: Numbers


class Choice(NamedTuple):
    """The weights that a training ends with, and those that were not as good, if there were any."""

    kept: Candidate
    dropped: Candidate | None = None

    def in_words(self, monitor: str) -> str:
        """One line about both, judged by `monitor`."""
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
) -> Choice:
    """Gives a trained model the average that the settings ask for, or the best epoch if better.

    Args:
        run: Its run, with all checkpoints.
        settings: The run's.
        model: The model.
        measure: Returns what the model reaches on the validation text, the same in all workers.
    """
    metrics = run.read_metrics()
    found = []
    weights = readable_weights(run, settings, model, epochs_wanted(metrics, settings), found)
    _assign(model, average_weights(weights))
    best = best_epoch(metrics, settings)
    if best is None:  # metrics.jsonl has been lost
        return Choice(Candidate(found, measure()))
    line = next(line for line in metrics if line.get("epoch") == best)
    alone = Candidate([best], {name: line[name] for name in line if name.startswith("val_")})
    if found == [best]:
        return Choice(alone)
    average = Candidate(found, measure())
    # Not "less than": an average that is not a number loses.
    if badness(average.numbers, settings.monitor) <= badness(alone.numbers, settings.monitor):
        return Choice(average, alone)
    try:
        _assign(model, weights_of_epoch(run, settings, model, best))
    except DamagedCheckpoint as error:
        LOGGER.warning("%s; the average is kept", error)
        return Choice(average, alone)
    return Choice(alone, average)


def readable_weights(
    run: RunFolder,
    settings: TrainingSettings,
    model: keras.Model,
    wanted: Sequence[int],
    found: list[int],
) -> Iterator[list[np.ndarray]]:
    """Yields the weights of the wanted epochs that are whole, and notes which; or the model's.

    Where the optimizer keeps averages of the weights, these are meant.
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
        LOGGER.warning("none of the epochs %s is left; using the last one", wanted)
        found.append(run.position_saved.epoch)
        is_averaged = settings.ema_decay is not None
        variables = averaged_variables(model) if is_averaged else model.weights
        yield [keras.ops.convert_to_numpy(variable) for variable in variables]


def _assign(model: keras.Model, weights: list[np.ndarray]) -> None:
    for variable, array in zip(model.weights, weights, strict=True):
        variable.assign(array)


def _in_words(numbers: Numbers, monitor: str) -> str:
    digits = {"val_perplexity": 3}
    names = dict.fromkeys([monitor, "val_perplexity"])
    return ", ".join(f"{LABELS[name]} {numbers[name]:.{digits.get(name, 2)}f}" for name in names)
