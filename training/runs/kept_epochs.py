"""Finds the epochs whose weights a run needs, and those that its checkpoints hold."""

from typing import TYPE_CHECKING, Any

from training.command_line.errors import InputError
from training.runs.folder import Position, RunFolder
from training.runs.monitor import badness, best_epoch
from training.settings import TrainingSettings

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_transformer.text.tokenizer_pair import Tokenizer


def epochs_wanted(metrics: list[dict[str, Any]], settings: TrainingSettings) -> list[int]:
    """Returns the epochs whose weights would be averaged if training ended now, in order.

    Of the last epochs, takes at most half of all (rounded up), since in a short run the first
    epochs would spoil the mean. Of equally good epochs, takes the first.
    """
    lines = [line for line in metrics if "epoch" in line]
    count = settings.average_checkpoints
    if count == 1 or settings.average_epochs == "best":
        lines = sorted(lines, key=lambda line: badness(line, settings.monitor))[:count]
    else:
        lines = lines[-min(count, -(-len(lines) // 2)) :]
    return sorted(line["epoch"] for line in lines)


def epochs_to_keep(metrics: list[dict[str, Any]], settings: TrainingSettings) -> list[int]:
    """Returns the epochs that the end of training may need: those to average, and the best."""
    best = best_epoch(metrics, settings.monitor)
    return sorted({*epochs_wanted(metrics, settings), *([] if best is None else [best])})


def kept_epochs(run: RunFolder, settings: TrainingSettings) -> list[int]:
    """Returns the epochs whose weights the checkpoints hold, counted from 1, in order."""
    positions = run.positions_with(_kind(settings))
    return sorted(position.epoch for position in positions if not position.batch)


def best_kept(run: RunFolder, settings: TrainingSettings, count: int) -> list[int]:
    """Returns the `count` best epochs of those whose weights are kept, best first.

    Raises:
        InputError: If the run has kept fewer than `count`.
    """
    kept = kept_epochs(run, settings)
    lines = [line for line in run.read_metrics() if line.get("epoch") in kept]
    if not 1 <= count <= len(lines):
        listed = _listed([line["epoch"] for line in lines]) or "none"
        raise InputError(
            f"{run.path}: --best must be 1 to {len(lines)}, the number of epochs that are kept"
            f" ({listed}). Received: {count}. Choose fewer; training keeps more with a larger"
            " --keep-checkpoints."
        )
    lines.sort(key=lambda line: badness(line, settings.monitor))
    return [line["epoch"] for line in lines[:count]]


def check_kept(run: RunFolder, settings: TrainingSettings, epochs: list[int], option: str) -> None:
    """Refuses epochs, given by `option`, whose weights are not kept.

    Raises:
        InputError: If an epoch is not kept; lists the epochs that are.
    """
    kept = kept_epochs(run, settings)
    missing = [epoch for epoch in epochs if epoch not in kept]
    if missing:
        raise InputError(
            f"{run.path}: {option} must name epochs whose weights are kept"
            f" ({_listed(kept) or 'none is'}). Received: {_listed(missing)}. Choose among those"
            " kept; training keeps more with a larger --keep-checkpoints or --average-checkpoints."
        )


def in_words(epochs: list[int]) -> str:
    """Formats epochs as `epoch 11` or `epochs 9, 10, 11`."""
    return f"epoch{'s' * (len(epochs) > 1)} {_listed(epochs)}"


def weights_of_epoch(
    run: RunFolder, settings: TrainingSettings, model: "keras.Model", epoch: int
) -> list["np.ndarray"]:
    """Reads the weights at the end of an epoch, or their moving averages if the run keeps them.

    Raises:
        DamagedCheckpoint: As `load_weights` does.
    """
    from training.runs.checkpoints import load_weights

    return load_weights(run, model, Position(epoch, 0), _kind(settings))


def check_size_of_epoch(run: RunFolder, settings: TrainingSettings, epoch: int) -> None:
    """Checks that a checkpoint has as many parameters as the model of these settings would have.

    Building the model takes memory, so this comes first.

    Raises:
        DamagedCheckpoint: If the file cannot be read or is from a different model.
    """
    from training.runs.architectures import num_parameters
    from training.runs.checkpoints import check_declared_size

    path = run.checkpoint_path(Position(epoch, 0), _kind(settings))
    num_layers = settings.num_layers + settings.decoder_layers
    check_declared_size(path, num_parameters(settings), num_layers)


def model_of_epoch(
    run: RunFolder, settings: TrainingSettings, epoch: int
) -> tuple["keras.Model", "Tokenizer"]:
    """Loads the model with its weights at the end of an epoch, and the run's tokenizer.

    Raises:
        InputError: If a file cannot be read.
    """
    from keras_transformer.text.tokenizer_pair import load_tokenizer
    from training.runs.architectures import build_model
    from training.runs.checkpoints import DamagedCheckpoint
    from training.runs.compiled_model import number_formats
    from training.runs.record import most_ids_of, with_sub_words_of

    tokenizer = load_tokenizer(run.tokenizer_path, most_ids=most_ids_of(settings))
    try:
        settings = with_sub_words_of(tokenizer, settings)
        check_size_of_epoch(run, settings, epoch)
        with number_formats(settings.dtype_policy):
            model = build_model(settings)
        weights = weights_of_epoch(run, settings, model, epoch)
    except DamagedCheckpoint as error:
        raise InputError(
            f"{run.path}: a checkpoint must be unchanged since training wrote it. Received:"
            f" {error}. Choose another epoch."
        ) from error
    model.set_weights(weights)
    return model, tokenizer


def _kind(settings: TrainingSettings) -> str:
    """Returns the kind of checkpoint file that holds the validated weights."""
    return "weights" if settings.ema_decay is None else "average"


def _listed(epochs: list[int]) -> str:
    return ", ".join(map(str, epochs))
