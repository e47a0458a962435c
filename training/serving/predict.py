"""Converts JSON to arrays and back, as TensorFlow Serving's `:predict` does.

A request gives its tensors by row, {"instances": [...]}, or by column, {"inputs": ...}; the answer
has the same form, {"predictions": [...]} or {"outputs": ...}. Bytes that are not text are written
as {"b64": "..."}.

Source: https://www.tensorflow.org/tfx/serving/api_rest and tensorflow_serving/util/json_tensor.cc.
Deviation: a body must be UTF-8, and output bytes that are not UTF-8 become U+FFFD, so that every
answer is JSON. The real server passes both through unchanged.
"""

import base64
import binascii
import json
from dataclasses import dataclass

import numpy as np

from training.serving.errors import ServingError, invalid

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Limits:
    """Limits on one request, and on all requests together.

    Attributes:
        max_batch: Rows in a request.
        max_text_bytes: Size of each string, in UTF-8.
        max_answer_values: Numbers and strings in the answer.
        max_request_bytes: Size of the body, both as it arrives and unpacked.
        max_bytes_in_flight: Size of the bodies of all unanswered requests.
        body_seconds: Time until the whole body has arrived.
        answer_seconds: Time until the model has answered.
    """

    max_batch: int = 1000
    max_text_bytes: int = 400_000
    max_answer_values: int = 2_000_000
    max_request_bytes: int = 4 * 2**20
    max_bytes_in_flight: int = 256 * 2**20
    body_seconds: float = 30.0
    answer_seconds: float = 300.0


@dataclass(frozen=True)
class PredictRequest:
    """A `:predict` request: the content of `instances` (by row) or `inputs` (by column)."""

    signature_name: str
    by_row: bool
    values: object


def read_object(body: bytes) -> dict:
    """Returns the JSON object in a body.

    Raises:
        ServingError: If the body is anything else.
    """
    try:
        document = json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise invalid(
            "JSON Parse error: the body must be UTF-8. Received: the byte"
            f" 0x{body[error.start]:02x} at offset {error.start}. Send other bytes as"
            ' {"b64": "..."}.'
        ) from error
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 100,000 brackets
        raise invalid(
            "JSON Parse error: a number is too long or lists are nested too deeply."
        ) from error
    if not isinstance(document, dict):
        raise invalid(f"The body must be a JSON object. Received: {_kind(document)}.")
    return document


def signature_name_of(document: dict) -> str:
    """Returns the signature that a request names, by default `serving_default`."""
    name = document.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(name, str):
        raise invalid(f"'signature_name' key must be a string value. Received: {_kind(name)}.")
    return name or DEFAULT_SIGNATURE


def predict_request(document: dict) -> PredictRequest:
    """Reads the JSON of a `:predict` request.

    Raises:
        ServingError: If the request has both `instances` and `inputs`, neither, or no instances.
    """
    by_row = "instances" in document
    if by_row and "inputs" in document:
        raise invalid("A request must have one of 'inputs' or 'instances'. Received: both.")
    if not by_row and "inputs" not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    values = document["instances" if by_row else "inputs"]
    if by_row and not isinstance(values, list):
        raise invalid(f"'instances' must be a list. Received: {_kind(values)}.")
    if by_row and not values:
        raise invalid("No values in 'instances' array")
    return PredictRequest(signature_name_of(document), by_row, values)


def arrays_of(request: PredictRequest, inputs: dict, limits: Limits) -> dict[str, np.ndarray]:
    """Returns a request's values as an array for each input of a signature.

    Args:
        request: The request.
        inputs: TensorInfo by name, from the signature.
        limits: Limits on the request.

    Raises:
        ServingError: If an input is missing or unknown, or a value has the wrong type or shape.
    """
    if not inputs:
        raise invalid(f"Failed to get input map for signature: {request.signature_name}")
    to_columns = _rows_to_columns if request.by_row else _named_columns
    columns = to_columns(request.values, inputs)
    arrays = {name: _array(name, columns[name], inputs[name], limits) for name in inputs}
    for name, array in arrays.items():
        if array.ndim and len(array) > limits.max_batch:
            raise invalid(
                f"A request may hold up to {limits.max_batch:,} rows. Received: {len(array):,} of"
                f" {name}. Send them in several requests."
            )
    return arrays


