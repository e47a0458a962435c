"""Loads one version of a SavedModel: its signatures, and functions that run them.

Needs TensorFlow, and TensorFlow Text for its ops, but none of this project's model code.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from training.serving.predict import DEFAULT_SIGNATURE, declared_shape

FIRST_TEXT = b"one"

# TensorFlow Serving reads no more requests either.
MOST_WARMUP_REQUESTS = 1000
MOST_WARMUP_BYTES = 16 * 2**20


@dataclass(eq=False)
class LoadedVersion:
    """A version that is ready to run.

    Attributes:
        number: Its number.
        signature_defs: SignatureDef by name.
        num_running: The number of requests that use it now.
    """

    number: int
    signature_defs: dict
    num_running: int = 0
    _runs: dict = field(default_factory=dict)

    def run_of(self, signature_name: str) -> Callable[[dict], dict]:
        """Returns the function that runs a signature: from inputs to outputs, arrays by name."""
        return self._runs[signature_name]

    def rows_are_independent(self, signature_name: str) -> bool:
        """Whether rows of several requests may run together and be split again.

        They may if the batch is the first axis of all inputs and outputs, and no output has another
        axis of variable size: it would be as long as the longest row of any request.
        """
        signature = self.signature_defs[signature_name]
        inputs = [declared_shape(info) for info in signature.inputs.values()]
        outputs = [declared_shape(info) for info in signature.outputs.values()]
        return all(shape and shape[0] == -1 for shape in inputs + outputs) and not any(
            -1 in shape[1:] for shape in outputs
        )

    def run_first_requests(self, path: str | os.PathLike) -> None:
        """Runs the export's warm-up requests, and each signature once.

        A signature's first call takes seconds, because TensorFlow then optimizes its graph.
        """
        for signature_name, inputs in exported_requests(path):
            if signature_name in self._runs:
                self._runs[signature_name](inputs)
        for signature_name, inputs in self._one_text_each():
            self._runs[signature_name](inputs)

    def _one_text_each(self) -> Iterator[tuple[str, dict]]:
        """Yields one row of text for each signature whose inputs are all lists of texts."""
        from tensorflow.core.framework import types_pb2

        for name in self._runs:
            inputs = self.signature_defs[name].inputs
            if all(
                info.dtype == types_pb2.DT_STRING and declared_shape(info) == [-1]
                for info in inputs.values()
            ):
                yield name, {key: np.array([FIRST_TEXT], object) for key in inputs}


def load_version(path: str | os.PathLike, number: int) -> LoadedVersion:
    """Loads the version in a folder, and runs its first requests.

    Raises:
        Exception: Many kinds, from TensorFlow, if the folder is not a complete SavedModel; an
            InputError if a file is not as checksums.json lists it.
    """
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the SentencePiece ops

    from keras_transformer.checksums import check_export
    from keras_transformer.quiet import without_information

    check_export(path)
    signature_defs = _signature_defs(path)
    with without_information():
        runs = {
            name: partial(_run, function, dict(signature_defs[name].inputs))
            for name, function in tf.saved_model.load(os.fspath(path)).signatures.items()
            if name in signature_defs
        }
        version = LoadedVersion(number, signature_defs, _runs=runs)
        version.run_first_requests(path)
    return version


def exported_requests(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields the signature and inputs of each warm-up request in an exported version.

    TensorFlow Serving also runs them, before a version becomes available.

    Raises:
        InputError: If the file is a link out of the folder.
        ValueError: If a request is damaged, or the file is larger than TensorFlow Serving allows.
    """
    from google.protobuf.message import DecodeError

    from keras_transformer.checksums import refuse_link_out
    from keras_transformer.export.prediction_log import WARMUP_FILE, prediction_log_class

    file = Path(path) / WARMUP_FILE
    refuse_link_out(Path(path), WARMUP_FILE)
    if not file.is_file():
        return
    for record in _records(file):
        try:
            log = prediction_log_class().FromString(record)
            request = log.predict_log.request
            inputs = {item.key: _array(item.value) for item in request.inputs}
        except (DecodeError, ValueError) as error:
            raise ValueError(
                f"{file} must hold PredictionLog messages. Received: a damaged message. Export the"
                " version again."
            ) from error
        if log.HasField("predict_log"):
            yield request.model_spec.signature_name or DEFAULT_SIGNATURE, inputs


def _records(file: Path) -> Iterator[bytes]:
    """Yields the records of a small TFRecord file.

    TensorFlow's own reader would take whatever memory a record's length claims. The checksums of
    the records are not compared: checksums.json covers the whole file.
    """
    with open(file, "rb") as opened:
        content = opened.read(MOST_WARMUP_BYTES + 1)
    place, count = 0, 0
    while place < len(content):
        size = int.from_bytes(content[place : place + 8], "little")
        start, place = place + 12, place + 12 + size + 4  # after the length and its checksum
        count += 1
        if place > len(content) or len(content) > MOST_WARMUP_BYTES or count > MOST_WARMUP_REQUESTS:
            raise ValueError(
                f"{file} must hold at most {MOST_WARMUP_REQUESTS:,} whole requests in"
                f" {MOST_WARMUP_BYTES:,} bytes. Received: other content. Export the version again."
            )
        yield content[start : start + size]


def _array(serialized: bytes) -> np.ndarray:
    """Returns the array in a TensorProto, of at most as many values as the message has bytes."""
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    tensor = TensorProto.FromString(serialized)
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    if min(sizes, default=0) < 0 or math.prod(sizes) > len(serialized):
        raise ValueError("A tensor's shape must fit its values.")
    try:
        return tf.make_ndarray(tensor)
    except (TypeError, IndexError, KeyError) as error:
        raise ValueError("A tensor's values must fit its type.") from error


def _run(function, infos: dict, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import tensorflow as tf

    tensors = {
        name: tf.constant(array, tf.dtypes.as_dtype(infos[name].dtype), array.shape)
        for name, array in inputs.items()
    }
    return {name: np.asarray(value.numpy()) for name, value in function(**tensors).items()}


def _signature_defs(path) -> dict:
    """Returns the SignatureDefs by name, as TensorFlow Serving reports them."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((Path(path) / "saved_model.pb").read_bytes())
    for meta_graph in model.meta_graphs:
        if "serve" in meta_graph.meta_info_def.tags:
            # Copies, which do not keep the graph in memory.
            return {
                name: type(found).FromString(found.SerializeToString())
                for name, found in meta_graph.signature_def.items()
            }
    raise ValueError(
        "A SavedModel must have a graph with the tag serve. Received: no such graph. Export the"
        " version again."
    )
