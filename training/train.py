"""Trains a Transformer on two text files: `python -m training.train --help`."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from training.command import FULL_DISK, import_tensorflow, parse, run_command
from training.run_folder import RunFolder, RunRecord, claim, replacing
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

    from keras_transformer.tokenizer import SubwordTokenizer


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
    """Reads all the text once, so that a fault is named before anything is written."""
    from keras_transformer.data import read_pairs

    files = settings.data_files()
    for split in ("train", "validation"):
        read_pairs(files[f"{split}_source"], files[f"{split}_target"])


def _make_tokenizer(run: RunFolder, settings: TrainingSettings) -> "SubwordTokenizer":
    """The run's tokenizer, trained on both sides of the training text if it is not there yet."""
    import keras

    from keras_transformer.tokenizer import SubwordTokenizer

    # Seeding destroys the tokenizer's resources inside TensorFlow, so it comes first.
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(settings.dtype_policy)
    if run.tokenizer_path.exists():
        return SubwordTokenizer.load(run.tokenizer_path)
    return SubwordTokenizer.train(
        [settings.train_source, settings.train_target],
        vocabulary_size=settings.vocabulary_size,
        model_type=settings.tokenizer_type,
    )


def _train_model(run: RunFolder, record: RunRecord) -> None:
    from training.checkpoints import restore_latest
    from training.epoch_end import cut_metrics, time_is_up

    settings = record.settings
    tokenizer = _make_tokenizer(run, settings)
    model = _compiled_model(settings, tokenizer.vocabulary_size)
    epochs_done = restore_latest(run, model)
    batches = _batches(settings, tokenizer, "train", first_epoch=epochs_done)
    validation = _batches(settings, tokenizer, "validation")
    # Only now: a start that fails leaves no folder that insists on its settings.
    _write_beginning(run, record, tokenizer)
    cut_metrics(run, epochs_done)
    _announce(model, tokenizer, epochs_done)
    if epochs_done < settings.epochs and not time_is_up(run.read_metrics(), settings.max_minutes):
        with _full_disk_is_named(run):
            _fit(run, settings, model, batches, validation, initial_epoch=epochs_done)
    _finish(run, settings, model, validation)


def _write_beginning(run: RunFolder, record: RunRecord, tokenizer: "SubwordTokenizer") -> None:
    if run.tokenizer_path.exists():
        return
    run.write_record(record)
    with replacing(run.tokenizer_path) as temporary:
        tokenizer.save(temporary)


def _compiled_model(settings: TrainingSettings, vocabulary_size: int) -> "keras.Model":
    import keras

    from keras_transformer.losses import LabelSmoothedCrossentropy
    from keras_transformer.metrics import Perplexity, TokenAccuracy
    from keras_transformer.model import build_transformer
    from keras_transformer.schedules import InverseSquareRootSchedule

    model = build_transformer(settings.model_config(vocabulary_size))
    peak = settings.peak_learning_rate or (settings.model_dim * settings.warmup_steps) ** -0.5
    model.compile(
        optimizer=keras.optimizers.Adam(
            InverseSquareRootSchedule(peak, settings.warmup_steps),
            beta_1=settings.adam_beta_1,
            beta_2=settings.adam_beta_2,
            epsilon=settings.adam_epsilon,
        ),
        loss=LabelSmoothedCrossentropy(settings.label_smoothing),
        weighted_metrics=[Perplexity(), TokenAccuracy()],
        # XLA compiles each batch shape anew, which costs more than it gives on a CPU.
        jit_compile=False,
    )
    return model


def _batches(
    settings: TrainingSettings, tokenizer: "SubwordTokenizer", split: str, first_epoch: int = 0
) -> "tf.data.Dataset":
    from keras_transformer.data import pair_batches

    files = settings.data_files()
    return pair_batches(
        files[f"{split}_source"],
        files[f"{split}_target"],
        tokenizer,
        max_tokens=settings.batch_tokens,
        seed=settings.seed,
        shuffle=split == "train",
        first_epoch=first_epoch,
        max_length=settings.max_length,
    )


def _fit(
    run: RunFolder, settings: TrainingSettings, model, batches, validation, initial_epoch: int
) -> None:
    import keras

    from keras_transformer.callbacks import TokensPerSecond
    from training.epoch_end import EpochEnd, StopOnNonFiniteLoss

    model.fit(
        batches,
        validation_data=validation,
        initial_epoch=initial_epoch,
        epochs=settings.epochs,
        callbacks=[
            TokensPerSecond(),
            StopOnNonFiniteLoss(),
            keras.callbacks.TensorBoard(str(run.logs_path), write_graph=False, profile_batch=0),
            EpochEnd(run, settings.average_checkpoints, settings.max_minutes),
        ],
        shuffle=False,  # the batches bring their own order, new in each epoch
        verbose="auto" if sys.stdout.isatty() else 2,
    )


@contextlib.contextmanager
def _full_disk_is_named(run: RunFolder) -> Iterator[None]:
    """Turns TensorFlow's own error of TensorBoard's files into the usual one."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        for number in FULL_DISK:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(run.logs_path)) from error
        raise


def _finish(run: RunFolder, settings: TrainingSettings, model, validation) -> None:
    """Averages or chooses the weights, measures them, and writes model.keras."""
    from keras_transformer.averaging import average_weights
    from training.checkpoints import load_weights
    from training.epoch_end import epochs_wanted

    metrics = run.read_metrics()
    epochs = epochs_wanted(metrics, settings.average_checkpoints)
    weights = average_weights(load_weights(run, model, epochs))
    for variable, array in zip(model.weights, weights, strict=True):
        variable.assign(array)
    measured = model.evaluate(validation, verbose=0, return_dict=True)
    final = {"final": True, "epochs": epochs}
    final |= {f"val_{name}": float(value) for name, value in measured.items()}
    run.write_metrics([*metrics, final])
    save_model(run, model)
    what = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
    print(f"weights of {what}: validation perplexity {final['val_perplexity']:.3f}")


def save_model(run: RunFolder, model: "keras.Model") -> None:
    """Writes model.keras, which makes the run a finished one."""
    with replacing(run.model_path) as temporary:
        model.save(temporary)


def _announce(model, tokenizer, epochs_done: int) -> None:
    print(f"tokenizer: {tokenizer.vocabulary_size:,} sub-words")
    print(f"model: {model.count_params():,} parameters")
    if epochs_done:
        print(f"resuming after epoch {epochs_done}")


@contextlib.contextmanager
def _resumable(run: RunFolder, settings: TrainingSettings) -> Iterator[None]:
    """Says on a stop what is saved."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            f"\nstopped: {run.num_epochs_saved} of {settings.epochs} epochs are saved in"
            f" {run.path}. Run the same command again to resume.",
            file=sys.stderr,
        )
        raise


if __name__ == "__main__":
    sys.exit(run_command(main))
