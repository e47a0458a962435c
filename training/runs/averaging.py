"""Replaces the model of a finished run with the average of other epochs."""

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import training.baselines  # noqa: F401  registers these models
from keras_transformer.averaging import average_weights
from keras_transformer.finished_run import read_model
from keras_transformer.text.tokenizer_pair import load_tokenizer
from training.command_line.errors import InputError
from training.devices.base import Devices
from training.runs.checkpoints import DamagedCheckpoint
from training.runs.compiled_model import compiled_model, number_formats
from training.runs.files import file_sha256, replacing
from training.runs.final_weights import save_model
from training.runs.folder import RunFolder
from training.runs.kept_epochs import check_size_of_epoch, in_words, weights_of_epoch
from training.runs.record import RunRecord, most_ids_of, with_sub_words_of
from training.runs.text import validation_epochs


def average(run: RunFolder, epochs: Sequence[int], *, keeps_earlier: bool = True) -> None:
    """Replaces the model, and prints the validation perplexity before and after.

    Args:
        run: The run, to which no other process writes.
        epochs: The epochs to average; the run must have kept the weights of each.
        keeps_earlier: Whether to keep the model that training produced as model.trained.keras.

    Raises:
        InputError: If a checkpoint or the model cannot be read, or a file of the run has changed.
            The run is then unchanged.
    """
    run.check_unchanged()
    record = run.read_record()
    tokenizer = load_tokenizer(run.tokenizer_path, most_ids=most_ids_of(record.settings))
    settings = with_sub_words_of(tokenizer, record.settings)
    try:
        for epoch in epochs:
            check_size_of_epoch(run, settings, epoch)
        with number_formats(settings.dtype_policy):
            model = compiled_model(settings, jit_compile=False)
        weights = average_weights(weights_of_epoch(run, settings, model, epoch) for epoch in epochs)
    except DamagedCheckpoint as error:
        raise InputError(
            f"{run.path}: each checkpoint must be unchanged since training wrote it. Received:"
            f" {error}. Leave its epoch out."
        ) from error
    measure = _measure_of(record, tokenizer, model)
    metrics = run.read_metrics()
    final = next((line for line in metrics if line.get("final")), {"final": True})
    model.set_weights(read_model(run.model_path).get_weights())
    _report("before", final.get("epochs"), measure())
    model.set_weights(weights)
    numbers = measure()
    if keeps_earlier and not run.trained_model_path.exists():
        with replacing(run.trained_model_path) as temporary:
            shutil.copyfile(run.model_path, temporary)
    save_model(run, model)
    about = {name: value for name, value in final.items() if not name.startswith("val_")}
    lines = [line for line in metrics if "epoch" in line]
    run.write_metrics([*lines, about | {"epochs": [*epochs]} | numbers])
    run.write_checksums()
    _report("now", epochs, numbers)


def _measure_of(record: RunRecord, tokenizer, model) -> Callable[[], dict[str, float]]:
    """Returns a function that validates the model; it returns {} if the text is gone or changed."""
    settings, names = record.settings, ("validation_source", "validation_target")
    try:
        is_there = all(
            file_sha256(getattr(settings, name)) == record.data_sha256[name] for name in names
        )
    except OSError:
        is_there = False
    if not is_there:
        print("the validation text of the run is gone or has changed, so nothing is measured")
        return dict
    validation = Devices().validation_feed(validation_epochs(settings, tokenizer))

    def measure():
        measured = model.evaluate(validation.data, verbose=0, return_dict=True)
        return {f"val_{name}": float(value) for name, value in measured.items()}

    return measure


def _report(when: str, epochs: Sequence[int] | None, numbers: dict[str, Any]) -> None:
    what = in_words([*epochs]) if epochs else "epochs that metrics.jsonl does not name"
    measured = f": validation perplexity {numbers['val_perplexity']:.3f}" if numbers else ""
    print(f"{when}: weights of {what}{measured}")
