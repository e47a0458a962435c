"""Makes what a run reads: its tokenizer, and its text as numbered batches."""

from pathlib import Path

from keras_transformer.data import (
    Epochs,
    PairBatches,
    PairStream,
    read_corpora,
    read_pairs,
    sample_pairs,
)
from keras_transformer.text.subword_tokenizer import SubwordTokenizer, checked_symbols
from keras_transformer.text.tokenizer_pair import (
    Tokenizer,
    TokenizerPair,
    load_tokenizer,
    tokenizer_from,
)
from training.command_line.errors import InputError, input_errors
from training.devices.base import Devices
from training.runs.bleu_tokenizer import check_bleu_tokenizer, warn_if_unspaced
from training.runs.folder import RunFolder
from training.settings import TrainingSettings


def check_text(settings: TrainingSettings, *, is_new: bool = False, warns: bool = False) -> None:
    """Reads the text once, to report a fault before anything is written.

    Streamed text may be too large to read, so checks only that its files exist.

    Args:
        settings: The settings that name the text.
        is_new: Whether to check, for a new run, the tokenizer or the run that it starts from.
        warns: Whether to warn if BLEU's tokenizer does not suit the text.

    Raises:
        InputError: If a file is missing or invalid.
    """
    check_bleu_tokenizer(settings.bleu_tokenizer)
    if is_new:
        _check_tokenizer(settings)
    _, references = read_pairs(*settings.validation_files())
    if warns and settings.validation_bleu:
        warn_if_unspaced(references, settings.bleu_tokenizer)
    corpora = settings.corpora()
    if settings.steps_per_epoch is None:
        read_corpora(corpora)
    for corpus in corpora:
        corpus.files()


def _check_tokenizer(settings: TrainingSettings) -> None:
    """Refuses a tokenizer, a run to start from, or symbols that a new run cannot use."""
    if settings.tokenizer is not None:
        _given_tokenizer(settings.tokenizer, settings)
    elif settings.initial_run is not None:
        initial_run = RunFolder(settings.initial_run)
        initial_run.check_finished()
        initial_run.check_unchanged()
    else:
        checked_symbols(settings.user_symbols or (), settings.normalization)


def validation_references(settings: TrainingSettings) -> list[str]:
    """Reads the reference translations of the validation text."""
    return read_pairs(*settings.validation_files())[1]


def shared_tokenizer(run: RunFolder, settings: TrainingSettings, devices: Devices) -> Tokenizer:
    """Returns the chief's tokenizer in all workers.

    Raises:
        InputError: In all workers, if the chief cannot make the tokenizer.
    """
    tokenizer = error = None
    if devices.is_chief:
        try:
            tokenizer = _make_tokenizer(run, settings)
        except input_errors() as caught:
            error = caught
    model = tokenizer and tokenizer.serialized_model.decode("latin-1")
    model, complaint = devices.from_chief([model, error and str(error)])
    if complaint is not None:
        raise error or InputError(complaint)
    return tokenizer or tokenizer_from(model.encode("latin-1"))


def _make_tokenizer(run: RunFolder, settings: TrainingSettings) -> Tokenizer:
    """Returns the run's tokenizer, the one it starts from, or a new one."""
    if run.tokenizer_path.exists():
        return load_tokenizer(run.tokenizer_path)
    if settings.tokenizer is not None:
        return _given_tokenizer(settings.tokenizer, settings)
    if settings.initial_run is not None:
        initial_run = RunFolder(settings.initial_run)
        initial_run.check_finished()
        return _given_tokenizer(initial_run.tokenizer_path, settings)
    source, target = sample_pairs(
        settings.corpora(), num_pairs=settings.tokenizer_pairs, seed=settings.seed
    )

    def trained(lines: list[str], vocabulary_size: int) -> SubwordTokenizer:
        return SubwordTokenizer.train_from_lines(
            lines,
            vocabulary_size,
            settings.tokenizer_type,
            settings.normalization,
            settings.user_symbols or (),
        )

    if settings.source_vocabulary_size is None:
        return trained(source + target, settings.vocabulary_size)
    return TokenizerPair(
        trained(source, settings.source_vocabulary_size),
        trained(target, settings.vocabulary_size),
    )


def _given_tokenizer(path: str | Path, settings: TrainingSettings) -> Tokenizer:
    tokenizer, normalization = load_tokenizer(path), settings.normalization
    if normalization not in ("none", tokenizer.normalization):
        raise InputError(
            f"{path}: the tokenizer must normalize text as the setting says. Received:"
            f" normalization={normalization}, and a tokenizer with"
            f" normalization={tokenizer.normalization}. Leave normalization out, or train another"
            " tokenizer."
        )
    sides = tokenizer.source, tokenizer.target
    known = [side.user_symbols if isinstance(side, SubwordTokenizer) else () for side in sides]
    unknown = {*(settings.user_symbols or ())}.difference(set(known[0]).intersection(known[1]))
    if unknown:
        raise InputError(
            f"{path}: the tokenizer must have the symbols of the setting. Received:"
            f" user_symbols with {min(unknown)!r:.200}, which it splits. Leave user_symbols out, or"
            " train another tokenizer."
        )
    return tokenizer


def training_epochs(settings: TrainingSettings, tokenizer: Tokenizer) -> Epochs:
    """Batches the training text, in memory, or streamed if `steps_per_epoch` is given."""
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


def validation_epochs(settings: TrainingSettings, tokenizer: Tokenizer) -> Epochs:
    """Batches the validation text, in the same order each time."""
    return PairBatches(
        *read_pairs(*settings.validation_files()),
        tokenizer,
        # so that validation needs no more memory than training
        max_tokens=max(settings.batch_tokens // settings.accumulation_steps, settings.max_length),
        shuffle=False,
        max_length=settings.max_length,
    ).epochs()
