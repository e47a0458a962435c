"""The server's routes: TensorFlow Serving's REST interface, and the page at `/`.

Source: tensorflow_serving/model_servers/http_rest_api_handler.cc and http_rest_api_util.cc.
"""

import asyncio
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from training.serving.batching import Batcher
from training.serving.bodies import expected_bytes, read_body
from training.serving.errors import STATUS_OF_CODE, ServingError, invalid, not_found
from training.serving.metrics import Metrics
from training.serving.predict import (
    Limits,
    answer_of,
    arrays_of,
    json_bytes,
    predict_request,
    read_object,
    signature_name_of,
)
from training.serving.versions import Versions
from training.serving.visitors import Visitors

PAGE_FOLDER = Path(__file__).with_name("page")
PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
# The page works with a real TensorFlow Serving too, so it may connect to any server; everything
# else must come from this one.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self' http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
PREDICTION_PATH = re.compile(MODEL + ":(classify|regress|predict)", re.IGNORECASE | re.ASCII)
STATUS_PATH = re.compile(MODEL + "(?:/(metadata))?", re.IGNORECASE | re.ASCII)
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
LARGE_ANSWER_VALUES = 10_000  # larger answers are encoded in a thread, to keep the loop free


@dataclass
class Service:
    """The state that all routes share."""

    versions: Versions
    batcher: Batcher
    visitors: Visitors = field(default_factory=Visitors)
    limits: Limits = field(default_factory=Limits)
    bytes_in_flight: int = 0

    def __post_init__(self):
        self.metrics = Metrics(self.versions.name)


def make_app(service: Service):
    """Returns the ASGI application."""

    async def rest(request: Request) -> Response:
        start_seconds, code = time.monotonic(), "OK"
        try:
            return await _rest(service, request)
        except ServingError as error:
            code = error.code
            return _refusal(error)
        except ClientDisconnect:
            code = "CANCELLED"
            return Response(status_code=STATUS_OF_CODE[code])
        except Exception:
            code = "INTERNAL"
            raise
        finally:
            if request.method == "POST":
                service.metrics.count(code, time.monotonic() - start_seconds)

    async def metrics(_request: Request) -> Response:
        counts = service.batcher.counts
        return _answer(
            service.metrics.page(counts.num_runs, counts.num_rows).encode(),
            "text/plain; version=0.0.4; charset=utf-8",
        )

    async def page_json(_request: Request) -> Response:
        return _answer(json_bytes({"model": service.versions.name}))

    routes = [
        Route("/v1/{path:path}", rest, methods=METHODS),
        Route("/monitoring/prometheus/metrics", metrics),
        Route("/page.json", page_json),
        *[Route(path, _page_file(*file)) for path, file in PAGE_FILES.items()],
    ]
    handlers = {HTTPException: _http_error, Exception: _bug}
    return service.visitors.guard(Starlette(routes=routes, exception_handlers=handlers))


@dataclass(frozen=True)
class _Path:
    """The parts of a path under /v1/."""

    model: str
    number: int | None
    label: str | None
    action: str

    def check_model(self, service: Service) -> None:
        """Refuses a request for another model as the real server refuses an unknown version."""
        if self.model != service.versions.name:
            asked = f"Latest({self.model})"
            if self.number is not None:
                asked = f"Specific({self.model}, {self.number})"
            raise not_found(f"Servable not found for request: {asked}")


async def _rest(service: Service, request: Request) -> Response:
    text = request.scope["raw_path"].decode("ascii", "replace")
    match = None
    if request.method == "POST":
        match = PREDICTION_PATH.fullmatch(text)
    elif request.method in ("GET", "HEAD"):
        match = STATUS_PATH.fullmatch(text)
    if not match:
        raise invalid(f"Malformed request: {request.method} {text[:200]}")
    name, version, label, action = match.groups()
    number = int(version) if version and len(version) < 20 else None
    if version and (number is None or number >= 2**63):
        raise invalid(f"Failed to convert version: {version[:40]} to numeric.")
    path = _Path(unquote(name), number, unquote(label) if label else None, (action or "").lower())
    if request.method == "POST":
        return await _with_body(service, request, path)
    return _metadata(service, path) if path.action == "metadata" else _status(service, path)


def _status(service: Service, path: _Path) -> Response:
    if path.model != service.versions.name:
        message = f"Could not find any versions of model {path.model}"
        if path.number is not None:
            message = f"Could not find version {path.number} of model {path.model}"
        raise not_found(message)
    statuses = []
    for number in service.versions.numbers(path.number, path.label):
        status = service.versions.statuses[number]
        health = {"error_code": status.code, "error_message": status.message}
        statuses.append({"version": str(number), "state": status.state, "status": health})
    return _answer(json_bytes({"model_version_status": statuses}))