def answer_of(outputs: dict[str, np.ndarray], by_row: bool, limits: Limits) -> bytes:
    """Returns the answer with these outputs, as JSON.

    Raises:
        ServingError: If the outputs cannot be split into rows, or have too many values.
    """
    num_values = sum(array.size for array in outputs.values())
    if num_values > limits.max_answer_values:
        raise invalid(
            f"An answer may hold up to {limits.max_answer_values:,} values. Received: a request"
            f" for {num_values:,}. Send fewer or shorter texts at a time."
        )
    if by_row:
        num_rows = {array.shape[:1] for array in outputs.values()}
        if len(num_rows) != 1 or num_rows == {()}:
            raise invalid(
                "The outputs must have the same number of rows to be answered by row. Received:"
                f" {', '.join(f'{name} {list(a.shape)}' for name, a in outputs.items())}. Send"
                " 'inputs' instead of 'instances'."
            )
    listed = {name: _listed(name, outputs[name]) for name in sorted(outputs)}
    if len(listed) == 1:
        [answer] = listed.values()
    elif by_row:
        rows = zip(*listed.values(), strict=True)
        answer = [dict(zip(listed, row, strict=True)) for row in rows]
    else:
        answer = listed
    return json_bytes({"predictions" if by_row else "outputs": answer})


def json_bytes(document) -> bytes:
    """Returns JSON in UTF-8; writes NaN, Infinity and -Infinity as the real server does."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def declared_shape(info) -> list[int] | None:
    """Returns the shape in a TensorInfo, with -1 for an axis of any size; None for any shape."""
    return None if info.tensor_shape.unknown_rank else [d.size for d in info.tensor_shape.dim]


def _rows_to_columns(rows: list, inputs: dict) -> dict[str, list]:
    """Returns a list for each input, with one value per row.

    A row that does not name its input belongs to the only input.
    """
    are_objects = _is_object(rows[0])
    if not are_objects and len(inputs) > 1:
        raise invalid(
            f"Each of 'instances' must be an object with the inputs {', '.join(sorted(inputs))}."
            f" Received: {_kind(rows[0])}."
        )
    columns = {name: [] for name in inputs}
    for place, row in enumerate(rows):
        if _is_object(row) != are_objects:
            raise invalid(
                f"Either all 'instances' must be objects or none. Received: {_kind(row)} at index"
                f" {place} after {_kind(rows[0])}."
            )
        if are_objects:
            _check_names(row, inputs, f"Failed to process element: {place} of 'instances' list. ")
            for name in inputs:
                columns[name].append(row[name])
        else:
            next(iter(columns.values())).append(row)
    return columns


def _named_columns(values, inputs: dict) -> dict:
    """Returns the value of each input; a value without a name belongs to the only input."""
    if _is_object(values):
        missing = sorted(set(inputs) - set(values))
        if missing:
            raise invalid(f"Missing named input: {missing[0]} in 'inputs' object.")
        return values  # other names are ignored, as in the real server
    if len(inputs) > 1:
        raise invalid(
            f"'inputs' must be an object with the inputs {', '.join(sorted(inputs))}. Received:"
            f" {_kind(values)}."
        )
    return {next(iter(inputs)): values}


def _check_names(row: dict, inputs: dict, where: str) -> None:
    if row.keys() != inputs.keys():
        names = ", ".join(sorted(name[:100] for name in row)[:10]) or "none"
        raise invalid(
            f"{where}Its keys must be equal to: {', '.join(sorted(inputs))}. Received: {names}."
        )


def _array(name: str, value, info, limits: Limits) -> np.ndarray:
    """Converts one input to the signature's type, and checks its shape."""
    import tensorflow as tf

    # Lists of unequal length or depth leave lists as elements, which `read` refuses.
    given, declared = np.array(value, dtype=object), declared_shape(info)
    if declared is not None and not _fits(given.shape, declared):
        raise invalid(
            f"{name} must have the shape {_in_words(declared)}, with lists of equal length."
            f" Received: {_in_words(given.shape)}."
        )
    dtype = tf.dtypes.as_dtype(info.dtype)
    read = _reader(dtype, limits)
    flat = [read(name, element) for element in given.ravel()]
    array = np.array(flat, dtype=object if dtype == tf.string else dtype.as_numpy_dtype)
    return array.reshape(given.shape)


