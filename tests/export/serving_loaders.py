"""Loads an export in three ways and asks it, in a process without this project's packages.

    python -I tests/export/serving_loaders.py LOADER < job.json > answers.json

tf.saved_model   as Python code does
session          the graph alone, into a session of TensorFlow 1
c_api            the same without Python, with the loader that TensorFlow Serving is built on

The job holds `path` (a version's folder), `requests`, each [signature, {input: texts}], and the
names of `tensors`. All strings are base64. An answer is {output: [is text, shape, flat values]},
or the message of a refusal.
"""

import base64
import contextlib
import ctypes
import glob
import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path

FRESH_PROCESS = Path(__file__).parents[2] / "training" / "serving" / "fresh_process.py"


def ask_in_a_fresh_process(loader, path, requests, timeout_seconds=250):
    """Returns the loader's answers, with strings decoded and the rest as NumPy arrays."""
    import subprocess

    import numpy as np

    from tests.export.served import meta_graph

    def packed(text):
        text = text if isinstance(text, bytes) else text.encode()
        return base64.b64encode(text).decode()

    def unpacked(answer):
        if isinstance(answer, str):
            return answer
        unpack = np.vectorize(lambda text: base64.b64decode(text).decode(), otypes=[object])
        return {
            name: unpack(np.array(values, object).reshape(shape))
            if is_text
            else np.array(values).reshape(shape)
            for name, (is_text, shape, values) in answer.items()
        }

    job = {
        "path": str(path),
        "requests": [
            [signature, {name: [packed(text) for text in texts] for name, texts in inputs.items()}]
            for signature, inputs in requests
        ],
        "tensors": {
            name: [
                {key: info.name for key, info in side.items()}
                for side in (signature.inputs, signature.outputs)
            ]
            for name, signature in meta_graph(path).signature_def.items()
        },
    }
    finished = subprocess.run(
        [sys.executable, "-I", __file__, loader],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_seconds,
    )
    if finished.returncode != 0:
        raise RuntimeError(finished.stderr[-2000:])
    return [unpacked(answer) for answer in json.loads(finished.stdout)]


def _listed(array):
    """Encodes a NumPy array as [is text, shape, flat values]."""
    if array.dtype == object:
        flat = [base64.b64encode(text).decode() for text in array.ravel().tolist()]
        return [True, array.shape, flat]
    return [False, array.shape, array.ravel().tolist()]


@contextlib.contextmanager
def _python_loader(job):
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the SentencePiece ops

    export = tf.saved_model.load(job["path"])

    def ask(name, inputs):
        inputs = {key: tf.constant(texts, tf.string, [len(texts)]) for key, texts in inputs.items()}
        try:
            found = export.signatures[name](**inputs)
        except tf.errors.InvalidArgumentError as error:
            return str(error)
        return {key: _listed(value.numpy()) for key, value in found.items()}

    yield ask


@contextlib.contextmanager
def _session_loader(job):
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the SentencePiece ops

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], job["path"])

        def ask(name, inputs):
            places, outputs = job["tensors"][name]
            feed = {places[key]: texts for key, texts in inputs.items()}
            try:
                found = session.run(outputs, feed)
            except tf.errors.InvalidArgumentError as error:
                return str(error)
            return {key: _listed(value) for key, value in found.items()}

        yield ask


# The parts of the C API in use; see tensorflow/c/c_api.h and tf_tensor.h.

FLOAT, INT32, STRING = 1, 3, 7
SIZE_OF_STRING = 24


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def _library():
    """Loads TensorFlow's C functions, and the op libraries of TensorFlow Text."""
    folders = {
        name: os.path.dirname(importlib.util.find_spec(name).origin)
        for name in ("tensorflow", "tensorflow_text")
    }
    [path] = glob.glob(f"{folders['tensorflow']}/libtensorflow_cc.*")
    c = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for name, result in {
        "TF_NewStatus": pointer,
        "TF_Message": ctypes.c_char_p,
        "TF_NewGraph": pointer,
        "TF_NewSessionOptions": pointer,
        "TF_LoadLibrary": pointer,
        "TF_LoadSessionFromSavedModel": pointer,
        "TF_GraphOperationByName": pointer,
        "TF_AllocateTensor": pointer,
        "TF_TensorData": pointer,
        "TF_TensorType": number,
        "TF_NumDims": number,
        "TF_Dim": ctypes.c_int64,
        "TF_StringGetDataPointer": pointer,
        "TF_StringGetSize": ctypes.c_size_t,
    }.items():
        getattr(c, name).restype = result
    status = pointer(c.TF_NewStatus())
    for path in glob.glob(f"{folders['tensorflow_text']}/python/ops/*.so"):
        c.TF_LoadLibrary(path.encode(), status)
        _refuse_unless_ok(c, status)
    return c, status