def _metadata(service: Service, path: _Path) -> Response:
    path.check_model(service)
    with service.versions.use(path.number, path.label) as version:
        spec = {"name": path.model, "signature_name": "", "version": str(version.number)}
        signatures = {
            name: json_format.MessageToDict(
                signature,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for name, signature in sorted(version.signature_defs.items())
        }
    metadata = {"signature_def": {"signature_def": signatures}}
    return _answer(json_bytes({"model_spec": spec, "metadata": metadata}))


async def _with_body(service: Service, request: Request, path: _Path) -> Response:
    reserved = expected_bytes(request, service.limits.max_request_bytes)
    if service.bytes_in_flight + reserved > service.limits.max_bytes_in_flight:
        raise ServingError(
            "UNAVAILABLE",
            "The server is processing too many bytes. Try again later.",
            body_is_unread=True,
        )
    service.bytes_in_flight += reserved
    try:
        document = read_object(await read_body(request, service.limits))
        path.check_model(service)
        if path.action == "predict":
            return await _predict(service, path, document)
        raise _other_method(service, path, document)
    finally:
        service.bytes_in_flight -= reserved


async def _predict(service: Service, path: _Path, document: dict) -> Response:
    signature_name, limits = signature_name_of(document), service.limits
    with service.versions.use(path.number, path.label) as version:
        if signature_name not in version.signature_defs:
            raise invalid(
                f'Serving signature name: "{signature_name[:200]}" not found in signature def'
            )
        request = predict_request(document)
        arrays = arrays_of(request, dict(version.signature_defs[signature_name].inputs), limits)
        in_rows = version.rows_are_independent(signature_name)
        if not in_rows:
            _check_whole(arrays, service.batcher.max_batch_size)
        running = service.batcher.submit(version.run_of(signature_name), arrays, in_rows=in_rows)
        try:
            outputs = await asyncio.wait_for(running, limits.answer_seconds)
        except TimeoutError as error:
            raise ServingError(
                "DEADLINE_EXCEEDED",
                f"The model must answer within {limits.answer_seconds:g} s. Received: no answer in"
                " time. Send fewer texts at a time.",
            ) from error
    if sum(array.size for array in outputs.values()) > LARGE_ANSWER_VALUES:
        body = await asyncio.to_thread(answer_of, outputs, request.by_row, limits)
    else:
        body = answer_of(outputs, request.by_row, limits)
    return _answer(body)


def _check_whole(arrays: dict, max_batch_size: int) -> None:
    """Refuses a request with too many rows for one batch, where rows must stay together."""
    most = max((len(array) for array in arrays.values() if array.ndim), default=0)
    if most > max_batch_size:
        raise invalid(
            f"A request to this signature may hold up to {max_batch_size:,} rows. Received:"
            f" {most:,}. Send them in several requests."
        )


def _other_method(service: Service, path: _Path, document: dict) -> ServingError:
    """Returns the real server's error for :classify or :regress on a :predict signature."""
    if "examples" not in document:
        return invalid(
            f"When method is {path.action}, key 'examples' is expected and was not found"
        )
    if not isinstance(document["examples"], list) or not document["examples"]:
        return invalid("'examples' must be a list of at least one example.")
    name = signature_name_of(document)
    kind = {"classify": "classification", "regress": "regression"}[path.action]
    with service.versions.use(path.number, path.label) as version:
        if name not in version.signature_defs:
            return invalid(f"No signature was found with the name: {name[:200]}")
        was = version.signature_defs[name].method_name
    return invalid(
        f"Expected {kind} signature method_name to be tensorflow/serving/{path.action}. Was: {was}"
    )


def _page_file(file_name: str, content_type: str):
    async def page_file(_request: Request) -> Response:
        try:
            content = (PAGE_FOLDER / file_name).read_bytes()
        except FileNotFoundError:  # the rest of the server works without the page
            return _error(
                404,
                f"The page needs training/serving/page/{file_name}. Received: no such file."
                " Restore it from the repository.",
            )
        headers = {"content-security-policy": CONTENT_SECURITY_POLICY, "cache-control": "no-cache"}
        return _answer(content, content_type, headers=headers)

    return page_file


def _answer(body: bytes, content_type: str = "application/json", *, status=200, headers=None):
    return Response(
        body, status, {"content-type": content_type, **(headers or {})}, media_type=content_type
    )


def _refusal(error: ServingError) -> Response:
    headers = {"connection": "close"} if error.body_is_unread else {}
    if error.code == "UNSUPPORTED_MEDIA_TYPE":
        headers["accept-encoding"] = "gzip"
    return _error(STATUS_OF_CODE[error.code], error.message, headers)


def _error(status: int, message: str, headers: dict | None = None) -> Response:
    return _answer(json_bytes({"error": message}), status=status, headers=headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    request_line = f"{request.method} {request.url.path[:200]}"
    words = {404: f"Not found: {request_line}", 405: f"Method not allowed: {request_line}"}
    return _error(error.status_code, words.get(error.status_code, error.detail))


async def _bug(_request: Request, _error_raised: Exception) -> Response:
    """Hides the details from the client; the server's owner sees the traceback."""
    return _error(500, "Internal server error.")
