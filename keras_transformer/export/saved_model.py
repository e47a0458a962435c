"""A translator as a SavedModel that TensorFlow Serving loads as it is."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_transformer.errors import InputError
from keras_transformer.export.model_card import write_model_card
from keras_transformer.export.serving_warmup import write_warmup_requests
from keras_transformer.export.signatures import served_functions
from keras_transformer.export.verification import verify_saved_model
from keras_transformer.translator import Translator

_RECORD = "versions.json"
_UNFINISHED = ".unfinished"


def export_saved_model(
    translator: Translator,
    directory: str | os.PathLike,
    *,
    verify_texts: Sequence[str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> str:
    """Writes the next version of a SavedModel: text in, translations out, nothing else needed.

    The tokenizer, the search and the weights are in the graph, made of TensorFlow's own ops and of
    the SentencePiece ops that TensorFlow Serving links. The version appears whole or not at all,
    and its number follows the highest that was ever written there, even if it has been deleted.

    Beside the graph stand `README.md` and `model.json`, which say what it is, and requests with
    which TensorFlow Serving warms a version up.

    Signatures: serving_default, greedy, n_best and n_best_from_prefix translate, score and
    attention tell of a pair; see `served_functions`.

    Args:
        translator: What is exported, with its search, max_source_tokens and batch_tokens. In 8
            bits its weights are constants of the graph: they are in the file once, and in memory
            once for each signature that is used.
        directory: saved_models/NAME; the version becomes a folder in it.
        verify_texts: Texts by which the version is compared to the translator before it appears,
            see `verify_saved_model`; None for no comparison.
        about: What else README.md and model.json shall say, as JSON: `description`, a text such as
            "English to German"; `training`, with `num_pairs`; `evaluation`, as training.evaluate
            writes it.

    Returns:
        The path of the version.

    Raises:
        InputError: If the directory cannot be one of versions, another export writes there now, or
            the version does not answer as the translator.

    Example:
        >>> export_saved_model(translator, "saved_models/en-de")
        'saved_models/en-de/1'
    """
    directory = Path(directory)
    with _only_writer(directory):
        version = _highest_version(directory) + 1
        unfinished = directory / _UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)  # of an export that was killed
        try:
            _write(translator, unfinished, directory.resolve().name, version, about or {})
            if verify_texts is not None:
                verify_saved_model(unfinished, translator, verify_texts)
            _flush(unfinished)
            _record_version(directory, version)
            unfinished.rename(directory / str(version))
            _flush_folder(directory)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return str(directory / str(version))


def _write(translator, folder: Path, name: str, version: int, about: Mapping[str, Any]) -> None:
    """The whole content of a version.

    The module that is saved holds the tokenizer and the TensorFlow variables that the signatures
    use, and not the Keras model, which they reach by closure. Keras wraps each variable, and saving
    both gives a second handle that only Python's loader can fill.
    """
    import tensorflow as tf

    signatures = served_functions(translator)
    module = tf.Module()
    used = {id(v): v for function in signatures.values() for v in function.graph.variables}
    module.weights = list(used.values())
    module.tokenizer = translator.tokenizer.graph_tokenizer
    tf.saved_model.save(module, str(folder), signatures=signatures)
    write_warmup_requests(folder, name, list(signatures), translator)
    write_model_card(folder, name, version, translator, signatures, about)


def _flush(folder: Path) -> None:
    """Has everything in a folder reach the disk, before its name says that it is whole."""
    for path, _, names in os.walk(folder):
        for name in names:
            with open(Path(path) / name, "rb") as file:
                os.fsync(file.fileno())
        _flush_folder(Path(path))


def _flush_folder(folder: Path) -> None:
    """Has the names in a folder reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _only_writer(directory: Path) -> Iterator[None]:
    """Keeps a second export out of the directory."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock_path = directory / ".lock"
        lock_path.touch()
    except OSError as error:
        raise InputError(
            f"{directory}: must be a folder that can be written to. Received: {error.strerror}."
            " Choose another."
        ) from error
    with lock_path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{directory}: only one export may write there at a time. Received: another is at"
                " work. Wait for it."
            ) from error
        yield


def _highest_version(directory: Path) -> int:
    """The highest version that is there or was ever written there; 0 if none was."""
    there = [int(path.name) for path in directory.iterdir() if path.name.isdecimal()]
    record = directory / _RECORD
    if record.exists():
        try:
            there.append(int(json.loads(record.read_text())["highest_version"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{record}: must hold the highest version. Received: something else. Write"
                ' {"highest_version": N} with the highest N that was ever served.'
            ) from error
    return max(there, default=0)


def _record_version(directory: Path, version: int) -> None:
    unfinished = directory / (_RECORD + _UNFINISHED)
    unfinished.write_text(json.dumps({"highest_version": version}) + "\n")
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(directory / _RECORD)