def _refuse_unless_ok(c, status):
    if c.TF_GetCode(status) != 0:
        raise RuntimeError(c.TF_Message(status).decode(errors="replace"))


@contextlib.contextmanager
def _c_loader(job):
    c, status = _library()
    graph = ctypes.c_void_p(c.TF_NewGraph())
    options = ctypes.c_void_p(c.TF_NewSessionOptions())
    tags = (ctypes.c_char_p * 1)(b"serve")
    session = ctypes.c_void_p(
        c.TF_LoadSessionFromSavedModel(
            options, None, job["path"].encode(), tags, 1, graph, None, status
        )
    )
    _refuse_unless_ok(c, status)

    def places(tensors):
        array = (_Output * len(tensors))()
        for place, tensor in zip(array, tensors, strict=True):
            name, index = tensor.split(":")
            place.operation = c.TF_GraphOperationByName(graph, name.encode())
            place.index = int(index)
        return array

    def ask(name, inputs):
        input_tensors, output_tensors = job["tensors"][name]
        fed = (ctypes.c_void_p * len(inputs))(*(_string_tensor(c, t) for t in inputs.values()))
        fetched = (ctypes.c_void_p * len(output_tensors))()
        c.TF_SessionRun(
            session,
            None,
            places([input_tensors[key] for key in inputs]),
            fed,
            len(inputs),
            places(output_tensors.values()),
            fetched,
            len(output_tensors),
            None,
            0,
            None,
            status,
        )
        invalid_argument = 3
        if c.TF_GetCode(status) == invalid_argument:
            return c.TF_Message(status).decode()
        _refuse_unless_ok(c, status)
        return {
            key: _read_tensor(c, ctypes.c_void_p(tensor))
            for key, tensor in zip(output_tensors, fetched, strict=True)
        }

    yield ask


def _string_tensor(c, texts):
    shape = (ctypes.c_int64 * 1)(len(texts))
    size = ctypes.c_size_t(SIZE_OF_STRING * len(texts))
    tensor = c.TF_AllocateTensor(STRING, shape, 1, size)
    data = c.TF_TensorData(ctypes.c_void_p(tensor)) or 0
    for row, text in enumerate(texts):
        string = ctypes.c_void_p(data + row * SIZE_OF_STRING)
        c.TF_StringInit(string)
        c.TF_StringCopy(string, text, ctypes.c_size_t(len(text)))
    return tensor


def _read_tensor(c, tensor):
    shape = [c.TF_Dim(tensor, axis) for axis in range(c.TF_NumDims(tensor))]
    size = 1
    for axis in shape:
        size *= axis
    data = c.TF_TensorData(tensor) or 0
    dtype = c.TF_TensorType(tensor)
    if dtype != STRING:
        kind = {FLOAT: ctypes.c_float, INT32: ctypes.c_int32}[dtype]
        return [False, shape, list((kind * size).from_address(data)) if size else []]
    texts = []
    for row in range(size):
        string = ctypes.c_void_p(data + row * SIZE_OF_STRING)
        text = ctypes.string_at(c.TF_StringGetDataPointer(string), c.TF_StringGetSize(string))
        texts.append(base64.b64encode(text).decode())
    return [True, shape, texts]


LOADERS = {"tf.saved_model": _python_loader, "session": _session_loader, "c_api": _c_loader}

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    runpy.run_path(FRESH_PROCESS)["block_imports"]()
    loader = sys.argv[1]
    job = json.load(sys.stdin)
    with LOADERS[loader](job) as ask:
        answers = [
            ask(name, {key: [base64.b64decode(t) for t in texts] for key, texts in inputs.items()})
            for name, inputs in job["requests"]
        ]
    if loader == "c_api" and "tensorflow" in sys.modules:
        raise RuntimeError("The C API must be asked without TensorFlow's Python.")
    json.dump(answers, sys.stdout)
