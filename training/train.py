"""Trains a Transformer on pairs of sentences: `python -m training.train --help`."""

import contextlib
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from training.backend import BACKENDS, OPTION, backend_name
from training.command import (
    FULL_DISK,
    CommandParser,
    InputError,
    UsageError,
    import_tensorflow,
    option_name,
    parse,
    run_command,
)
from training.devices import Devices, Feed, Strategy, open_devices
from training.run_folder import Position, RunFolder, RunRecord, claim, replacing
from training.settings import (
    SETTING_NAMES,
    TrainingSettings,
    make_settings,
    make_settings_parser,
    read_settings_file,
)
from training.team import Team
from training.text import check_text, shared_tokenizer, training_epochs, validation_epochs

# What computes is imported where it is used: behind `import_tensorflow`, which keeps TensorFlow
# quiet, and only once the input has been found in order.
if TYPE_CHECKING:
    import keras

    from keras_transformer.data import Epochs
    from keras_transformer.tokenizer import SubwordTokenizer
    from training.checkpoints import Progress


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = make_settings_parser(
        "train", "Trains a Transformer on pairs of sentences; run it again to resume."
    )
    parser.add_option("output", str, None, "The run folder to write.", required=True)
    parser.add_flag("overwrite", "Replace a run that is there, once this one is done.")
    _add_device_options(parser)
    config = parse(parser, arguments).config
    from_file = None
    if config is not None:
        from_file = read_settings_file(config)
        parser.set_defaults(from_file)
    options = parse(parser, arguments)
    settings = make_settings({name: options[name] for name in SETTING_NAMES}, from_file)
    _check_backend(options.backend)
    for name in ("wait_minutes", "log_seconds"):
        if not options[name] > 0:
            raise UsageError(
                f"{option_name(name)} must be above 0. Received: {options[name]}. Leave it out, or"
                " give for example 1."
            )
    train(
        settings,
        options.output,
        overwrite=options.overwrite,
        strategy=options.strategy,
        wait_minutes=options.wait_minutes,
        log_seconds=options.log_seconds,
    )


def _add_device_options(parser: CommandParser) -> None:
    """Where to train and what to show, which are no settings: a run may be resumed elsewhere."""
    parser.add_option(
        "strategy",
        Strategy,
        "one_device",
        "Where to train: on one device; mirrored, on all GPUs of this machine; or multi_worker, on"
        " those of all machines that run this command, which the environment must name: TF_CONFIG,"
        " or with --backend jax KERAS_DISTRIBUTION_JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID."
        " All see the same --output and text. See docs/distributed.md.",
    )
    parser.add_option(
        "wait_minutes", float, 10.0, "How long multi_worker waits for workers that have not come."
    )
    parser.add_option(
        OPTION.lstrip("-"),
        Literal[BACKENDS] | None,
        None,
        "What computes; if not given, what KERAS_BACKEND says, else tensorflow.",
    )
    parser.add_option(
        "log_seconds",
        float,
        30.0,
        "Seconds between lines that tell how far the training is, where no terminal shows a bar.",
    )


def _check_backend(wanted: str | None) -> None:
    backend = backend_name()
    if wanted is not None and wanted != backend:
        raise UsageError(
            f"--backend must be given before Keras is imported. Received: --backend {wanted}, but"
            f" {backend} is loaded. Run `python -m training.train`, or set KERAS_BACKEND."
        )
    if backend not in BACKENDS:
        raise InputError(
            f"KERAS_BACKEND must be {' or '.join(BACKENDS)}. Received: {backend}. Give --backend."
        )


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

    Any thread may call it; Ctrl-C and SIGTERM are only heard in the main one.

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
    team = None
    if strategy == "multi_worker":
        team = Team.of_environment(backend_name())
        print(team.in_words(), file=sys.stderr, flush=True)
    tell = _tell if team is None or team.is_chief else _keep_quiet
    tell("reading the text")
    check_text(settings)
    record = RunRecord.of(settings)
    if team is not None:
        team.gather(wait_minutes)
    tell(f"loading {backend_name()}")
    with open_devices(strategy, team) as devices:
        if strategy != "one_device":
            tell(f"{strategy}: {devices.in_words()}")
        devices.check(settings)
        with _joined(devices, output, record, overwrite) as run, _resumable(run, settings):
            if devices.from_chief(_has_to_train(run, record)):
                _train_model(run, record, devices, tell, log_seconds)
        tell(f"finished: {output}")


