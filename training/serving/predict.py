"""JSON to arrays and back, as TensorFlow Serving's `:predict` does it.

A request names its tensors by row, {"instances": [...]}, or by column, {"inputs": ...}; the answer
has the same form, {"predictions": [...]} or {"outputs": ...}. Strings that are not text travel as
{"b64": "..."}.

Source: https://www.tensorflow.org/tfx/serving/api_rest and tensorflow_serving/util/json_tensor.cc.
Deviation: a body must be UTF-8, and bytes of an output that are not UTF-8 are replaced by U+FFFD,
so that every answer is JSON. The real server passes both through as they are.
"""

import base64
import binascii
import json
from dataclasses import dataclass

import numpy as np

from training.serving.errors import ServingError, invalid

DEFAULT_SIGNATURE = "serving_default"
DEEPEST = 32  # lists in lists, where a signature does not say


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        max_batch: Rows.
        max_text_bytes: Of each string, in UTF-8.
        max_answer_values: Numbers and strings of the answer.
    """

    max_batch: int = 1000
    max_text_bytes: int = 400_000
    max_answer_values: int = 2_000_000


@dataclass(frozen=True)
class PredictRequest:
    """A request whose JSON has been read.

    Attributes:
        signature_name: Which signature shall run.
        by_row: Whether the values stand in rows, and the answer shall too.
        values: What stood under `instances` or `inputs`.
    """

    signature_name: str
    by_row: bool
    values: object


def read_object(body: bytes) -> dict:
    """The JSON object of a request's body.

    Raises:
        ServingError: If it is none.
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
        raise invalid("JSON Parse error: a number is too long or lists are too deep.") from error
    if not isinstance(document, dict):
        raise invalid(f"The body must be a JSON object. Received: {_kind(document)}.")
    return document


def signature_name_of(document: dict) -> str:
    """The signature that a request names, `serving_default` if it names none."""
    name = document.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(name, str):
        raise invalid(f"'signature_name' key must be a string value. Received: {_kind(name)}.")
    return name or DEFAULT_SIGNATURE


def predict_request(document: dict) -> PredictRequest:
    """What a `:predict` request asks for.

    Raises:
        ServingError: If it has both `instances` and `inputs`, or neither, or no instances.
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
    """The array of each input of a signature.

    Args:
        request: What came.
        inputs: The signature's inputs by name, as TensorInfo.
        limits: What may be asked for.

    Raises:
        ServingError: If an input is missing or unknown, or a value is not of its type or shape.
    """
    if not inputs:
        raise invalid(f"Failed to get input map for signature: {request.signature_name}")
    columns = _rows_to_columns(request.values, inputs) if request.by_row else None
    if columns is None:
        columns = _named_columns(request.values, inputs)
    arrays = {name: _array(name, columns[name], inputs[name], limits) for name in inputs}
    for name, array in arrays.items():
        if array.ndim and len(array) > limits.max_batch:
            raise invalid(
                f"A request may hold {limits.max_batch:,} rows. Received: {len(array):,} of"
                f" {name}. Send them in several requests."
            )
    return arrays


def answer_of(outputs: dict[str, np.ndarray], by_row: bool, limits: Limits) -> bytes:
    """The JSON of an answer.

    Raises:
        ServingError: If outputs can't be parted into rows, or are too many for one answer.
    """
    num_values = sum(array.size for array in outputs.values())
    if num_values > limits.max_answer_values:
        raise invalid(
            f"An answer may hold {limits.max_answer_values:,} values. Received: a request for"
            f" {num_values:,}. Send fewer or shorter texts at a time."
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
    """JSON in UTF-8; NaN, Infinity and -Infinity are written so, as the real server does."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _rows_to_columns(rows: list, inputs: dict) -> dict[str, list]:
    """For each input its values, one a row. A bare row is the value of the only input."""
    are_objects = _is_object(rows[0])
    if not are_objects and len(inputs) > 1:
        raise invalid(
            f"Each of 'instances' must be an object of the inputs {', '.join(sorted(inputs))}."
            f" Received: {_kind(rows[0])}."
        )
    columns = {name: [] for name in inputs}
    for place, row in enumerate(rows):
        if _is_object(row) != are_objects:
            raise invalid(
                "Either all 'instances' must be objects or none. Received:"
                f" {_kind(row)} at place {place} after {_kind(rows[0])}."
            )
        if are_objects:
            _check_names(row, inputs, f"Failed to process element: {place} of 'instances' list. ")
            for name in inputs:
                columns[name].append(row[name])
        else:
            next(iter(columns.values())).append(row)
    return columns


