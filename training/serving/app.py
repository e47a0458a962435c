"""The routes: TensorFlow Serving's REST interface, and the page at `/`.

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
from training.serving.bodies import LARGEST_RATIO, GzipBody, PlainBody
from training.serving.errors import ServingError, invalid
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
from training.serving.request_targets import in_origin_form
from training.serving.versions import Versions
from training.serving.visitors import Visitors

PAGE_FOLDER = Path(__file__).with_name("page")
PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
# The page may ask any server for translations, since it works with a real TensorFlow Serving as
# well; all else comes from here.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self' http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
PREDICTION_PATH = re.compile(MODEL + ":(classify|regress|predict)", re.IGNORECASE | re.ASCII)
STATUS_PATH = re.compile(MODEL + "(?:/(metadata))?", re.IGNORECASE | re.ASCII)
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
LARGE_ANSWER_VALUES = 10_000  # written in a thread, so that others need not wait for it


@dataclass
class RequestBounds:
    """What bounds a request before its JSON is read.

    Attributes:
        max_request_bytes: Of the body, as it comes and as it is unpacked.
        max_bytes_in_flight: Of all bodies that are being read or worked on.
        body_seconds: For the body to arrive.
        answer_seconds: For the model to answer.
    """

    max_request_bytes: int = 4 * 2**20
    max_bytes_in_flight: int = 256 * 2**20
    body_seconds: float = 30.0
    answer_seconds: float = 300.0


@dataclass
class Service:
    """Everything that the routes need."""

    versions: Versions
    batcher: Batcher
    visitors: Visitors = field(default_factory=Visitors)
    limits: Limits = field(default_factory=Limits)
    bounds: RequestBounds = field(default_factory=RequestBounds)
    bytes_in_flight: int = 0

    def __post_init__(self):
        self.metrics = Metrics(self.versions.name)


def make_app(service: Service):
    """The ASGI application."""

    async def rest(request: Request) -> Response:
        start_seconds, code = time.monotonic(), "OK"
        try:
            return await _rest(service, request)
        except ServingError as error:
            code = error.code
            return _refusal(error)
        except ClientDisconnect:
            code = "CANCELLED"
            return Response(status_code=499)
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
    app = service.visitors.guard(Starlette(routes=routes, exception_handlers=handlers))
    return in_origin_form(app)


async def _rest(service: Service, request: Request) -> Response:
    """What the paths under /v1/ answer."""
    path = request.scope["raw_path"].decode("ascii", "replace")
    match = None
    if request.method == "POST":
        match = PREDICTION_PATH.fullmatch(path)
    elif request.method in ("GET", "HEAD"):
        match = STATUS_PATH.fullmatch(path)
    if not match:
        raise invalid(f"Malformed request: {request.method} {path[:200]}")
    name, version, label, action = match.groups()
    number = int(version) if version and len(version) < 20 else None
    if version and (number is None or number >= 2**63):
        raise invalid(f"Failed to convert version: {version[:40]} to numeric.")
    asked = _Asked(unquote(name), number, unquote(label) if label else None, (action or "").lower())
    if request.method != "POST":
        return _metadata(service, asked) if asked.action == "metadata" else _status(service, asked)
    return await _with_body(service, request, asked)


@dataclass(frozen=True)
class _Asked:
    """What a path names."""

    model: str
    number: int | None
    label: str | None
    action: str

    def check_model(self, service: Service) -> None:
        """Refuses other models, with the words that are used if a version is not there."""
        if self.model != service.versions.name:
            asked = f"Latest({self.model})"
            if self.number is not None:
                asked = f"Specific({self.model}, {self.number})"
            raise ServingError("NOT_FOUND", f"Servable not found for request: {asked}")


def _status(service: Service, asked: _Asked) -> Response:
    if asked.model != service.versions.name:
        message = f"Could not find any versions of model {asked.model}"
        if asked.number is not None:
            message = f"Could not find version {asked.number} of model {asked.model}"
        raise ServingError("NOT_FOUND", message)
    told = []
    for number in service.versions.numbers(asked.number, asked.label):
        status = service.versions.statuses[number]
        health = {"error_code": status.code, "error_message": status.message}
        told.append({"version": str(number), "state": status.state, "status": health})
    return _answer(json_bytes({"model_version_status": told}))


def _metadata(service: Service, asked: _Asked) -> Response:
    asked.check_model(service)
    with service.versions.use(asked.number, asked.label) as version:
        spec = {"name": asked.model, "signature_name": "", "version": str(version.number)}
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


async def _with_body(service: Service, request: Request, asked: _Asked) -> Response:
    """Reads the body, within bounds, and answers it."""
    reserved = _expected_bytes(request, service.bounds.max_request_bytes)
    if service.bytes_in_flight + reserved > service.bounds.max_bytes_in_flight:
        raise _unread("UNAVAILABLE", "Too many bytes are being worked on. Try again later.")
    service.bytes_in_flight += reserved
    try:
        document = read_object(await _body(request, service.bounds))
        asked.check_model(service)
        if asked.action != "predict":
            return _other_method(service, asked, document)
        return await _predict(service, asked, document)
    finally:
        service.bytes_in_flight -= reserved


async def _predict(service: Service, asked: _Asked, document: dict) -> Response:
    signature_name = signature_name_of(document)
    with service.versions.use(asked.number, asked.label) as version:
        if signature_name not in version.signature_defs:
            raise invalid(
                f'Serving signature name: "{signature_name[:200]}" not found in signature def'
            )
        wanted = predict_request(document)
        arrays = arrays_of(
            wanted, dict(version.signature_defs[signature_name].inputs), service.limits
        )
        in_rows = version.rows_are_independent(signature_name)
        if not in_rows:
            _check_whole(arrays, service.batcher.max_batch_size)
        running = service.batcher.submit(version.run_of(signature_name), arrays, in_rows=in_rows)
        try:
            outputs = await asyncio.wait_for(running, service.bounds.answer_seconds)
        except TimeoutError as error:
            raise ServingError(
                "DEADLINE_EXCEEDED",
                f"The answer must come within {service.bounds.answer_seconds:g} s. Received: none"
                " by then. Send fewer texts at a time.",
            ) from error
    if sum(array.size for array in outputs.values()) > LARGE_ANSWER_VALUES:
        body = await asyncio.to_thread(answer_of, outputs, wanted.by_row, service.limits)
    else:
        body = answer_of(outputs, wanted.by_row, service.limits)
    return _answer(body)


def _check_whole(arrays: dict, max_batch_size: int) -> None:
    """Bounds what can't be run in parts, since its outputs are as long as the longest of it."""
    most = max((len(array) for array in arrays.values() if array.ndim), default=0)
    if most > max_batch_size:
        raise invalid(
            f"A request to this signature may hold {max_batch_size:,} rows. Received: {most:,}."
            " Send them in several requests."
        )


