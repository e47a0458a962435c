"""The parts that need no model: the page, an export's requests, numbers in answers, visitors."""

import asyncio
import json

import numpy as np
import pytest

from keras_transformer.export.prediction_log import WARMUP_FILE
from training.serving import app as app_module
from training.serving.app import Service, make_app
from training.serving.batching import Batcher
from training.serving.errors import ServingError
from training.serving.predict import Limits, answer_of
from training.serving.saved_model import exported_requests
from training.serving.versions import Versions
from training.serving.visitors import Visitors


def get(app, path, headers=()):
    """Returns the status, headers and body of a GET request, without a network."""
    sent = []
    headers = [(b"host", b"localhost"), *headers]
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(part.get("body", b"") for part in sent[1:])


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.setattr(app_module, "PAGE_FOLDER", tmp_path)
    return make_app(Service(Versions(tmp_path, "en-de"), Batcher(1)))


@pytest.mark.parametrize(
    "path, file_name, content_type",
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/page.css", "page.css", "text/css; charset=utf-8"),
        ("/page.js", "page.js", "text/javascript; charset=utf-8"),
    ],
)
def test_the_page_is_served_with_its_type_and_may_load_nothing_from_other_sites(
    app, tmp_path, path, file_name, content_type
):
    (tmp_path / file_name).write_bytes(b"content")
    status, headers, body = get(app, path)
    assert (status, body) == (200, b"content")
    assert headers["content-type"] == content_type
    assert headers["x-content-type-options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"


@pytest.mark.parametrize("path, file_name", [("/", "index.html"), ("/page.js", "page.js")])
def test_a_missing_file_of_the_page_is_named(app, path, file_name):
    status, _, body = get(app, path)
    assert status == 404
    assert json.loads(body)["error"] == (
        f"The page needs training/serving/page/{file_name}. Received: no such file. Restore it"
        " from the repository."
    )


def test_the_page_learns_the_models_name(app):
    status, _, body = get(app, "/page.json")
    assert (status, json.loads(body)) == (200, {"model": "en-de"})


@pytest.mark.parametrize("path", ["/page.html", "/../app.py", "/page/page.js", "/saved_model.pb"])
def test_no_other_file_is_served(app, tmp_path, path):
    (tmp_path / "page.html").write_text("secret")
    status, _, body = get(app, path)
    assert status == 404
    assert list(json.loads(body)) == ["error"]


@pytest.mark.parametrize(
    "origin, host, expected",
    [
        (None, "a.org", True),
        ("http://a.org:8501", "a.org:8501", True),
        ("https://A.org", "a.org", True),  # behind a proxy that ends TLS
        ("http://a.org", "a.org:8501", False),
        ("http://a.org.evil.org", "a.org", False),
        ("null", "", False),
        ("file://", "", False),
        ("https://known.org", "a.org", True),
        ("https://known.org:1", "a.org", False),
    ],
)
def test_only_pages_of_this_server_or_of_allowed_sites_are_accepted(origin, host, expected):
    visitors = Visitors(origins=frozenset({"https://known.org"}))
    assert visitors.knows_origin(origin, host) is expected


def test_numbers_are_written_in_their_shortest_exact_form():
    numbers = np.array([0.2, 1 / 3, 1e-30, 1e30, -0.0, 3], np.float32)
    body = answer_of({"x": numbers, "y_int": np.arange(6)}, False, Limits())
    assert b"0.2," in body
    outputs = json.loads(body)["outputs"]
    np.testing.assert_array_equal(np.float32(outputs["x"]), numbers)
    assert outputs["y_int"] == [0, 1, 2, 3, 4, 5]


def test_an_answer_with_too_many_values_is_refused():
    with pytest.raises(ServingError, match="up to 5 values. Received: a request for 6"):
        answer_of({"x": np.zeros((2, 3))}, False, Limits(max_answer_values=5))


def test_outputs_with_different_numbers_of_rows_can_only_be_answered_by_column():
    outputs = {"x": np.zeros((2, 1)), "y": np.zeros(3)}
    with pytest.raises(ServingError, match="the same number of rows.* Send 'inputs'"):
        answer_of(outputs, True, Limits())
    listed = json.loads(answer_of(outputs, False, Limits()))["outputs"]
    assert listed == {"x": [[0.0], [0.0]], "y": [0.0, 0.0, 0.0]}


# Requests in an export, encoded by hand with the field numbers of prediction_log.proto


def message(*fields):
    """Encodes a message with fields (number, bytes), each shorter than 128 bytes."""
    return b"".join(bytes([number << 3 | 2, len(data)]) + data for number, data in fields)


def write_requests(folder, *records):
    import tensorflow as tf

    (folder / WARMUP_FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
        for record in records:
            writer.write(record)


def predict_log(texts, signature_name=b""):
    import tensorflow as tf

    tensor = tf.make_tensor_proto(texts).SerializeToString()
    spec = message((1, b"en-de"), (3, signature_name)) + b"\x12\x02\x08\x07"  # and version 7
    request = message((1, spec), (2, message((1, b"text"), (2, tensor))))
    return message((6, message((1, request)))) + b"\x10\x05"


def test_an_exports_warmup_requests_are_read_as_tensorflow_serving_reads_them(tmp_path):
    write_requests(tmp_path, predict_log(["a", "b"]), predict_log(["c"], b"greedy"))
    found = [(name, inputs["text"].tolist()) for name, inputs in exported_requests(tmp_path)]
    assert found == [("serving_default", [b"a", b"b"]), ("greedy", [b"c"])]


def test_an_export_may_have_no_warmup_requests(tmp_path):
    assert list(exported_requests(tmp_path)) == []


def test_a_truncated_warmup_request_is_refused(tmp_path):
    write_requests(tmp_path, b"\x32\xff")
    with pytest.raises(ValueError, match="must hold PredictionLog messages"):
        list(exported_requests(tmp_path))
