"""Training, from settings to a finished run folder."""

import contextlib
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from training.command_line.backend import backend_name
from training.command_line.errors import InputError
from training.command_line.running import FULL_DISK, import_tensorflow
from training.devices.base import Devices, Feed
from training.devices.opening import Strategy, open_devices
from training.devices.team import Team
from training.runs.bleu_tokenizer import check_bleu_tokenizer, warn_if_unspaced
from training.runs.folder import Position, RunFolder, RunRecord, claim, replacing
from training.runs.text import (
    check_start,
    check_text,
    shared_tokenizer,
    training_epochs,
    validation_epochs,
    validation_references,
)
from training.settings import (
    TrainingSettings,
    make_settings,
)

if TYPE_CHECKING:
    import keras

    from keras_transformer.data import Epochs
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer
    from keras_transformer.translator import Translator
    from training.runs.checkpoints import Progress
    from training.runs.validation_bleu import ValidationBleu


def train(
    settings: TrainingSettings,
    output: str,
    *,
    overwrite: bool = False,
    strategy: Strategy = "one_device",
    wait_minutes: float = 10.0,
    log_seconds: float = 30.0,
) -> None:
    """Trains, resumes or continues, up to a finished run folder.

    Any thread may call it; only in the main one do Ctrl-C and SIGTERM stop it cleanly.

    Args:
        settings: What to train.
        output: The run folder.
        overwrite: Whether another run that is there may be replaced.
        strategy: The devices to train on.
        wait_minutes: How long to wait for other workers; above 0.
        log_seconds: Seconds between lines about the progress, where stdout is no terminal; above 0.

    Raises:
        InputError: If the data, the folder or the devices do not allow it, or a worker did not
            come or was lost.
    """
    check_bleu_tokenizer(settings.bleu_tokenizer)
    team = None
    if strategy == "multi_worker":
        team = Team.of_environment(backend_name())
        print(team.in_words(), file=sys.stderr, flush=True)
    tell = _tell if team is None or team.is_chief else _keep_quiet
    tell("reading the text")
    if not RunFolder(output).tokenizer_path.exists():  # a run that is resumed has its own
        check_start(settings)
    check_text(settings)
    record = RunRecord.of(settings)
    if team is not None:
        team.gather(wait_minutes)
    with open_devices(strategy, team) as devices:
        if strategy != "one_device":
            tell(f"{strategy}: {devices.in_words()}")
        devices.check(settings)
        if settings.validation_bleu and devices.is_chief:
            warn_if_unspaced(validation_references(settings), settings.bleu_tokenizer)
        with _joined(devices, output, record, overwrite) as run, _resumable(run, settings):
            if devices.from_chief(_has_to_train(run, record)):
                from training.runs.compiled_model import number_formats

                with number_formats(settings.dtype_policy):
                    _train_model(run, record, devices, tell, log_seconds)
        tell(f"finished: {output}")


def _tell(line: str) -> None:
    print(line, flush=True)


def _keep_quiet(line: str) -> None:
    """Takes the place of `_tell` in workers that are not the chief."""


def _has_to_train(run: RunFolder, record: RunRecord) -> bool:
    return not run.is_finished or bool(record.raised_limits(run.read_record()))


@contextlib.contextmanager
def _joined(
    devices: Devices, output: str, record: RunRecord, overwrite: bool
) -> Iterator[RunFolder]:
    """The run folder: the chief holds it, other workers read it.

    Raises:
        InputError: As `claim` does, in all workers; or if a worker was given other settings.
    """
    with contextlib.ExitStack() as stack:
        run = complaint = None
        if devices.is_chief:
            try:
                run = stack.enter_context(claim(output, record, overwrite=overwrite))
            except InputError as error:
                complaint = str(error)
        told = [run and str(run.path), complaint, dataclasses.asdict(record)]
        path, complaint, chiefs = devices.from_chief(told)
        if complaint:
            raise InputError(complaint)
        earlier = RunRecord(make_settings(chiefs["settings"]), chiefs["data_sha256"])
        if record.differences(earlier):
            raise InputError(
                "All workers must be given the same settings and data. Received:"
                f" {'; '.join(record.differences(earlier))}, as the first worker has it and as this"
                " one has it. Give them all the same."
            )
        yield run or RunFolder(path, read_only=True)
        devices.from_chief(None)  # nobody leaves before the chief has written the last file


