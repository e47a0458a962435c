"""A translator as a SavedModel that TensorFlow Serving loads as it is."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from keras_transformer.errors import InputError
from keras_transformer.translator import Translator

_RECORD = "versions.json"
_UNFINISHED = ".unfinished"


def export_saved_model(translator: Translator, directory: str | os.PathLike) -> str:
    """Writes the next version of a SavedModel: text in, translations out, nothing else needed.

    The tokenizer, the search and the weights are in the graph, made of TensorFlow's own ops and of
    the SentencePiece ops that TensorFlow Serving links. The version appears whole or not at all,
    and its number follows the highest that was ever written there, even if it has been deleted.

    Signatures, from `text`, String (batch,), UTF-8, to `translation`, String (batch,), and `score`,
    Float (batch,):
        serving_default: beam search with the translator's beam size and length penalty.
        greedy: greedy search.

    Args:
        translator: What is exported, with its beam size, length penalty and max_source_tokens.
        directory: saved_models/NAME; the version becomes a folder in it.

    Returns:
        The path of the version.

    Raises:
        InputError: If the directory cannot be one of versions, or another export writes there now.

    Example:
        >>> export_saved_model(translator, "saved_models/en-de")
        'saved_models/en-de/1'
    """
    import tensorflow as tf

    directory = Path(directory)
    with _only_writer(directory):
        version = _highest_version(directory) + 1
        unfinished = directory / _UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)  # of an export that was killed
        try:
            module, signatures = _served_module(translator)
            tf.saved_model.save(module, str(unfinished), signatures=signatures)
            _record_version(directory, version)
            unfinished.rename(directory / str(version))
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return str(directory / str(version))


def _served_module(translator: Translator):
    """What is saved (weights and tokenizer) and its signatures, which reach the model by closure.

    The module holds the TensorFlow variables that the signatures use and not the Keras model. Keras
    wraps each variable, and saving both gives a second handle that only Python's loader can fill.
    """
    import tensorflow as tf

    text = tf.TensorSpec([None], tf.string, name="text")
    signatures = {
        name: tf.function(
            _text_to_text(translator, beam_size), input_signature=[text], autograph=False
        ).get_concrete_function()
        for name, beam_size in (("serving_default", translator.beam_size), ("greedy", 1))
    }
    module = tf.Module()
    used = {id(v): v for function in signatures.values() for v in function.graph.variables}
    module.weights = list(used.values())
    module.tokenizer = translator.tokenizer.graph_tokenizer
    return module, signatures


def _text_to_text(translator: Translator, beam_size: int):
    def serve(text):
        import tensorflow as tf

        found = translator.search(
            source_ids_in_graph(translator, text), beam_size, translator.length_penalty
        )
        translation = translator.tokenizer.detokenize(found.token_ids[:, 0])
        blank = tf.equal(tf.strings.strip(text), "")
        return {
            "translation": tf.where(blank, "", translation),
            "score": tf.where(blank, 0.0, found.scores[:, 0]),
        }

    return serve


def source_ids_in_graph(translator: Translator, text):
    """Text to the ids that the encoder reads, by TensorFlow ops alone.

    Args:
        translator: Its tokenizer and its `max_source_tokens` count.
        text: String (batch,).

    Returns:
        Int32 (batch, source_length), each row cut, with the end id, then padding.
    """
    import tensorflow as tf

    tokenizer = translator.tokenizer
    token_ids = tokenizer.tokenize(text)[:, : translator.max_source_tokens - 1]
    end = tf.fill([tf.shape(text)[0], 1], tokenizer.end_id)
    return tf.concat([token_ids, end], axis=1).to_tensor(tokenizer.padding_id)


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
    unfinished.replace(directory / _RECORD)
