"""Fits a run's model, from the latest checkpoint to the finished weights."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keras

import training.baselines  # noqa: F401  registers the classes of these models
from keras_transformer.callbacks import AveragedWeights, GradientNorm, TokensPerSecond
from keras_transformer.data import Epochs, read_pairs
from keras_transformer.finished_run import read_model
from keras_transformer.translator import Translator
from keras_transformer.wording import counted
from training.command_line.errors import InputError
from training.command_line.running import FULL_DISK, import_tensorflow
from training.devices.base import Devices
from training.runs.checkpoints import LOGGER, restore_latest
from training.runs.compiled_model import compiled_model, number_formats
from training.runs.early_stopping import early_end, is_over, seconds_left
from training.runs.files import replacing
from training.runs.final_weights import save_model, set_final_weights
from training.runs.folder import START, RunFolder
from training.runs.progress import SaveProgress, StopRequest
from training.runs.progress_display import ProgressBar, ProgressLines
from training.runs.record import RunRecord, with_sub_words_of
from training.runs.samples import SampleTranslations
from training.runs.text import shared_tokenizer, training_epochs, validation_epochs
from training.runs.validation_bleu import ValidationBleu
from training.settings import TrainingSettings


def fit(
    run: RunFolder,
    record: RunRecord,
    devices: Devices,
    tell: Callable[[str], None],
    log_seconds: float,
) -> None:
    """Trains the remaining epochs and writes model.keras; if stopped, prints what is saved.

    Args:
        run: The run folder, claimed by this process or read-only.
        record: The settings and data of the run.
        devices: The devices to train on.
        tell: Prints a line about the progress, in the chief only.
        log_seconds: Seconds between progress lines if stdout is not a terminal.
    """
    try:
        with number_formats(record.settings.dtype_policy):
            _Fitting(run, record, devices, tell).perform(log_seconds)
    except KeyboardInterrupt:
        saved, epochs = run.position_saved, record.settings.epochs
        print(
            f"\nstopped: of {counted(epochs, 'epoch')},"
            f" {saved.in_words(record.settings.accumulation_steps)}"
            f" {'is' if saved == (1, 0) else 'are'} saved in {run.path}. Run the same command"
            " again to resume.",
            file=sys.stderr,
        )
        raise


class _Fitting:
    """The parts needed to fit a run's model: tokenizer, model, text, and where to start."""

    def __init__(
        self, run: RunFolder, record: RunRecord, devices: Devices, tell: Callable[[str], None]
    ):
        self.run, self.record, self.devices, self.tell = run, record, devices, tell
        self.settings = settings = record.settings
        if _has_tensorflow():
            import_tensorflow()
        # Seed first: seeding destroys the tokenizer's resources inside TensorFlow.
        keras.utils.set_random_seed(settings.seed)
        tell("making the tokenizer")
        self.tokenizer = shared_tokenizer(run, settings, devices)
        tell(f"tokenizer: {self.tokenizer.vocabulary_size:,} sub-words")
        tell("building the model")
        with devices.scope():
            jit_compile = devices.compiles(settings)
            self.model = compiled_model(with_sub_words_of(self.tokenizer, settings), jit_compile)
            devices.equip(self.model)
            self.progress = restore_latest(run, self.model, devices.from_chief)
        if settings.initial_run is not None and self.progress.position == START:
            set_initial_weights(self.model, RunFolder(settings.initial_run))
        devices.started(self.model)
        tell(f"model: {self.model.count_params():,} parameters")
        tell("making batches of the text")
        self.epochs = training_epochs(settings, self.tokenizer)
        self.validation = devices.validation_feed(validation_epochs(settings, self.tokenizer))

    def perform(self, log_seconds: float) -> None:
        # Nothing is written before this, so that a failed start does not bind the folder to its
        # settings. Metrics come first: without their last line the run counts as unfinished.
        self._drop_metrics_of_epochs_to_repeat()
        write_beginning(self.run, self.record.with_tokenizer(self.tokenizer), self.tokenizer)
        if self.devices.is_chief:
            self._announce()
        with faults_named(self.epochs, self.run.logs_path):
            self._fit(log_seconds)
        reason = early_end(self.run.read_metrics(), self.settings)
        if reason is not None:
            self.tell(reason)
        self._finish()

    def _drop_metrics_of_epochs_to_repeat(self) -> None:
        metrics, epochs_done = self.run.read_metrics(), self.progress.position.epoch
        kept = [line for line in metrics if line.get("epoch", epochs_done + 1) <= epochs_done]
        if kept != metrics:
            self.run.write_metrics(kept)

    def _announce(self) -> None:
        num_parts, position = self.settings.accumulation_steps, self.progress.position
        warning = short_warmup(self.settings, len(self.epochs) // num_parts)
        if warning is not None:
            LOGGER.warning("%s", warning)
        if position > START:
            self.tell(f"resuming after {position.in_words(num_parts)}")
        self.tell("training: the first update builds the graph, which may take a minute")

    def _fit(self, log_seconds: float) -> None:
        """Trains the rest of an interrupted epoch, then whole epochs."""
        stop_request = StopRequest()
        save_progress = SaveProgress(
            self.run, self.settings, self.progress, stop_request, self.devices
        )
        displays = self._displays(log_seconds) if self.devices.is_chief else []
        with stop_request.listening(), self._observers() as observers:
            callbacks = [*observers, save_progress, *displays]
            epoch, batch = self.progress.position
            if batch:
                # Creates the metrics, which SaveProgress then sets.
                self.model.evaluate(self.validation.data, steps=1, verbose=0)
                self._fit_epochs(callbacks, epoch, epoch + 1, batch)
                epoch += 1
            if not self.devices.from_chief(is_over(self.run.read_metrics(), self.settings)):
                self._fit_epochs(callbacks, epoch, self.settings.epochs)

    def _fit_epochs(self, callbacks, first: int, last: int, batch: int = 0) -> None:
        feed = self.devices.training_feed(self.epochs, first, batch)
        verbose = 1 if _is_on_terminal() else 2
        self.model.fit(
            feed.data,
            steps_per_epoch=feed.steps,
            validation_data=self.validation.data,
            validation_steps=self.validation.steps,
            initial_epoch=first,
            epochs=last,
            callbacks=callbacks,
            shuffle=False,  # the batches are already shuffled, anew in each epoch
            verbose=verbose if self.devices.is_chief else 0,
        )

    def _displays(self, log_seconds: float) -> list[keras.callbacks.Callback]:
        """Returns the callbacks that show progress: a bar on a terminal, lines elsewhere."""
        settings, num_parts = self.settings, self.settings.accumulation_steps
        bar = ProgressBar(num_parts)
        if _is_on_terminal():
            return [bar]
        most_seconds = seconds_left(self.run.read_metrics(), settings.max_minutes)
        lines = ProgressLines(
            log_seconds,
            epochs=settings.epochs,
            num_batches=len(self.epochs) // num_parts,
            num_parts=num_parts,
            first=self.progress.position,
            most_seconds=most_seconds - self.progress.seconds,
        )
        return [bar, lines]

    @contextlib.contextmanager
    def _observers(self) -> Iterator[list[keras.callbacks.Callback]]:
        """Yields the callbacks that measure and show training, in order; closes them at the end."""
        observers = [TokensPerSecond(), GradientNorm()]
        with contextlib.ExitStack() as stack:
            if self._translator is not None:
                text = read_pairs(*self.settings.validation_files())
                samples = SampleTranslations(
                    self._translator, *text, self.run.logs_path / "samples"
                )
                stack.enter_context(contextlib.closing(samples))
                observers += [*([self._bleu] if self._bleu else []), samples]
            if self.settings.ema_decay is not None:
                observers.append(stack.enter_context(contextlib.closing(AveragedWeights())))
            # Callbacks after AveragedWeights see the weights that training continues with.
            if self.devices.is_chief and _has_tensorflow():
                logs = str(self.run.logs_path)
                observers.append(
                    keras.callbacks.TensorBoard(logs, write_graph=False, profile_batch=0)
                )
            yield observers

    @functools.cached_property
    def _translator(self) -> Translator | None:
        """Greedy search with the model's current weights; None if this process cannot search."""
        if not (self.devices.is_chief and self.devices.chief_can_search and _has_tensorflow()):
            return None
        limit = self.settings.max_source_tokens
        return Translator(self.model, self.tokenizer, beam_size=1, max_source_tokens=limit)

    @functools.cached_property
    def _bleu(self) -> ValidationBleu | None:
        if self._translator is None or not self.settings.validation_bleu:
            return None
        text = read_pairs(*self.settings.validation_files())
        return ValidationBleu(self._translator, *text, self.settings.bleu_tokenizer)

    def _measure(self) -> dict[str, float]:
        """Measures the model on the validation text; returns the same numbers in all workers."""
        measured = self.model.evaluate(
            self.validation.data, steps=self.validation.steps, verbose=0, return_dict=True
        )
        numbers = {f"val_{name}": float(value) for name, value in measured.items()}
        return self.devices.from_chief(numbers | (self._bleu.measure() if self._bleu else {}))

    def _finish(self) -> None:
        """Chooses the final weights, records their results, and writes model.keras."""
        run = self.run
        choice = set_final_weights(
            run, self.settings, self.model, self._measure, self.devices.from_chief
        )
        if not self.devices.is_chief:
            return
        with self.devices.apart():
            save_model(run, self.model)
        run.trained_model_path.unlink(missing_ok=True)  # from an earlier end of this run
        final = {"final": True, "epochs": choice.kept.epochs, "num_pairs": self.epochs.num_pairs}
        run.write_metrics([*run.read_metrics(), final | choice.kept.numbers])
        run.write_checksums()
        print(choice.in_words(self.settings.monitor))


def set_initial_weights(model: keras.Model, initial_run: RunFolder) -> None:
    """Assigns the weights of a finished run to the model.

    Raises:
        InputError: If that run's model has a different size.
    """
    initial = read_model(initial_run.model_path)
    shapes = [weight.shape for weight in model.weights]
    if shapes != [weight.shape for weight in initial.weights]:
        raise InputError(
            f"{initial_run.path}: the initial run must hold a model of the same size. Received:"
            f" {initial.count_params():,} parameters there, {model.count_params():,} here. Copy"
            " the model's settings from that run's config.yaml."
        )
    model.set_weights(initial.get_weights())


def write_beginning(run: RunFolder, record: RunRecord, tokenizer) -> None:
    """Writes the record and the tokenizer of a new run, or the raised limits of an existing one."""
    if run.read_only:
        return
    if run.tokenizer_path.exists():
        earlier = run.read_record()
        if record.raised_limits(earlier):
            asked_for = record.asked_for | earlier.asked_for  # either may be asked for again
            run.write_record(dataclasses.replace(record, asked_for=asked_for))
        return
    run.write_record(record)
    with replacing(run.tokenizer_path) as temporary:
        tokenizer.save(temporary)


def short_warmup(settings: TrainingSettings, num_batches: int) -> str | None:
    """Returns a warning if training with `num_batches` per epoch ends during warm-up, else None."""
    updates, warmup_steps = settings.epochs * num_batches, settings.warmup_steps
    if updates >= warmup_steps:
        return None
    return (
        "warning: training would end during its warm-up and hardly learn: it has"
        f" {counted(updates, 'update')} ({counted(settings.epochs, 'epoch')} of"
        f" {counted(num_batches, 'batch', 'batches')}), and the learning rate rises until update"
        f" {warmup_steps:,} (warmup_steps). Choose warmup_steps={max(1, updates // 4)}"
        f" with peak_learning_rate={settings.highest_rate:.2g} (the current peak), more epochs, or"
        " a smaller batch_tokens."
    )


@contextlib.contextmanager
def faults_named(epochs: Epochs, logs_path: Path) -> Iterator[None]:
    """Turns TensorFlow's errors back into errors in the text or in TensorBoard's files."""
    if not _has_tensorflow():
        yield
        return
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        if epochs.fault is not None:
            raise epochs.fault from error
        for number in FULL_DISK:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(logs_path)) from error
        raise


def _is_on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _has_tensorflow() -> bool:
    """Whether TensorFlow is installed, which TensorBoard's callback needs on any backend."""
    return importlib.util.find_spec("tensorflow") is not None