def _train_model(
    run: RunFolder,
    record: RunRecord,
    devices: Devices,
    tell: Callable[[str], None],
    log_seconds: float,
) -> None:
    import keras

    from training.runs.checkpoints import START, restore_latest
    from training.runs.compiled_model import compiled_model
    from training.runs.progress import cut_metrics, early_end

    settings = record.settings
    if _has_tensorflow():
        import_tensorflow()
    # Seeding destroys the tokenizer's resources inside TensorFlow, so it comes first.
    keras.utils.set_random_seed(settings.seed)
    tell("making the tokenizer")
    tokenizer = shared_tokenizer(run, settings, devices)
    tell(f"tokenizer: {tokenizer.vocabulary_size:,} sub-words")
    tell("building the model")
    with devices.scope():
        model = compiled_model(settings, tokenizer.vocabulary_size, devices.compiles(settings))
        devices.equip(model)
        progress = restore_latest(run, model, devices.from_chief)
    if settings.initial_run is not None and progress.position == START:
        _set_initial_weights(model, RunFolder(settings.initial_run))
    devices.started(model)
    tell(f"model: {model.count_params():,} parameters")
    tell("making batches of the text")
    epochs = training_epochs(settings, tokenizer)
    validation = devices.validation_feed(validation_epochs(settings, tokenizer))
    # Only now: a start that fails leaves no folder that insists on its settings. The metrics first:
    # without its last line, a run is not finished, and the command can be run again.
    cut_metrics(run, progress.position.epoch)
    _write_beginning(run, record, tokenizer)
    if devices.is_chief:
        _announce(settings, epochs, progress.position)
    with _faults_are_named(run, epochs):
        _fit(run, settings, model, tokenizer, epochs, validation, progress, devices, log_seconds)
    reason = early_end(run.read_metrics(), settings)
    if reason is not None:
        tell(reason)
    _finish(run, settings, model, tokenizer, epochs, validation, devices)


