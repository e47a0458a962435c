"""The answers that TensorFlow Serving's documentation promises, over HTTP."""

import base64
import gzip
import http.client
import json
import math
import socket
import time
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.serving.shouting import REFUSED, ask
from training.serving.bodies import GzipBody


def predict(model_address, document, place=""):
    return ask(f"{model_address}{place}:predict", document)


def error_of(answer):
    status, document = answer
    assert list(document) == ["error"]
    return status, document["error"]


# Rows and columns


def test_bare_rows_of_one_input_are_answered_in_rows(model_address):
    status, answer = predict(model_address, {"instances": ["ab", "äöü x"]})
    assert status == 200
    assert answer == {
        "predictions": [
            {"translation": "2:AB", "score": -0.2},
            {"translation": "2:ÄÖÜ X", "score": -0.8},  # 8 bytes
        ]
    }


def test_rows_may_be_objects_of_named_inputs(model_address):
    _, answer = predict(model_address, {"instances": [{"text": "ab"}, {"text": "c"}]})
    assert [row["translation"] for row in answer["predictions"]] == ["2:AB", "2:C"]


def test_several_inputs_are_named_in_rows(model_address):
    rows = [{"source": "a", "target": "bcd"}, {"target": "", "source": "ef"}]
    _, answer = predict(model_address, {"signature_name": "score", "instances": rows})
    assert answer["predictions"] == [
        {"log_probability": -3.0, "num_tokens": 4},
        {"log_probability": 0.0, "num_tokens": 2},
    ]


def test_columns_are_answered_in_columns(model_address):
    inputs = {"source": ["a", "ef"], "target": ["bcd", ""]}
    _, answer = predict(model_address, {"signature_name": "score", "inputs": inputs})
    assert answer == {"outputs": {"log_probability": [-3.0, 0.0], "num_tokens": [4, 2]}}


@pytest.mark.parametrize("inputs", [["ab", "c"], {"text": ["ab", "c"]}])
def test_the_only_input_may_be_a_bare_column(model_address, inputs):
    _, answer = predict(model_address, {"inputs": inputs})
    assert answer["outputs"]["translation"] == ["2:AB", "2:C"]


def test_the_only_output_has_no_name(model_address):
    request = {"signature_name": "only_text"}
    _, rows = predict(model_address, {**request, "instances": ["ab"]})
    _, columns = predict(model_address, {**request, "inputs": ["ab"]})
    assert rows == {"predictions": ["2:AB"]}
    assert columns == {"outputs": ["2:AB"]}


def test_an_empty_column_is_answered_with_empty_columns(model_address):
    assert predict(model_address, {"inputs": []}) == (
        200,
        {"outputs": {"translation": [], "score": []}},
    )


def test_outputs_may_have_more_axes(model_address):
    _, answer = predict(model_address, {"signature_name": "n_best", "instances": ["ab"]})
    assert answer["predictions"] == [{"scores": [2.0, -2.0], "translations": ["2:AB", "ab"]}]


def test_outputs_padded_to_the_longest_row_never_mix_requests(model_address):
    def letters(text):
        request = {"signature_name": "letters", "instances": [text]}
        return predict(model_address, request)[1]["predictions"]

    texts = ["a", "bcdefgh"] * 8
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(letters, texts))
    assert answers == [[list(text)] for text in texts]


# Strings and numbers


def test_base64_inputs_are_decoded_to_bytes(model_address):
    encoded = {"b64": base64.b64encode("schön".encode()).decode()}
    for instance in (encoded, {"text": encoded}):
        _, answer = predict(model_address, {"instances": [instance]})
        assert answer["predictions"][0]["translation"] == "2:SCHÖN"


def test_outputs_whose_names_end_in_bytes_are_answered_in_base64(model_address):
    data = b"\xff\x00\xfe"
    instance = {"b64": base64.b64encode(data).decode()}
    _, answer = predict(model_address, {"signature_name": "raw", "instances": [instance]})
    [row] = answer["predictions"]
    assert base64.b64decode(row["raw_bytes"]["b64"]) == data
    assert row["raw"] == "\ufffd\0\ufffd"


def test_base64_may_lack_its_padding(model_address):
    _, answer = predict(model_address, {"signature_name": "raw", "inputs": [{"b64": "YQ"}]})
    assert answer["outputs"]["raw"] == ["a"]


