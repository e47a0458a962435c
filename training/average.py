"""Rebuilds a run's model from epochs that it kept: `python -m training.average --help`."""

import shutil
import sys
from collections.abc import Sequence
from typing import Any

from training.command_line.errors import InputError, UsageError
from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_tensorflow, run_command
from training.files import file_sha256, replacing
from training.runs.claim import locked
from training.runs.folder import RunFolder
from training.runs.kept_epochs import check_kept, in_words, kept_epochs, weights_of_epoch
from training.runs.monitor import badness
from training.runs.record import RunRecord
from training.settings import TrainingSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandParser(
        "average",
        "Averages the weights of epochs that a finished run has kept, and makes that its model. The"
        " model that training made stays beside it as model.trained.keras.",
    )
    parser.add_positional("run", "The folder of a finished run.")
    parser.add_option("epochs", int, None, "The epochs to average.", nargs="+")
    parser.add_option(
        "best", int | None, None, "Instead, how many of the best epochs by the run's `monitor`."
    )
    parser.add_threads()
    parser.add_flag("overwrite", "Do not keep the model that training made.")
    options = parse(parser, arguments)
    if (options.epochs is None) == (options.best is None):
        raise UsageError(
            "--epochs or --best must be given. Received:"
            f" {'neither' if options.epochs is None else 'both'}. Give one of them."
        )
    run = RunFolder(options.run)
    record = run.read_record()
    run.check_finished()
    with locked(run):
        _check_ended(run)
        epochs = options.epochs or best_kept(run, record.settings, options.best)
        check_kept(run, record.settings, epochs, "--epochs")
        average(run, record, sorted({*epochs}), keeps_earlier=not options.overwrite)


def _check_ended(run: RunFolder) -> None:
    """Refuses a run whose training goes on: the line about a new model would end it.

    Raises:
        InputError: If so.
    """
    if not run.is_finished:
        raise InputError(
            f"{run.path}: a training must have ended before its epochs are averaged. Received: a"
            " finished run that is being trained further. Run training.train with the same settings"
            " again to finish it."
        )


def best_kept(run: RunFolder, settings: TrainingSettings, count: int) -> list[int]:
    """The best of the epochs that are kept, the best first.

    Raises:
        InputError: If there are not so many.
    """
    kept = kept_epochs(run, settings)
    lines = [line for line in run.read_metrics() if line.get("epoch") in kept]
    if not 1 <= count <= len(lines):
        listed = ", ".join(str(line["epoch"]) for line in lines) or "none"
        raise InputError(
            f"{run.path}: --best must be 1 to {len(lines)}, the number of epochs that are kept"
            f" ({listed}). Received: {count}. Choose fewer; a training keeps more with a larger"
            " --keep-checkpoints."
        )
    lines.sort(key=lambda line: badness(line, settings.monitor))
    return [line["epoch"] for line in lines[:count]]


def average(
    run: RunFolder, record: RunRecord, epochs: Sequence[int], *, keeps_earlier: bool = True
) -> None:
    """Replaces the model of a finished run, and says what both reach on the validation text.

    Args:
        run: The run, which no other process writes.
        record: Its record.
        epochs: The epochs whose weights are averaged, all of them kept.
        keeps_earlier: Whether the model that training made is kept as model.trained.keras.

    Raises:
        InputError: If a checkpoint or the model cannot be read. The run is as before then.
    """
    import_tensorflow()
    import training.baselines  # noqa: F401  registers their classes
    from keras_transformer.averaging import average_weights
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer
    from keras_transformer.translator import read_model
    from training.runs.checkpoints import DamagedCheckpoint
    from training.runs.compiled_model import compiled_model, number_formats
    from training.runs.final_weights import save_model

    settings = record.settings
    tokenizer = SubwordTokenizer.load(run.tokenizer_path)
    with number_formats(settings.dtype_policy):
        model = compiled_model(settings, tokenizer.vocabulary_size, jit_compile=False)
    try:
        weights = average_weights(weights_of_epoch(run, settings, model, epoch) for epoch in epochs)
    except DamagedCheckpoint as error:
        raise InputError(
            f"{run.path}: each checkpoint must be as training wrote it. Received: {error}. Leave"
            " its epoch out."
        ) from error
    measure = _measure_of(record, tokenizer, model)
    metrics = run.read_metrics()
    final = next((line for line in metrics if line.get("final")), {"final": True})
    model.set_weights(read_model(run.model_path).get_weights())
    _report("before", final.get("epochs"), measure())
    model.set_weights(weights)
    numbers = measure()
    if keeps_earlier:
        _keep_trained_model(run)
    save_model(run, model)
    about = {name: value for name, value in final.items() if not name.startswith("val_")}
    lines = [line for line in metrics if "epoch" in line]
    run.write_metrics([*lines, about | {"epochs": [*epochs]} | numbers])
    _report("now", epochs, numbers)


def _measure_of(record: RunRecord, tokenizer, model):
    """A function that validates the model, or returns no numbers if the text is gone or changed."""
    from training.devices.base import Devices
    from training.runs.text import validation_epochs

    settings = record.settings
    try:
        is_there = all(
            file_sha256(path) == record.data_sha256[name]
            for name, path in zip(
                ("validation_source", "validation_target"),
                settings.validation_files(),
                strict=True,
            )
        )
    except OSError:
        is_there = False
    if not is_there:
        print("the validation text of the run is gone or has changed: nothing is measured")
        return dict
    validation = Devices().validation_feed(validation_epochs(settings, tokenizer))

    def measure() -> dict[str, float]:
        measured = model.evaluate(validation.data, verbose=0, return_dict=True)
        return {f"val_{name}": float(value) for name, value in measured.items()}

    return measure


def _keep_trained_model(run: RunFolder) -> None:
    """Keeps the model that training made; what this command made can be made again."""
    if not run.trained_model_path.exists():
        with replacing(run.trained_model_path) as temporary:
            shutil.copyfile(run.model_path, temporary)


def _report(when: str, epochs: Sequence[int] | None, numbers: dict[str, Any]) -> None:
    what = in_words([*epochs]) if epochs else "epochs that metrics.jsonl does not name"
    measured = f": validation perplexity {numbers['val_perplexity']:.3f}" if numbers else ""
    print(f"{when}: weights of {what}{measured}")


if __name__ == "__main__":
    sys.exit(run_command(main))
