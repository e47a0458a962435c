"""Exports a translator as a SavedModel, ready for TensorFlow Serving."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_transformer.checksums import refuse_link_out, write_export_checksums
from keras_transformer.errors import InputError
from keras_transformer.export.model_card import write_model_card
from keras_transformer.export.serving_warmup import write_warmup_requests
from keras_transformer.export.verification import verify_saved_model
from keras_transformer.translator import Translator

_LOCK = ".lock"
_RECORD = "versions.json"
_MOST_RECORD_BYTES = 1000
_LARGEST_VERSION = 2**63 - 1  # for TensorFlow Serving, an int64
_UNFINISHED = ".unfinished"


def export_saved_model(
    translator: Translator,
    directory: str | os.PathLike[str],
    *,
    verify_texts: Sequence[str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> str:
    """Writes the next version of a SavedModel: text in, translations out, nothing else needed.

    The graph holds tokenizer, search and weights, and uses only TensorFlow's own ops and the
    SentencePiece ops that TensorFlow Serving links. `served_functions` describes its signatures.
    The version also holds `README.md`, `model.json`, requests that warm up TensorFlow Serving, and
    `checksums.json`, the SHA-256 of every file.

    A version appears whole or not at all. Its number follows the highest ever written there, even
    if that version has been deleted.

    Args:
        translator: The translator to export, with its search, max_source_tokens and batch_tokens.
            In 8 bits its weights are constants of the graph: once in the file, and in memory once
            for each signature in use.
        directory: saved_models/NAME; the version becomes a folder in it.
        verify_texts: Texts for comparing the version with the translator before it appears; see
            `verify_saved_model`. None skips the comparison.
        about: JSON entries for README.md and model.json: `description`, a text such as "English
            to German"; `training`, with `num_pairs`; `evaluation`, as training.evaluate writes it.

    Returns:
        The path of the version.

    Raises:
        InputError: The directory cannot hold versions or has links out of it, another export is
            writing there, or the version gives different answers than the translator.

    Example:
        >>> export_saved_model(translator, "saved_models/en-de")
        'saved_models/en-de/1'
    """
    directory = Path(directory)
    for name in (_LOCK, _RECORD, _UNFINISHED, _RECORD + _UNFINISHED):
        refuse_link_out(directory, name)
    with _only_writer(directory):
        version = _highest_version(directory) + 1
        unfinished = directory / _UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)  # left by an export that was killed
        try:
            _write(translator, unfinished, directory.resolve().name, version, about or {})
            if verify_texts is not None:
                verify_saved_model(unfinished, translator, verify_texts)
            _flush(unfinished)
            _record_version(directory, version)
            unfinished.rename(directory / str(version))
            _flush_file(directory)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return str(directory / str(version))


def _write(
    translator: Translator, folder: Path, name: str, version: int, about: Mapping[str, Any]
) -> None:
    """Writes all files of a version.

    The saved module holds the tokenizer and the TensorFlow variables that the signatures use. The
    signatures refer to the Keras model by closure: saving the model too would give each variable,
    which Keras wraps, a second handle that only Python's loader can fill.
    """
    import tensorflow as tf

    from keras_transformer.export.signatures import served_functions

    signatures = served_functions(translator)
    module = tf.Module()
    used = {id(v): v for function in signatures.values() for v in function.graph.variables}
    module.weights = list(used.values())
    module.tokenizer = translator.tokenizer.trackables
    tf.saved_model.save(module, str(folder), signatures=signatures)
    write_warmup_requests(folder, name, list(signatures), translator)
    write_model_card(folder, name, version, translator, signatures, about)
    write_export_checksums(folder)


def _flush(folder: Path) -> None:
    """Flushes all files in a folder to disk, before a rename marks it as whole."""
    for path, _, names in os.walk(folder):
        for name in (*names, "."):
            _flush_file(Path(path) / name)


def _flush_file(path: Path) -> None:
    """Flushes the content of a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _only_writer(directory: Path) -> Iterator[None]:
    """Locks the directory, and refuses a second export."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock_path = directory / _LOCK
        lock_path.touch()
    except OSError as error:
        raise InputError(
            f"{directory}: must be a writable folder. Received: {error.strerror}. Choose another"
            " folder."
        ) from error
    with lock_path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{directory}: only one export may write there at a time. Received: another export"
                " is running. Wait for it."
            ) from error
        yield


def _highest_version(directory: Path) -> int:
    """Returns the highest version that is or ever was in the directory; 0 for none."""
    names = [path.name for path in directory.iterdir()]
    versions = [int(name) for name in names if name.isascii() and name.isdecimal()]
    record = directory / _RECORD
    if record.is_file():
        try:
            with open(record, "rb") as file:
                highest = json.loads(file.read(_MOST_RECORD_BYTES))["highest_version"]
            if type(highest) is not int or not 0 <= highest < _LARGEST_VERSION:
                raise ValueError(f"highest_version={highest!r:.50}")
            versions.append(highest)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{record}: must hold the highest version. Received: other content. Write"
                ' {"highest_version": N} with the highest N that was ever served.'
            ) from error
    return max(versions, default=0)


def _record_version(directory: Path, version: int) -> None:
    unfinished = directory / (_RECORD + _UNFINISHED)
    unfinished.write_text(json.dumps({"highest_version": version}) + "\n")
    _flush_file(unfinished)
    unfinished.replace(directory / _RECORD)