def test_nan_and_infinity_are_written_as_the_real_server_writes_them(model_address):
    body = b'{"signature_name": "divided", "inputs": [[0, 0], [1, 0], [-1, 0], [NaN, 1], [1, 5]]}'
    _, answer = ask(f"{model_address}:predict", body=body)
    nan, infinity, minus_infinity, also_nan, fifth = answer["outputs"]
    assert math.isnan(nan)
    assert math.isnan(also_nan)
    assert (infinity, minus_infinity, fifth) == (math.inf, -math.inf, 0.2)


# Paths: versions, labels, state, metadata


def test_the_path_may_name_a_version_or_a_label(model_address):
    def first(place):
        _, answer = predict(model_address, {"instances": ["a"]}, place)
        return answer["predictions"][0]["translation"]

    assert first("") == "2:A"
    assert first("/versions/1") == "A"
    assert first("/versions/2") == "2:A"
    assert first("/labels/stable") == "A"
    assert first("/labels/canary") == "2:A"


def test_the_state_of_all_versions_and_of_one(model_address):
    def available(number):
        health = {"error_code": "OK", "error_message": ""}
        return {"version": number, "state": "AVAILABLE", "status": health}

    assert ask(model_address) == (200, {"model_version_status": [available("2"), available("1")]})
    for place in ("/versions/1", "/labels/stable"):
        assert ask(model_address + place) == (200, {"model_version_status": [available("1")]})