def _tell(line: str) -> None:
    print(line, flush=True)


def _keep_quiet(line: str) -> None:
    """What a worker tells that is not the chief."""


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

    from training.checkpoints import START, restore_latest
    from training.compiled_model import compiled_model
    from training.progress import cut_metrics, early_end

    settings = record.settings
    if _has_tensorflow():
        import_tensorflow()
    # Seeding destroys the tokenizer's resources inside TensorFlow, so it comes first.
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(settings.dtype_policy)
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
    _finish(run, settings, model, epochs, validation, devices)


def _announce(settings: TrainingSettings, epochs: "Epochs", position: Position) -> None:
    from training.checkpoints import LOGGER
    from training.progress import short_warmup

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
    is_new = not run.tokenizer_path.exists()
    if is_new or record.raised_limits(run.read_record()):
        run.write_record(record)
    if is_new:
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
    from training.progress import SaveProgress, StopRequest, is_over

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
    """What shows how far the training is: a bar on a terminal, elsewhere lines."""
    from training.progress import seconds_left
    from training.progress_display import ProgressBar, ProgressLines

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
    from keras_transformer.translator import Translator
    from training.samples import SampleTranslations
    from training.validation_bleu import ValidationBleu

    observers = [TokensPerSecond(), GradientNorm()]
    shows = devices.is_chief and _has_tensorflow()
    with contextlib.ExitStack() as stack:
        if shows and devices.chief_can_search:
            text = read_pairs(*settings.validation_files())
            translator = Translator(
                model, tokenizer, beam_size=1, max_source_tokens=settings.max_source_tokens
            )
            samples = SampleTranslations(translator, *text, run.logs_path / "samples")
            stack.enter_context(contextlib.closing(samples))
            observers += [*[ValidationBleu(translator, *text)] * settings.validation_bleu, samples]
        if settings.ema_decay is not None:
            observers.append(stack.enter_context(contextlib.closing(AveragedWeights())))
        # Those behind see the weights that training goes on from.
        if shows:
            logs = str(run.logs_path)
            observers.append(keras.callbacks.TensorBoard(logs, write_graph=False, profile_batch=0))
        yield observers


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
    epochs: "Epochs",
    validation: Feed,
    devices: Devices,
) -> None:
    """Averages or chooses the weights, measures them, and writes model.keras."""
    from keras_transformer.averaging import average_weights
    from training.progress import epochs_wanted

    metrics = run.read_metrics()
    wanted = epochs_wanted(metrics, settings)
    averaged = []
    weights = average_weights(_readable_weights(run, model, wanted, averaged))
    for variable, array in zip(model.weights, weights, strict=True):
        variable.assign(array)
    measured = model.evaluate(validation.data, steps=validation.steps, verbose=0, return_dict=True)
    if not devices.is_chief:
        return
    final = {"final": True, "epochs": averaged, "num_pairs": epochs.num_pairs}
    final |= {f"val_{name}": float(value) for name, value in measured.items()}
    with devices.apart():
        save_model(run, model)
    run.write_metrics([*metrics, final])
    what = f"epoch{'s' * (len(averaged) > 1)} {', '.join(map(str, averaged))}"
    print(f"weights of {what}: validation perplexity {final['val_perplexity']:.3f}")


def _readable_weights(run: RunFolder, model, wanted: list[int], found: list[int]):
    """Yields the weights of the wanted epochs that are whole, and notes which; or the model's.

    Where the optimizer keeps averages of the weights, these are meant.
    """
    import keras

    from keras_transformer.averaging import averaged_variables, keeps_averages
    from training.checkpoints import LOGGER, DamagedCheckpoint, load_weights

    is_averaged = keeps_averages(model)
    for epoch in wanted:
        try:
            kind = "average" if is_averaged else "weights"
            weights = load_weights(run, model, Position(epoch, 0), kind)
        except DamagedCheckpoint as error:
            LOGGER.warning("%s; left out", error)
        else:
            found.append(epoch)
            yield weights
    if not found:
        LOGGER.warning("none of the epochs %s is left; the last one is taken", wanted)
        found.append(run.position_saved.epoch)
        variables = averaged_variables(model) if is_averaged else model.weights
        yield [keras.ops.convert_to_numpy(variable) for variable in variables]


def save_model(run: RunFolder, model: "keras.Model") -> None:
    """Writes model.keras, whole or not at all."""
    with replacing(run.model_path) as temporary:
        model.save(temporary)


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


if __name__ == "__main__":
    sys.exit(run_command(main))