def _other_method(service: Service, asked: _Asked, document: dict) -> Response:
    """Refuses :classify and :regress as the real server does for signatures of :predict."""
    if "examples" not in document:
        raise invalid(
            f"When method is {asked.action}, key 'examples' is expected and was not found"
        )
    if not isinstance(document["examples"], list) or not document["examples"]:
        raise invalid("'examples' must be a list of at least one example.")
    name = signature_name_of(document)
    kind = {"classify": "classification", "regress": "regression"}[asked.action]
    with service.versions.use(asked.number, asked.label) as version:
        if name not in version.signature_defs:
            raise invalid(f"No signature was found with the name: {name[:200]}")
        was = version.signature_defs[name].method_name
    raise invalid(
        f"Expected {kind} signature method_name to be tensorflow/serving/{asked.action}. Was: {was}"
    )


def _is_gzip(request: Request) -> bool:
    """Whether the body is in gzip.

    Raises:
        ServingError: If it is in another coding.
    """
    named = ",".join(request.headers.getlist("content-encoding")).lower().split(",")
    codings = [name.strip() for name in named if name.strip() not in ("", "identity")]
    if not codings:
        return False
    if codings not in (["gzip"], ["x-gzip"]):
        raise _unread(
            "UNSUPPORTED_MEDIA_TYPE",
            f"Content-Encoding must be gzip or left out. Received: {', '.join(codings)[:200]}. Send"
            " the body as it is, or in gzip.",
        )
    return True


def _expected_bytes(request: Request, most: int) -> int:
    """How many bytes a body will have, unpacked, or may have if it does not say."""
    is_gzip = _is_gzip(request)
    length = request.headers.get("content-length", "")
    expected = int(length) if length.isascii() and length.isdecimal() else most
    if expected > most:
        raise _too_large(most)
    return min(expected * LARGEST_RATIO, most) if is_gzip else expected


async def _body(request: Request, bounds: RequestBounds) -> bytes:
    """The body, unpacked."""
    most, num_received = bounds.max_request_bytes, 0
    body = GzipBody(most) if _is_gzip(request) else PlainBody()
    try:
        async with asyncio.timeout(bounds.body_seconds):
            async for chunk in request.stream():
                num_received += len(chunk)
                body.add(chunk)
                if max(num_received, len(body.content)) > most:
                    raise _too_large(most)
        body.end()
    except TimeoutError as error:
        raise _unread(
            "REQUEST_TIMEOUT", f"The body must arrive within {bounds.body_seconds:g} s."
        ) from error
    except ValueError as error:
        raise _unread("INVALID_ARGUMENT", str(error)) from error
    return bytes(body.content)


def _too_large(most: int) -> ServingError:
    return _unread(
        "CONTENT_TOO_LARGE",
        f"A request may have {most:,} bytes. Received: more. Send fewer texts at a time.",
    )


def _unread(code: str, message: str) -> ServingError:
    """A refusal before the end of the body, after which the connection is of no use."""
    error = ServingError(code, message)
    error.body_is_unread = True
    return error


def _body_is_unread(error: ServingError) -> bool:
    return getattr(error, "body_is_unread", False)


def _page_file(file_name: str, content_type: str):
    async def page_file(_request: Request) -> Response:
        path = PAGE_FOLDER / file_name
        if not path.is_file():
            return _error(404, f"{file_name} must be there to be shown. Received: nothing.")
        headers = {"content-security-policy": CONTENT_SECURITY_POLICY, "cache-control": "no-cache"}
        return _answer(path.read_bytes(), content_type, headers=headers)

    return page_file


def _answer(body: bytes, content_type: str = "application/json", *, status=200, headers=None):
    return Response(
        body, status, {"content-type": content_type, **(headers or {})}, media_type=content_type
    )


def _refusal(error: ServingError) -> Response:
    headers = {"connection": "close"} if _body_is_unread(error) else {}
    if error.code == "UNSUPPORTED_MEDIA_TYPE":
        headers["accept-encoding"] = "gzip"
    return _error(error.status, error.message, headers)


def _error(status: int, message: str, headers: dict | None = None) -> Response:
    return _answer(json_bytes({"error": message}), status=status, headers=headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    what = f"{request.method} {request.url.path[:200]}"
    words = {404: f"Not found: {what}", 405: f"Method not allowed: {what}"}
    return _error(error.status_code, words.get(error.status_code, error.detail))


async def _bug(_request: Request, _error_raised: Exception) -> Response:
    """Says no more than that; the traceback is the server's own."""
    return _error(500, "An error of the server itself.")