def test_metadata_describe_the_signatures(model_address):
    status, answer = ask(f"{model_address}/versions/1/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "shout", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["n_best"]
    text, scores = signature["inputs"]["text"], signature["outputs"]["scores"]
    assert text["dtype"] == "DT_STRING"
    assert text["name"]
    assert text["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert scores["dtype"] == "DT_FLOAT"
    assert [axis["size"] for axis in scores["tensor_shape"]["dim"]] == ["-1", "2"]
    assert signature["method_name"] == "tensorflow/serving/predict"


# Errors, with the real server's status codes


def root_of(model_address):
    return model_address.removesuffix("/v1/models/shout")


@pytest.mark.parametrize(
    "place, status, message",
    [
        ("/v1/models/other", 404, "Could not find any versions of model other"),
        ("/v1/models/shout/versions/3", 404, "Could not find version 3 of model shout"),
        ("/v1/models/shout/labels/new", 400, "Unrecognized servable version label: new"),
        ("/v1/models/other/metadata", 404, "Servable not found for request: Latest(other)"),
        ("/v1/models/shout/versions/3/metadata", 404, "Specific(shout, 3)"),
        ("/v1/models/shout/versions/x", 400, "Malformed request: GET"),
        ("/v1/models/shout/versions/99999999999999999999", 400, "to numeric"),
        ("/v1/models", 400, "Malformed request: GET"),
        ("/v1/models/shout:predict", 400, "Malformed request: GET"),
        ("/v2", 404, "Not found"),
    ],
)
def test_wrong_paths_of_get_requests_are_refused(model_address, place, status, message):
    answered, error = error_of(ask(root_of(model_address) + place))
    assert answered == status
    assert message in error


@pytest.mark.parametrize(
    "place, status, message",
    [
        ("other:predict", 404, "Servable not found for request: Latest(other)"),
        ("other/versions/2:predict", 404, "Servable not found for request: Specific(other, 2)"),
        ("shout/versions/3:predict", 404, "Servable not found for request: Specific(shout, 3)"),
        ("shout/labels/new:predict", 400, "Unrecognized servable version label: new"),
        ("shout/labels/gone:predict", 404, "Servable not found for request: Specific(shout, 7)"),
        ("shout:translate", 400, "Malformed request: POST"),
        ("shout", 400, "Malformed request: POST"),
        ("shout:classify", 400, "key 'examples' is expected"),
    ],
)
def test_wrong_paths_of_post_requests_are_refused(model_address, place, status, message):
    address = f"{root_of(model_address)}/v1/models/{place}"
    answered, error = error_of(ask(address, {"instances": ["a"]}))
    assert answered == status
    assert message in error


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_classify_and_regress_are_refused_for_predict_signatures(model_address, method):
    answer = ask(f"{model_address}:{method}", {"examples": [{"text": "a"}]})
    status, error = error_of(answer)
    assert status == 400
    assert error.endswith(
        f"method_name to be tensorflow/serving/{method}. Was: tensorflow/serving/predict"
    )


BAD_BODIES = {
    "": "JSON Parse error",
    "[": "JSON Parse error",
    "[" * 15_000: "JSON Parse error",
    '{"instances": [' + "[" * 15_000: "JSON Parse error",
    '{"instances": ' + "[" * 500 + "]" * 500 + "}": "text must have the shape [any]",
    "9" * 6000: "JSON Parse error",
    "[]": "must be a JSON object",
    "{}": "Missing 'inputs' or 'instances' key",
    '{"instances": []}': "No values in 'instances'",
    '{"instances": "a"}': "'instances' must be a list. Received: a string",
    '{"instances": ["a"], "inputs": ["a"]}': "Received: both",
    '{"instances": [1]}': "text must be strings. Received: a number",
    '{"instances": [null]}': "text must be strings. Received: null",
    '{"instances": [["a"]]}': "text must have the shape",
    '{"instances": ["a", ["b"]]}': "text must be strings. Received: a list",
    '{"inputs": [[1, 1], [1]], "signature_name": "divided"}': "equal length. Received: [2]",
    '{"instances": ["a", {"text": "b"}]}': "all 'instances' must be objects or none",
    '{"instances": [{"text": "a", "more": "b"}]}': "keys must be equal to: text",
    '{"instances": [{}]}': "keys must be equal to: text. Received: none",
    '{"instances": [{"b64": "a!"}]}': "base64 decode",
    '{"inputs": "a"}': "text must have the shape",
    '{"inputs": {"other": ["a"]}}': "Missing named input: text",
    '{"inputs": ["\\ud800"]}': "surrogate",
    '{"inputs": ["a"], "signature_name": 3}': "'signature_name' key must be a string",
    '{"inputs": ["a"], "signature_name": "x"}': 'Serving signature name: "x" not found',
    '{"inputs": ["a"], "signature_name": "score"}': "an object with the inputs source, target",
    '{"instances": ["a"], "signature_name": "score"}': "must be an object with the inputs",
    '{"inputs": [[1]], "signature_name": "divided"}': "numbers must have the shape [any, 2]",
    '{"inputs": [[1, 1e40]], "signature_name": "divided"}': "numbers must be numbers from",
    '{"inputs": [[1, true]], "signature_name": "divided"}': "Received: true",
    json.dumps({"inputs": ["a"] * 101}): "up to 100 rows. Received: 101",
    json.dumps({"inputs": ["a" * 5001]}): "up to 5,000 bytes. Received: 5,001",
    json.dumps({"inputs": ["a"] * 33, "signature_name": "letters"}): "up to 32 rows",
    json.dumps({"inputs": ["a", REFUSED]}): "assertion failed: [This text is refused.]",
}


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: body[:40])
def test_a_wrong_body_is_refused_with_a_message(model_address, body):
    status, error = error_of(ask(f"{model_address}:predict", body=body.encode(), method="POST"))
    assert status == 400
    assert BAD_BODIES[body] in error
    assert len(error) < 1500


def test_a_body_must_be_utf_8(model_address):
    status, error = error_of(ask(f"{model_address}:predict", body=b'{"inputs": ["\xff"]}'))
    assert (status, "0xff at offset 13" in error) == (400, True)


def test_a_refused_text_does_not_affect_others_in_its_batch(model_address):
    texts = ["a", REFUSED, "b", "c"] * 6
    with ThreadPoolExecutor(len(texts)) as threads:
        answers = list(threads.map(lambda t: predict(model_address, {"instances": [t]}), texts))
    for text, (status, answer) in zip(texts, answers, strict=True):
        if text == REFUSED:
            assert status == 400
        else:
            assert answer["predictions"][0]["translation"] == f"2:{text.upper()}"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
NAMES = st.sampled_from(["serving_default", "score", "divided", "letters", "raw", "x"])


@settings(deadline=None, max_examples=150)
@given(
    document=st.fixed_dictionaries(
        {},
        optional={
            "signature_name": NAMES | JSON_VALUES,
            "instances": JSON_VALUES | st.lists(JSON_VALUES, max_size=3),
            "inputs": JSON_VALUES | st.dictionaries(st.sampled_from(["text", "b64"]), JSON_VALUES),
        },
    )
)
def test_any_json_is_answered_or_refused(model_address, document):
    status, answer = ask(f"{model_address}:predict", document)
    assert status in (200, 400)
    assert list(answer) == (["error"] if status == 400 else list(answer))


@settings(deadline=None, max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_text_comes_back(model_address, text):
    request = {"signature_name": "raw", "inputs": [text]}
    assert predict(model_address, request)[1]["outputs"]["raw"] == [text]


# Bounds


def connection_to(model_address):
    parts = urlsplit(model_address)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def test_a_body_that_is_too_large_is_refused_unread(model_address):
    status, error = error_of(ask(f"{model_address}:predict", {"inputs": ["a" * 20_000]}))
    assert (status, "up to 20,000 bytes" in error) == (413, True)


def test_a_body_that_grows_too_large_is_refused(model_address):
    with connection_to(model_address) as connection:
        connection.sendall(
            b"POST /v1/models/shout:predict HTTP/1.1\r\nHost: localhost\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(3):
            connection.sendall(b"2000\r\n" + b"a" * 0x2000 + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_body_that_arrives_too_slowly_is_refused(model_address):
    with connection_to(model_address) as connection:
        connection.sendall(
            b"POST /v1/models/shout:predict HTTP/1.1\r\nHost: localhost\r\n"
            b'Content-Length: 100\r\n\r\n{"inst'
        )
        start = time.monotonic()
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - start > 1.5


# Bodies in gzip


def ask_packed(model_address, body, coding="gzip"):
    headers = {"Content-Encoding": coding}
    return ask(f"{model_address}:predict", body=body, headers=headers)


PLAIN = b'{"inputs": ["ab", "c"], "signature_name": "only_text"}'
PACKED = gzip.compress(PLAIN)
UNPACKED_ANSWER = (200, {"outputs": ["2:AB", "2:C"]})


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "identity, gzip"])
def test_a_body_may_be_compressed_with_gzip(model_address, coding):
    assert ask_packed(model_address, PACKED, coding) == UNPACKED_ANSWER


def test_a_gzip_body_may_have_several_members(model_address):
    members = [gzip.compress(part) for part in (PLAIN[:7], b"", PLAIN[7:])]
    assert ask_packed(model_address, b"".join(members)) == UNPACKED_ANSWER


def test_a_gzip_body_may_arrive_byte_by_byte(model_address):
    parts = urlsplit(model_address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    pieces = (PACKED[i : i + 1] for i in range(len(PACKED)))
    headers = {"Content-Encoding": "gzip"}  # without a length, the body is sent in chunks
    connection.request("POST", f"{parts.path}:predict", pieces, headers)
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)) == UNPACKED_ANSWER
    connection.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        PLAIN,
        zlib.compress(PLAIN),
        PACKED[:-1],
        PACKED[:12],
        PACKED[:-8] + bytes(8),  # neither its checksum nor its length
        PACKED + b"more",
        PACKED + bytes(512),
        PACKED + PACKED[:5],
    ],
    ids=["none", "x", "plain", "zlib", "cut", "head", "checksum", "text", "zeros", "half"],
)
def test_broken_gzip_is_refused(model_address, body):
    status, error = error_of(ask_packed(model_address, body))
    assert (status, "must hold complete gzip data" in error) == (400, True)


