"""The epochs of a run whose weights are kept in its checkpoints."""

from typing import TYPE_CHECKING

from training.command_line.errors import InputError
from training.runs.folder import Position, RunFolder
from training.settings import TrainingSettings

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_transformer.text.subword_tokenizer import SubwordTokenizer


def kept_epochs(run: RunFolder, settings: TrainingSettings) -> list[int]:
    """The epochs, from 1, in their order."""
    positions = run.positions_with(_kind(settings))
    return sorted(position.epoch for position in positions if not position.batch)


def check_kept(run: RunFolder, settings: TrainingSettings, epochs: list[int], option: str) -> None:
    """Refuses epochs whose weights are not kept.

    Args:
        run: The run.
        settings: Its settings.
        epochs: What was asked for.
        option: By which option.

    Raises:
        InputError: Which lists the epochs that are kept.
    """
    kept = kept_epochs(run, settings)
    missing = [epoch for epoch in epochs if epoch not in kept]
    if missing:
        raise InputError(
            f"{run.path}: {option} must name epochs whose weights are kept"
            f" ({_listed(kept) or 'none is'}). Received: {_listed(missing)}. Choose among those"
            " kept; a training keeps more with a larger --keep-checkpoints or"
            " --average-checkpoints."
        )


def in_words(epochs: list[int]) -> str:
    """Whose weights they are: `epoch 11`, or `epochs 9, 10, 11`."""
    return f"epoch{'s' * (len(epochs) > 1)} {_listed(epochs)}"


def weights_of_epoch(
    run: RunFolder, settings: TrainingSettings, model: "keras.Model", epoch: int
) -> list["np.ndarray"]:
    """The weights at the end of an epoch, or their moving averages where the run has these.

    Raises:
        DamagedCheckpoint: If they cannot be read or are of another model.
    """
    from training.runs.checkpoints import load_weights

    return load_weights(run, model, Position(epoch, 0), _kind(settings))


def model_of_epoch(
    run: RunFolder, settings: TrainingSettings, epoch: int
) -> tuple["keras.Model", "SubwordTokenizer"]:
    """The model as it was at the end of an epoch, and the run's tokenizer.

    Raises:
        InputError: If a file cannot be read.
    """
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer
    from training.runs.architectures import build_model
    from training.runs.checkpoints import DamagedCheckpoint
    from training.runs.compiled_model import number_formats

    tokenizer = SubwordTokenizer.load(run.tokenizer_path)
    with number_formats(settings.dtype_policy):
        model = build_model(settings, tokenizer.vocabulary_size)
    try:
        model.set_weights(weights_of_epoch(run, settings, model, epoch))
    except DamagedCheckpoint as error:
        raise InputError(
            f"{run.path}: a checkpoint must be as training wrote it. Received: {error}. Choose"
            " another epoch."
        ) from error
    return model, tokenizer


def _kind(settings: TrainingSettings) -> str:
    """The kind of checkpoint file that holds what is validated and kept."""
    return "weights" if settings.ema_decay is None else "average"


def _listed(epochs: list[int]) -> str:
    return ", ".join(map(str, epochs))
