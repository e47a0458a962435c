"""Trains a Transformer on two text files: `python -m training.train --help`."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from training.command import FULL_DISK, InputError, import_tensorflow, parse, run_command
from training.run_folder import Position, RunFolder, RunRecord, claim, replacing
from training.settings import (
    SETTING_NAMES,
    TrainingSettings,
    make_settings,
    make_settings_parser,
    read_settings_file,
)

# Keras and TensorFlow take seconds to import. They are imported where they are used, so that help
# and errors about the input come at once.
if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from keras_transformer.data import Epochs
    from keras_transformer.tokenizer import SubwordTokenizer
    from training.checkpoints import Progress


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = make_settings_parser(
        "train", "Trains a Transformer on two text files; run it again to resume."
    )
    parser.add_option("output", str, None, "The run folder to write.", required=True)
    parser.add_flag("overwrite", "Replace a run that is there, once this one is done.")
    config = parse(parser, arguments).config
    if config is not None:
        parser.set_defaults(read_settings_file(config))
    options = parse(parser, arguments)
    settings = make_settings({name: options[name] for name in SETTING_NAMES})
    train(settings, options.output, overwrite=options.overwrite)


def train(settings: TrainingSettings, output: str, *, overwrite: bool = False) -> None:
    """Trains, or resumes, up to a finished run folder.

    Args:
        settings: What to train.
        output: The run folder.
        overwrite: Whether another run that is there may be replaced.

    Raises:
        InputError: If the data or the folder do not allow it.
    """
    _check_data(settings)
    record = RunRecord.of(settings)
    with claim(output, record, overwrite=overwrite) as run, _resumable(run, settings):
        if not run.is_finished:
            import_tensorflow()
            _train_model(run, record)
    print(f"finished: {output}")


def _check_data(settings: TrainingSettings) -> None:
    """Reads the text once, so that a fault is named before anything is written.

    A text that is streamed may be too large for that: only its files are looked for.
    """
    from keras_transformer.data import read_corpora, read_pairs

    read_pairs(*settings.validation_files())
    corpora = settings.corpora()
    if settings.steps_per_epoch is None:
        read_corpora(corpora)
    for corpus in corpora:
        corpus.files()


def _make_tokenizer(run: RunFolder, settings: TrainingSettings) -> "SubwordTokenizer":
    """The run's tokenizer, trained on both sides of the training text if it is not there yet."""
    import keras

    from keras_transformer.data import sample_pairs
    from keras_transformer.tokenizer import SubwordTokenizer

    # Seeding destroys the tokenizer's resources inside TensorFlow, so it comes first.
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(settings.dtype_policy)
    if run.tokenizer_path.exists():
        return SubwordTokenizer.load(run.tokenizer_path)
    if settings.tokenizer is not None:
        return SubwordTokenizer.load(settings.tokenizer)
    if settings.initial_run is not None:
        initial_run = RunFolder(settings.initial_run)
        initial_run.check_finished()
        return SubwordTokenizer.load(initial_run.tokenizer_path)
    source, target = sample_pairs(
        settings.corpora(), num_pairs=settings.tokenizer_pairs, seed=settings.seed
    )
    return SubwordTokenizer.train_from_lines(
        source + target, settings.vocabulary_size, settings.tokenizer_type
    )


def _train_model(run: RunFolder, record: RunRecord) -> None:
    from training.checkpoints import START, restore_latest
    from training.progress import cut_metrics

    settings = record.settings
    tokenizer = _make_tokenizer(run, settings)
    model = _compiled_model(settings, tokenizer.vocabulary_size)
    progress = restore_latest(run, model)
    if settings.initial_run is not None and progress.position == START:
        _set_initial_weights(model, RunFolder(settings.initial_run))
    epochs = _epochs(settings, tokenizer)
    validation = _validation_batches(settings, tokenizer)
    # Only now: a start that fails leaves no folder that insists on its settings.
    _write_beginning(run, record, tokenizer)
    cut_metrics(run, progress.position.epoch)
    _announce(model, tokenizer, progress.position)
    with _faults_are_named(run, epochs):
        _fit(run, settings, model, tokenizer, epochs, validation, progress)
    _finish(run, settings, model, validation)


def _set_initial_weights(model: "keras.Model", initial_run: RunFolder) -> None:
    """Gives the model the weights of a finished run.

    Raises:
        InputError: If that run's model is of another size.
    """
    from keras_transformer.translator import read_model

    initial = read_model(initial_run.model_path)
    shapes = [weight.shape for weight in model.weights]
    initial_shapes = [weight.shape for weight in initial.weights]
    if shapes != initial_shapes:
        raise InputError(
            f"{initial_run.path}: the initial run must hold a model of the same size. Received:"
            f" {initial.count_params():,} parameters there, {model.count_params():,} here. Give"
            " the model's settings as in that run's config.yaml."
        )
    model.set_weights(initial.get_weights())


def _write_beginning(run: RunFolder, record: RunRecord, tokenizer: "SubwordTokenizer") -> None:
    if run.tokenizer_path.exists():
        return
    run.write_record(record)
    with replacing(run.tokenizer_path) as temporary:
        tokenizer.save(temporary)


