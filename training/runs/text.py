"""What a training reads: its tokenizer, and the text as numbered batches."""

from pathlib import Path

from keras_transformer.data import (
    Epochs,
    PairBatches,
    PairStream,
    read_corpora,
    read_pairs,
    sample_pairs,
)
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from training.command_line.errors import InputError
from training.devices.base import Devices
from training.runs.folder import RunFolder
from training.settings import TrainingSettings


def check_start(settings: TrainingSettings) -> None:
    """Refuses a tokenizer or a run to start from that a new run could not take.

    Raises:
        InputError: If there is one.
    """
    if settings.tokenizer is not None:
        _given(settings.tokenizer, settings)
    if settings.initial_run is not None:
        RunFolder(settings.initial_run).check_finished()


def check_text(settings: TrainingSettings) -> None:
    """Reads the text once, so that a fault is named before anything is written.

    A text that is streamed may be too large for that: only its files are looked for.
    """
    read_pairs(*settings.validation_files())
    corpora = settings.corpora()
    if settings.steps_per_epoch is None:
        read_corpora(corpora)
    for corpus in corpora:
        corpus.files()


def validation_references(settings: TrainingSettings) -> list[str]:
    """The target lines that validation translations are compared with."""
    return read_pairs(*settings.validation_files())[1]


def shared_tokenizer(
    run: RunFolder, settings: TrainingSettings, devices: Devices
) -> SubwordTokenizer:
    """The chief's tokenizer, in all workers.

    Raises:
        InputError: In all workers, if the chief cannot make it.
    """
    tokenizer = error = None
    if devices.is_chief:
        try:
            tokenizer = _make_tokenizer(run, settings)
        except InputError as caught:
            error = caught
    model = tokenizer and tokenizer.serialized_model.decode("latin-1")
    model, complaint = devices.from_chief([model, error and str(error)])
    if complaint is not None:
        raise error or InputError(complaint)
    return tokenizer or SubwordTokenizer(model.encode("latin-1"))


def _make_tokenizer(run: RunFolder, settings: TrainingSettings) -> SubwordTokenizer:
    """The run's tokenizer, trained on both sides of the training text if it is not there yet."""
    if run.tokenizer_path.exists():
        return SubwordTokenizer.load(run.tokenizer_path)
    if settings.tokenizer is not None:
        return _given(settings.tokenizer, settings)
    if settings.initial_run is not None:
        initial_run = RunFolder(settings.initial_run)
        initial_run.check_finished()
        return _given(initial_run.tokenizer_path, settings)
    source, target = sample_pairs(
        settings.corpora(), num_pairs=settings.tokenizer_pairs, seed=settings.seed
    )
    return SubwordTokenizer.train_from_lines(
        source + target,
        settings.vocabulary_size,
        settings.tokenizer_type,
        settings.normalization,
    )


def _given(path: str | Path, settings: TrainingSettings) -> SubwordTokenizer:
    """A tokenizer that is there already, and has its own normalization."""
    tokenizer = SubwordTokenizer.load(path)
    if settings.normalization not in ("none", tokenizer.normalization):
        raise InputError(
            f"{path}: the tokenizer must normalize text as normalization says. Received:"
            f" normalization={settings.normalization}, and a tokenizer of"
            f" normalization={tokenizer.normalization}. Leave normalization out, or train another"
            " tokenizer."
        )
    return tokenizer


def training_epochs(settings: TrainingSettings, tokenizer: SubwordTokenizer) -> Epochs:
    """The training text: in memory, or streamed where `steps_per_epoch` is given."""
    shared = {
        "max_tokens": settings.batch_tokens,
        "seed": settings.seed,
        "max_length": settings.max_length,
        "max_length_ratio": settings.max_length_ratio,
    }
    corpora, parts = settings.corpora(), settings.accumulation_steps
    if settings.steps_per_epoch is None:
        return PairBatches(*read_corpora(corpora), tokenizer, **shared).epochs(parts)
    stream = PairStream(corpora, tokenizer, sampling=settings.sampling, **shared)
    return stream.epochs(settings.steps_per_epoch, parts)


def validation_epochs(settings: TrainingSettings, tokenizer: SubwordTokenizer) -> Epochs:
    """The validation text, in the same order each time."""
    return PairBatches(
        *read_pairs(*settings.validation_files()),
        tokenizer,
        # no more at once than training has in memory
        max_tokens=max(settings.batch_tokens // settings.accumulation_steps, settings.max_length),
        shuffle=False,
        max_length=settings.max_length,
    ).epochs()
