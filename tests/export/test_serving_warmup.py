import pytest
import tensorflow as tf

from keras_transformer.export.serving_warmup import _LENGTHS, _requests
from tests.export.served import SIGNATURES


def records(exported):
    path = f"{exported}/assets.extra/tf_serving_warmup_requests"
    return [record.numpy() for record in tf.data.TFRecordDataset(path)]


def test_warmup_requests_for_each_signature_are_readable_by_tensorflow_serving(exported):
    apis = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2",
        reason="tensorflow-serving-api is not installed",
    )
    asked, batches = [], []
    loaded = tf.saved_model.load(exported)
    for record in records(exported):
        log = apis.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert log.ByteSize() == len(record)  # nothing unknown, nothing written twice
        assert request.model_spec.name == "non-sense"
        asked.append(request.model_spec.signature_name)
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        inputs = {key: tf.constant(value, tf.string) for key, value in inputs.items()}
        batches.append({value.shape[0] for value in inputs.values()})
        loaded.signatures[asked[-1]](**inputs)  # takes these inputs and no others
    assert list(dict.fromkeys(asked)) == list(SIGNATURES)
    assert len(asked) == len(SIGNATURES) * (len(_LENGTHS) + 1)
    assert batches == [{1}, {1}, {1}, {3}] * len(SIGNATURES)


def test_warmup_requests_have_short_and_long_texts_within_the_limits(served_translator):
    for signature, (names, _) in SIGNATURES.items():
        *alone, together = _requests(signature, served_translator)
        assert all(list(inputs) == names for inputs in (*alone, together))
        texts = [next(iter(inputs.values()))[0] for inputs in alone]
        assert together == dict.fromkeys(together, texts)
        lengths = [len(ids) for ids in served_translator.tokenizer.encode(texts)]
        assert lengths[0] == 1
        assert 1 < lengths[1] <= 10 < lengths[2] <= 39
        assert all(text.strip() for text in texts)