def _compiled_model(settings: TrainingSettings, vocabulary_size: int) -> "keras.Model":
    from keras_transformer.losses import LabelSmoothedCrossentropy
    from keras_transformer.metrics import Perplexity, TokenAccuracy
    from keras_transformer.model import build_transformer
    from keras_transformer.optimizers import Adam
    from keras_transformer.schedules import InverseSquareRootSchedule

    model = build_transformer(settings.model_config(vocabulary_size))
    steps = settings.accumulation_steps
    peak = settings.peak_learning_rate or (settings.model_dim * settings.warmup_steps) ** -0.5
    model.compile(
        optimizer=Adam(
            InverseSquareRootSchedule(peak, settings.warmup_steps),
            beta_1=settings.adam_beta_1,
            beta_2=settings.adam_beta_2,
            epsilon=settings.adam_epsilon,
            gradient_accumulation_steps=steps if steps > 1 else None,
        ),
        loss=LabelSmoothedCrossentropy(settings.label_smoothing),
        # Not weighted_metrics: parts of a batch come with weights, which are the loss' alone.
        metrics=[Perplexity(), TokenAccuracy()],
        # XLA compiles each batch shape anew, which costs more than it gives on a CPU.
        jit_compile=False,
    )
    return model


def _epochs(settings: TrainingSettings, tokenizer: "SubwordTokenizer") -> "Epochs":
    """The training text: in memory, or streamed where `steps_per_epoch` is given."""
    from keras_transformer.data import PairBatches, PairStream, read_corpora

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


def _validation_batches(
    settings: TrainingSettings, tokenizer: "SubwordTokenizer"
) -> "tf.data.Dataset":
    from keras_transformer.data import pair_batches

    return pair_batches(
        *settings.validation_files(),
        tokenizer,
        # no more at once than training has in memory
        max_tokens=max(settings.batch_tokens // settings.accumulation_steps, settings.max_length),
        shuffle=False,
        max_length=settings.max_length,
    )


def _fit(
    run: RunFolder,
    settings: TrainingSettings,
    model,
    tokenizer: "SubwordTokenizer",
    epochs: "Epochs",
    validation,
    progress: "Progress",
) -> None:
    """Trains from where `progress` stands: first the rest of its epoch, then whole ones."""
    import keras

    from keras_transformer.callbacks import TokensPerSecond
    from training.progress import SaveProgress, StopRequest, is_over
    from training.validation_bleu import ValidationBleu

    stop_request = StopRequest()
    quality = [ValidationBleu(settings, tokenizer)] if settings.validation_bleu else []
    callbacks = [
        TokensPerSecond(),
        *quality,
        keras.callbacks.TensorBoard(str(run.logs_path), write_graph=False, profile_batch=0),
        SaveProgress(run, settings, progress, stop_request),
    ]

    def fit(dataset, first_epoch, last_epoch):
        model.fit(
            dataset,
            validation_data=validation,
            initial_epoch=first_epoch,
            epochs=last_epoch,
            callbacks=callbacks,
            shuffle=False,  # the batches bring their own order, new in each epoch
            verbose="auto" if sys.stdout.isatty() else 2,
        )

    epoch, batch = progress.position
    with stop_request.listening():
        if batch:
            model.evaluate(validation.take(1), verbose=0)  # makes the metrics, which are set then
            fit(epochs.dataset(epoch, batch), epoch, epoch + 1)
            epoch += 1
        if not is_over(run.read_metrics(), settings):
            fit(epochs.dataset(epoch), epoch, settings.epochs)


@contextlib.contextmanager
def _faults_are_named(run: RunFolder, epochs: "Epochs") -> Iterator[None]:
    """Turns TensorFlow's own errors back: of the text it reads, and of TensorBoard's files."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        if epochs.fault is not None:
            raise epochs.fault from error
        for number in FULL_DISK:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(run.logs_path)) from error
        raise


def _finish(run: RunFolder, settings: TrainingSettings, model, validation) -> None:
    """Averages or chooses the weights, measures them, and writes model.keras."""
    from keras_transformer.averaging import average_weights
    from training.progress import epochs_wanted

    metrics = run.read_metrics()
    wanted = epochs_wanted(metrics, settings)
    epochs = []
    weights = average_weights(_readable_weights(run, model, wanted, epochs))
    for variable, array in zip(model.weights, weights, strict=True):
        variable.assign(array)
    measured = model.evaluate(validation, verbose=0, return_dict=True)
    final = {"final": True, "epochs": epochs}
    final |= {f"val_{name}": float(value) for name, value in measured.items()}
    run.write_metrics([*metrics, final])
    save_model(run, model)
    what = f"epoch{'s' * (len(epochs) > 1)} {', '.join(map(str, epochs))}"
    print(f"weights of {what}: validation perplexity {final['val_perplexity']:.3f}")


def _readable_weights(run: RunFolder, model, wanted: list[int], found: list[int]):
    """Yields the weights of the wanted epochs that are whole, and notes which; or the model's."""
    from training.checkpoints import LOGGER, DamagedCheckpoint, load_weights

    for epoch in wanted:
        try:
            weights = load_weights(run, model, Position(epoch, 0))
        except DamagedCheckpoint as error:
            LOGGER.warning("%s; left out", error)
        else:
            found.append(epoch)
            yield weights
    if not found:
        LOGGER.warning("none of the epochs %s is left; the last one is taken", wanted)
        found.append(run.position_saved.epoch)
        yield model.get_weights()


def save_model(run: RunFolder, model: "keras.Model") -> None:
    """Writes model.keras, which makes the run a finished one."""
    with replacing(run.model_path) as temporary:
        model.save(temporary)


def _announce(model, tokenizer, position: Position) -> None:
    print(f"tokenizer: {tokenizer.vocabulary_size:,} sub-words")
    print(f"model: {model.count_params():,} parameters")
    if position > (0, 0):
        print(f"resuming after {position.in_words()}")


@contextlib.contextmanager
def _resumable(run: RunFolder, settings: TrainingSettings) -> Iterator[None]:
    """Says on a stop what is saved."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            f"\nstopped: of {settings.epochs} epochs, {run.position_saved.in_words()} are saved in"
            f" {run.path}. Run the same command again to resume.",
            file=sys.stderr,
        )
        raise


if __name__ == "__main__":
    sys.exit(run_command(main))