def packed_text(num_bytes):
    frame = len(b'{"inputs": [], "signature_name": "only_text"}')
    texts = ["a" * 4000] * 4
    texts.append("a" * (num_bytes - frame - len(json.dumps(texts)) - 2))
    document = {"inputs": texts, "signature_name": "only_text"}
    body = json.dumps(document).encode()
    assert len(body) == num_bytes
    return gzip.compress(body)


def test_a_gzip_body_is_limited_while_it_is_unpacked(model_address):
    assert ask_packed(model_address, packed_text(20_000))[0] == 200
    status, error = error_of(ask_packed(model_address, packed_text(20_001)))
    assert (status, "up to 20,000 bytes" in error) == (413, True)


def test_the_compressed_size_of_a_gzip_body_is_limited_too(model_address):
    empty_members = gzip.compress(b"") * 1200
    assert len(empty_members) > 20_000
    assert ask_packed(model_address, empty_members + PACKED)[0] == 413


def test_no_more_than_the_limit_is_unpacked():
    body = GzipBody(1000)
    bomb = gzip.compress(bytes(50 * 2**20))
    body.add(bomb + bomb)
    body.add(bomb)
    assert len(body.content) == 1001


@pytest.mark.parametrize("coding", ["deflate", "br", "gzip, gzip", "deflate, gzip", "none"])
def test_codings_other_than_gzip_are_refused(model_address, coding):
    request = urllib.request.Request(
        f"{model_address}:predict", PACKED, {"Content-Encoding": coding}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 415
    assert refused.value.headers["Accept-Encoding"] == "gzip"
    error = json.load(refused.value)["error"]
    assert error.startswith(f"Content-Encoding must be gzip or absent. Received: {coding}.")


# Targets in absolute form


def ask_at(model_address, target, *, method="POST", host=None):
    """Sends a request with this target; returns the answer's status and body."""
    parts = urlsplit(model_address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    body = PLAIN if method == "POST" else None
    connection.request(method, target, body, {"Host": host or parts.netloc})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.mark.parametrize("scheme", ["http", "HTTP", "https"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8501", "SHOUT.example.org:80"])
def test_a_target_may_be_in_absolute_form(model_address, scheme, host):
    root = f"{scheme}://{host}"
    status, body = ask_at(model_address, f"{root}/v1/models/shout/versions/2:predict")
    assert (status, json.loads(body)) == UNPACKED_ANSWER
    for path in ("/v1/models/shout", "/page.json?x=1", "/monitoring/prometheus/metrics", "/", ""):
        relative = path if path.startswith("/") else f"/{path}"
        status, body = ask_at(model_address, root + path, method="GET")
        assert status == 200, path
        if "monitoring" not in path:  # its counts change with each request
            assert (status, body) == ask_at(model_address, relative, method="GET")


def test_the_host_in_an_absolute_target_replaces_the_host_header(model_address):
    path = "/v1/models/shout:predict"
    assert ask_at(model_address, f"http://evil.example.org{path}", host="localhost")[0] == 403
    assert ask_at(model_address, f"http://a@localhost.evil.org{path}", host="localhost")[0] == 403
    assert ask_at(model_address, f"http://localhost{path}", host="evil.example.org")[0] == 200


@pytest.mark.parametrize("target", ["http:///v1/models/shout", "ftp://localhost/v1/models/shout"])
def test_other_targets_are_not_found(model_address, target):
    assert ask_at(model_address, target, method="GET")[0] == 404


def test_one_connection_serves_many_requests(model_address):
    parts = urlsplit(model_address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    for place, expected in ((":predict", 200), (":predict", 200), (":translate", 400)):
        connection.request("POST", parts.path + place, '{"inputs": ["a"]}')
        sock = connection.sock
        answer = connection.getresponse()
        assert answer.status == expected
        answer.read()
    assert connection.sock is sock
    connection.close()


# Visitors


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:9", "shout.example.org", "10.0.0.3"]
)
def test_loopback_names_addresses_and_allowed_hosts_are_accepted(model_address, host):
    assert ask(model_address, headers={"Host": host})[0] == 200


@pytest.mark.parametrize("host", ["evil.example.org", "localhost.evil.org", "1.2.3.4.org", ""])
def test_other_hosts_are_refused(model_address, host):
    status, error = error_of(ask(model_address, headers={"Host": host}))
    assert (status, "--allowed-hosts" in error) == (403, True)


@pytest.mark.parametrize("origin", ["http://evil.example.org", "null", "http://localhost:1"])
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_pages_of_other_sites_are_refused(model_address, origin, method):
    headers = {"Origin": origin, "Host": "localhost:2", "Content-Type": "text/plain"}
    answer = ask(f"{model_address}:predict", {"inputs": ["a"]}, method=method, headers=headers)
    status, error = error_of(answer)
    assert (status, "--cors-origins" in error) == (403, True)


def headers_of(model_address, method, origin):
    parts = urlsplit(model_address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    body = '{"inputs": ["a"]}' if method == "POST" else None
    connection.request(method, f"{parts.path}:predict", body, {"Origin": origin})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200
    return answer.headers


def test_the_servers_own_page_may_send_requests(model_address):
    parts = urlsplit(model_address)
    headers = headers_of(model_address, "POST", f"http://{parts.netloc}")
    assert headers["Access-Control-Allow-Origin"] is None


def test_an_allowed_site_may_send_requests_after_a_preflight_request(model_address):
    origin = "https://page.example.org"
    for method in ("OPTIONS", "POST"):
        headers = headers_of(model_address, method, origin)
        assert headers["Access-Control-Allow-Origin"] == origin
        assert "Origin" in headers["Vary"]
        assert headers["X-Content-Type-Options"] == "nosniff"


# Batches


def count_of(model_address, name):
    url = f"{root_of(model_address)}/monitoring/prometheus/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith(name))


def test_simultaneous_requests_run_together_and_are_answered_separately(model_address):
    def shouted(text):
        request = {"signature_name": "slow", "inputs": [text]}
        return predict(model_address, request)[1]["outputs"]["translation"]

    before = count_of(model_address, "local_server_runs_total{")
    texts = [f"text number {number}" for number in range(160)]
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(shouted, texts))
    runs = count_of(model_address, "local_server_runs_total{") - before
    assert answers == [[f"2:{text.upper()}"] for text in texts]
    assert runs < 80


def test_requests_are_counted_by_outcome(model_address):
    name = ':tensorflow:serving:request_count{model_name="shout",status="INVALID_ARGUMENT"}'
    before = count_of(model_address, name)
    predict(model_address, {})
    predict(model_address, {"inputs": ["a"]})
    assert count_of(model_address, name) == before + 1