def _fits(shape: tuple[int, ...], declared: list[int]) -> bool:
    # The empty list is an empty array of any rank.
    if shape and shape[-1] == 0:
        declared = declared[: len(shape)]
    return len(shape) == len(declared) and all(
        size in (-1, received) for size, received in zip(declared, shape, strict=True)
    )


def _reader(dtype, limits: Limits):
    """Returns a function that converts one JSON value to this dtype."""
    import tensorflow as tf

    if dtype == tf.string:
        return lambda name, value: _bytes(name, value, limits.max_text_bytes)
    if dtype == tf.bool:
        return _boolean
    if dtype in (tf.float32, tf.float64):
        return lambda name, value: _decimal(name, value, dtype.max)
    if dtype.is_integer and not dtype.is_quantized:
        return lambda name, value: _whole(name, value, dtype.min, dtype.max)
    raise ServingError("UNIMPLEMENTED", f"JSON values cannot have the type {dtype.name}.")


def _bytes(name: str, value, max_bytes: int) -> bytes:
    if isinstance(value, dict):
        value = _decoded_base64(name, value)
    elif isinstance(value, str):
        try:
            value = value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise invalid(
                f"JSON Parse error: {name} must be valid Unicode. Received: half of a surrogate"
                f" pair, \\u{ord(value[error.start]):04x}. Send both halves."
            ) from error
    else:
        raise invalid(f"{name} must be strings. Received: {_kind(value)}.")
    if len(value) > max_bytes:
        raise invalid(
            f"A text of {name} may have up to {max_bytes:,} bytes. Received: {len(value):,}. Split"
            " it into sentences."
        )
    return value


def _decoded_base64(name: str, value: dict) -> bytes:
    if not _is_base64(value):
        raise invalid(
            f'{name} must be strings, or {{"b64": "..."}} for bytes. Received: another object.'
        )
    text = "".join(value["b64"].split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"Unable to base64 decode a value of {name}.") from error


def _boolean(name: str, value) -> bool:
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false. Received: {_kind(value)}.")
    return value


def _whole(name: str, value, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        received = "a number out of range" if type(value) in (int, float) else _kind(value)
        raise invalid(f"{name} must be integers from {least} to {most}. Received: {received}.")
    return value


def _decimal(name: str, value, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid(f"{name} must be numbers. Received: {_kind(value)}.")
    is_special = isinstance(value, float) and not np.isfinite(value)
    if not is_special and not -most <= value <= most:
        raise invalid(
            f"{name} must be numbers from {-most} to {most}. Received: a number out of range."
        )
    return float(value)


def _listed(name: str, array: np.ndarray):
    """Converts an output to nested lists of JSON values."""
    if array.dtype == object:
        decode = _as_base64 if name.endswith("_bytes") else _as_text
        flat = np.empty(array.size, object)
        flat[:] = [decode(value) for value in array.ravel()]
        return flat.reshape(array.shape).tolist()
    if array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        # Through the shortest decimal text: 0.2, not 0.20000000298023224.
        return array.astype(np.float32).astype("U32").astype(np.float64).tolist()
    if array.dtype.kind not in "biuf":  # bfloat16 and the like
        return _listed(name, array.astype(np.float32))
    return array.tolist()


def _as_text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _as_base64(value: bytes) -> dict:
    return {"b64": base64.b64encode(value).decode("ascii")}


def _is_base64(value) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_object(value) -> bool:
    """Whether a value is an object of named values, not {"b64": ...}."""
    return isinstance(value, dict) and not _is_base64(value)


def _in_words(shape) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"


def _kind(value) -> str:
    """Names the type of a JSON value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return "a number"
    return {dict: "an object", list: "a list", str: "a string"}[type(value)]