def _named_columns(values, inputs: dict) -> dict:
    """For each input its value; a bare value is that of the only input."""
    if _is_object(values):
        missing = sorted(set(inputs) - set(values))
        if missing:
            raise invalid(f"Missing named input: {missing[0]} in 'inputs' object.")
        return values  # like the real server, this lets other names pass
    if len(inputs) > 1:
        raise invalid(
            f"'inputs' must be an object of the inputs {', '.join(sorted(inputs))}. Received:"
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
    """The array of one input, of the type and the shape that its signature says."""
    import tensorflow as tf

    declared = None if info.tensor_shape.unknown_rank else [d.size for d in info.tensor_shape.dim]
    shape = _shape(name, value)
    if declared is not None and not _fits(shape, declared):
        raise invalid(
            f"{name} must have the shape {_in_words(declared)}. Received: {_in_words(shape)}."
        )
    dtype = tf.dtypes.as_dtype(info.dtype)
    read = _reader(dtype, limits)
    flat = []
    _fill(name, value, shape, read, flat)
    array = np.array(flat, dtype=object if dtype == tf.string else dtype.as_numpy_dtype)
    return array.reshape(shape)


def _shape(name: str, value) -> list[int]:
    """The lengths of the lists, read off the first element of each."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > DEEPEST:
            raise invalid(f"{name} may be {DEEPEST} lists deep. Received: more.")
        if not value:
            break
        value = value[0]
    return shape


def _fits(shape: list[int], declared: list[int]) -> bool:
    # The empty list is an empty array of whatever rank is asked for.
    if shape and shape[-1] == 0:
        declared = declared[: len(shape)]
    return len(shape) == len(declared) and all(
        asked in (-1, came) for asked, came in zip(declared, shape, strict=True)
    )


def _fill(name: str, value, shape: list[int], read, flat: list) -> None:
    """Appends the values in order, and checks that all lists are as long as their neighbours."""
    if not shape:
        if isinstance(value, list):
            raise invalid(f"{name} must be lists of equal depth. Received: a list too deep.")
        flat.append(read(name, value))
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        came = f"{len(value)} values" if isinstance(value, list) else _kind(value)
        raise invalid(
            f"{name} must be lists of equal length, here {shape[0]} values. Received: {came}."
        )
    for item in value:
        _fill(name, item, shape[1:], read, flat)


def _reader(dtype, limits: Limits):
    """The function that turns one JSON value into one of this type."""
    import tensorflow as tf

    if dtype == tf.string:
        return lambda name, value: _bytes(name, value, limits.max_text_bytes)
    if dtype == tf.bool:
        return lambda name, value: _checked(name, value, bool, "true or false")
    if dtype in (tf.float32, tf.float64):
        return lambda name, value: _decimal(name, value, dtype.max)
    if dtype.is_integer and not dtype.is_quantized:
        return lambda name, value: _whole(name, value, dtype.min, dtype.max)
    raise ServingError("UNIMPLEMENTED", f"JSON values can't be of the type {dtype.name}.")


def _bytes(name: str, value, max_bytes: int) -> bytes:
    if isinstance(value, dict):
        value = _decoded_base64(name, value)
    elif isinstance(value, str):
        try:
            value = value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise invalid(
                f"JSON Parse error: {name} must be text. Received: half of a surrogate pair,"
                f" \\u{ord(value[error.start]):04x}. Send both halves."
            ) from error
    else:
        raise invalid(f"{name} must be strings. Received: {_kind(value)}.")
    if len(value) > max_bytes:
        raise invalid(
            f"A text of {name} may have {max_bytes:,} bytes. Received: {len(value):,}. Cut it into"
            " sentences."
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


def _checked(name: str, value, kind: type, in_words: str):
    if not isinstance(value, kind):
        raise invalid(f"{name} must be {in_words}. Received: {_kind(value)}.")
    return value


def _whole(name: str, value, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        came = "a number out of range" if type(value) in (int, float) else _kind(value)
        raise invalid(f"{name} must be whole numbers, {least} to {most}. Received: {came}.")
    return value


def _decimal(name: str, value, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid(f"{name} must be numbers. Received: {_kind(value)}.")
    infinite = isinstance(value, float) and not np.isfinite(value)
    if not infinite and not -most <= value <= most:
        raise invalid(f"{name} must be numbers within {most}. Received: one beyond.")
    return float(value)


def _listed(name: str, array: np.ndarray):
    """An output as nested lists of what JSON has."""
    if array.dtype == object:
        decode = _as_base64 if name.endswith("_bytes") else _as_text
        flat = np.empty(array.size, object)
        flat[:] = [decode(value) for value in array.ravel()]
        return flat.reshape(array.shape).tolist()
    if array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        # Through its shortest spelling: 0.2 and not 0.20000000298023224.
        spelled = array.astype(np.float32).astype("U32")
        return spelled.astype(np.float64).tolist()
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
    """Whether it is an object of named values, and not bytes in base64."""
    return isinstance(value, dict) and not _is_base64(value)


def _in_words(shape: list[int]) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"


def _kind(value) -> str:
    """What a JSON value is; the value itself may be of any size."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return "a number"
    return {dict: "an object", list: "a list", str: "a string"}[type(value)]
