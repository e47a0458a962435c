"""Tests the gRPC client in docs/serving.md against an imitation of TensorFlow Serving."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tensorflow as tf

from keras_transformer.export.prediction_log import WARMUP_FILE
from tests.training.serving.shouting import export_shouting
from training.serving.saved_model import exported_requests

WHY = "the package tensorflow-serving-api is not installed"
grpc = pytest.importorskip("grpc", reason=WHY)
predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason=WHY)

DOCS = Path(__file__).parents[3] / "docs" / "serving.md"


def service_of(signatures):
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            assert request.model_spec.name == "en-de"
            inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            function = signatures[request.model_spec.signature_name]
            outputs = function(**{name: tf.constant(array) for name, array in inputs.items()})
            answer = predict_pb2.PredictResponse()
            for name, value in outputs.items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return answer

    return Service()


def test_the_client_of_the_docs_prints_translations(tmp_path, capsys):
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    export_shouting(tmp_path, 1)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    server = grpc.server(ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        service_of(loaded.signatures), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    [client] = re.findall(r"```python\n(import grpc\n.*?)```", DOCS.read_text(), re.DOTALL)
    exec(client.replace("localhost:8500", f"127.0.0.1:{port}"), {})
    server.stop(None)
    assert capsys.readouterr().out == "['A MAN RIDES A BICYCLE .']\n"


def test_an_exports_warmup_requests_are_valid_messages_of_tensorflow_serving(tmp_path):
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    log.log_metadata.model_spec.name = "en-de"
    request = log.predict_log.request
    request.model_spec.name = "en-de"
    request.model_spec.version.value = 7
    request.model_spec.signature_name = "score"
    for name in ("source", "target"):
        request.inputs[name].CopyFrom(tf.make_tensor_proto([name * 100, "b"]))
    (tmp_path / WARMUP_FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(tmp_path / WARMUP_FILE)) as writer:
        writer.write(log.SerializeToString())
    [(signature_name, inputs)] = exported_requests(tmp_path)
    assert signature_name == "score"
    assert {name: array.tolist() for name, array in inputs.items()} == {
        "source": [b"source" * 100, b"b"],
        "target": [b"target" * 100, b"b"],
    }
