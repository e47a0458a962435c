"""The requests that an export carries to be warmed up with.

TensorFlow Serving reads them from `assets.extra/tf_serving_warmup_requests`: a file of TFRecords,
each a PredictionLog. That message comes with the package tensorflow-serving-api, which nothing here
needs otherwise; so the four fields that matter are read by their numbers.

Source: tensorflow_serving/apis/prediction_log.proto, predict.proto and model.proto.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PLACE = Path("assets.extra") / "tf_serving_warmup_requests"

_PREDICT_LOG = 6  # of PredictionLog
_REQUEST = 1  # of PredictLog
_MODEL_SPEC, _INPUTS = 1, 2  # of PredictRequest
_SIGNATURE_NAME = 3  # of ModelSpec
_KEY, _VALUE = 1, 2  # of an entry of a map


def warm_up_requests(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields the signature and the inputs of each request; nothing if the file is not there.

    Args:
        path: The folder of a version.
    """
    import tensorflow as tf

    file = Path(path) / PLACE
    if not file.exists():
        return
    for record in tf.data.TFRecordDataset(os.fspath(file)).as_numpy_iterator():
        for log in _values(record, _PREDICT_LOG):
            for request in _values(log, _REQUEST):
                yield _signature_name(request), dict(_inputs(request))


def _signature_name(request: bytes) -> str:
    for spec in _values(request, _MODEL_SPEC):
        for name in _values(spec, _SIGNATURE_NAME):
            if name:
                return name.decode("utf-8")
    return "serving_default"


def _inputs(request: bytes) -> Iterator[tuple[str, np.ndarray]]:
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    for entry in _values(request, _INPUTS):
        [key], [value] = _values(entry, _KEY), _values(entry, _VALUE)
        yield key.decode("utf-8"), tf.make_ndarray(tensor_pb2.TensorProto.FromString(value))


def _values(message: bytes, wanted: int) -> list[bytes]:
    """What stands in a field of a message, if it holds bytes, text or messages."""
    found, place = [], 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _, place = _varint(message, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            length, place = _varint(message, place)
            if number == wanted:
                found.append(message[place : place + length])
            place += length
        else:
            raise ValueError(
                f"A warm-up request must be a PredictionLog. Received: a field of kind {kind}."
            )
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(message):
            raise ValueError("A warm-up request must be whole. Received: one that is cut off.")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