def _announce(settings: TrainingSettings, epochs: "Epochs", position: Position) -> None:
    from training.runs.checkpoints import LOGGER
    from training.runs.progress import short_warmup

    num_parts = settings.accumulation_steps
    warning = short_warmup(settings, len(epochs) // num_parts)
    if warning is not None:
        LOGGER.warning("%s", warning)
    if position > (0, 0):
        _tell(f"resuming after {position.in_words(num_parts)}")
    _tell("training: the first update builds the graph, which may take a minute")


def _set_initial_weights(model: "keras.Model", initial_run: RunFolder) -> None:
    """Gives the model the weights of a finished run.

    Raises:
        InputError: If that run's model is of another size.
    """
    import training.baselines  # noqa: F401  registers their classes
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
    if run.read_only:
        return
    new = record.with_tokenizer(tokenizer)
    if run.tokenizer_path.exists():
        earlier = run.read_record()
        if record.raised_limits(earlier):
            asked_for = new.asked_for | earlier.asked_for  # both may be asked for again
            run.write_record(dataclasses.replace(new, asked_for=asked_for))
        return
    run.write_record(new)
    with replacing(run.tokenizer_path) as temporary:
        tokenizer.save(temporary)


def _fit(
    run: RunFolder,
    settings: TrainingSettings,
    model,
    tokenizer: "SubwordTokenizer",
    epochs: "Epochs",
    validation: Feed,
    progress: "Progress",
    devices: Devices,
    log_seconds: float,
) -> None:
    """Trains from where `progress` stands: first the rest of its epoch, then whole ones."""
    from training.runs.progress import SaveProgress, StopRequest, is_over

    displays = _displays(run, settings, epochs, progress, log_seconds) if devices.is_chief else []
    stop_request = StopRequest()
    save_progress = SaveProgress(run, settings, progress, stop_request, devices)
    with (
        stop_request.listening(),
        _observers(run, settings, model, tokenizer, devices) as observers,
    ):

        def fit(feed, first_epoch, last_epoch):
            model.fit(
                feed.data,
                steps_per_epoch=feed.steps,
                validation_data=validation.data,
                validation_steps=validation.steps,
                initial_epoch=first_epoch,
                epochs=last_epoch,
                callbacks=[*observers, save_progress, *displays],
                shuffle=False,  # the batches bring their own order, new in each epoch
                verbose=(1 if _is_on_terminal() else 2) if devices.is_chief else 0,
            )

        epoch, batch = progress.position
        if batch:
            # Makes the metrics, which are set then.
            model.evaluate(validation.data, steps=1, verbose=0)
            fit(devices.training_feed(epochs, epoch, batch), epoch, epoch + 1)
            epoch += 1
        if not devices.from_chief(is_over(run.read_metrics(), settings)):
            fit(devices.training_feed(epochs, epoch), epoch, settings.epochs)


def _displays(
    run: RunFolder,
    settings: TrainingSettings,
    epochs: "Epochs",
    progress: "Progress",
    log_seconds: float,
) -> list["keras.callbacks.Callback"]:
    """Callbacks that show the progress: a bar on a terminal, lines elsewhere."""
    from training.runs.progress import seconds_left
    from training.runs.progress_display import ProgressBar, ProgressLines

    num_parts = settings.accumulation_steps
    bar = ProgressBar(num_parts)
    if _is_on_terminal():
        return [bar]
    lines = ProgressLines(
        log_seconds,
        epochs=settings.epochs,
        num_batches=len(epochs) // num_parts,
        num_parts=num_parts,
        first=progress.position,
        most_seconds=seconds_left(run.read_metrics(), settings.max_minutes) - progress.seconds,
    )
    return [bar, lines]


def _is_on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


@contextlib.contextmanager
def _observers(
    run: RunFolder,
    settings: TrainingSettings,
    model,
    tokenizer: "SubwordTokenizer",
    devices: Devices,
) -> Iterator[list["keras.callbacks.Callback"]]:
    """The callbacks that measure a training and show it, in their order; closed in the end."""
    import keras

    from keras_transformer.callbacks import AveragedWeights, GradientNorm, TokensPerSecond
    from keras_transformer.data import read_pairs
    from training.runs.samples import SampleTranslations

    observers = [TokensPerSecond(), GradientNorm()]
    shows = devices.is_chief and _has_tensorflow()
    with contextlib.ExitStack() as stack:
        if _can_search(devices):
            bleu = _validation_bleu(settings, model, tokenizer, devices)
            translator = bleu.translator if bleu else _greedy(settings, model, tokenizer)
            text = read_pairs(*settings.validation_files())
            samples = SampleTranslations(translator, *text, run.logs_path / "samples")
            stack.enter_context(contextlib.closing(samples))
            observers += [*[bleu] * settings.validation_bleu, samples]
        if settings.ema_decay is not None:
            observers.append(stack.enter_context(contextlib.closing(AveragedWeights())))
        # Those behind see the weights that training goes on from.
        if shows:
            logs = str(run.logs_path)
            observers.append(keras.callbacks.TensorBoard(logs, write_graph=False, profile_batch=0))
        yield observers


def _validation_bleu(
    settings: TrainingSettings, model, tokenizer: "SubwordTokenizer", devices: Devices
) -> "ValidationBleu | None":
    """What scores translations of the validation text, in the process that does so if any does."""
    if not (settings.validation_bleu and _can_search(devices)):
        return None
    from keras_transformer.data import read_pairs
    from training.runs.validation_bleu import ValidationBleu

    return ValidationBleu(
        _greedy(settings, model, tokenizer),
        *read_pairs(*settings.validation_files()),
        settings.bleu_tokenizer,
    )


def _can_search(devices: Devices) -> bool:
    return devices.is_chief and devices.chief_can_search and _has_tensorflow()


def _greedy(settings: TrainingSettings, model, tokenizer: "SubwordTokenizer") -> "Translator":
    """Greedy search with the model, as it is whenever it is asked."""
    from keras_transformer.translator import Translator

    return Translator(model, tokenizer, beam_size=1, max_source_tokens=settings.max_source_tokens)


def _has_tensorflow() -> bool:
    """Whether it is installed, which TensorBoard's callback needs on other backends, too."""
    return importlib.util.find_spec("tensorflow") is not None


@contextlib.contextmanager
def _faults_are_named(run: RunFolder, epochs: "Epochs") -> Iterator[None]:
    """Turns TensorFlow's own errors back: of the text it reads, and of TensorBoard's files."""
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
                raise OSError(number, os.strerror(number), str(run.logs_path)) from error
        raise


def _finish(
    run: RunFolder,
    settings: TrainingSettings,
    model,
    tokenizer: "SubwordTokenizer",
    epochs: "Epochs",
    validation: Feed,
    devices: Devices,
) -> None:
    """Chooses the weights, notes what they reach, and writes model.keras."""
    from training.runs.final_weights import set_final_weights

    translations = _validation_bleu(settings, model, tokenizer, devices)

    def measure():
        measured = model.evaluate(
            validation.data, steps=validation.steps, verbose=0, return_dict=True
        )
        numbers = {f"val_{name}": float(value) for name, value in measured.items()}
        return devices.from_chief(numbers | (translations.measure() if translations else {}))

    choice = set_final_weights(run, settings, model, measure)
    if not devices.is_chief:
        return
    final = {"final": True, "epochs": choice.kept.epochs, "num_pairs": epochs.num_pairs}
    with devices.apart():
        save_model(run, model)
    run.trained_model_path.unlink(missing_ok=True)  # of an earlier end of this training
    run.write_metrics([*run.read_metrics(), final | choice.kept.numbers])
    print(choice.in_words(settings.monitor))


def save_model(run: RunFolder, model: "keras.Model") -> None:
    """Writes model.keras, whole or not at all.

    It is a copy that is not compiled, since the optimizer's state is twice as large as the weights.
    """
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    with replacing(run.model_path) as temporary:
        copy.save(temporary)


@contextlib.contextmanager
def _resumable(run: RunFolder, settings: TrainingSettings) -> Iterator[None]:
    """Says on a stop what is saved."""
    try:
        yield
    except KeyboardInterrupt:
        saved, epochs = run.position_saved, settings.epochs
        print(
            f"\nstopped: of {epochs} epoch{'s' * (epochs != 1)},"
            f" {saved.in_words(settings.accumulation_steps)}"
            f" {'is' if saved == (1, 0) else 'are'} saved in {run.path}. Run the same command"
            " again to resume.",
            file=sys.stderr,
        )
        raise
