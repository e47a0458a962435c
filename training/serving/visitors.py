"""Decides who may use the server: programs, and web pages of known sites.

A browser sends requests on behalf of any page that its user visits. Two headers reveal a foreign
page: `Host`, if its owner has pointed a name at this machine (DNS rebinding), and `Origin`, if it
belongs to another site. Programs send neither a foreign Host nor an Origin.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from training.serving.predict import json_bytes

ABSOLUTE_TARGET = re.compile(rb"https?://([^/]+)(/.*)?", re.IGNORECASE | re.DOTALL)
LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
CORS_HEADERS = {
    "access-control-allow-methods": "POST, GET",
    "access-control-allow-headers": "Content-Type, Content-Encoding",
    "access-control-max-age": "600",
}


@dataclass(frozen=True)
class Visitors:
    """Accepts requests meant for this server, and refuses others.

    Attributes:
        hosts: Names of this server, in lower case, besides loopback names. IP addresses are always
            accepted, since DNS rebinding needs a name.
        origins: Origins whose pages may use the server, such as "https://example.org".
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def knows_host(self, host: str | None) -> bool:
        """Whether a Host header names this server; None, possible in HTTP/1.0, is accepted.

        Browsers always send the header.
        """
        if host is None:
            return True
        name = _host_name(host)
        return name in LOOPBACK_NAMES | self.hosts or _is_address(name)

    def knows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a page with this Origin header may use the server; programs send none."""
        if origin is None or origin in self.origins:
            return True
        parts = urlsplit(origin)
        is_own = bool(host) and parts.netloc.lower() == host.lower()
        return parts.scheme in ("http", "https") and is_own

    def guard(self, app):
        """Wraps an ASGI application so that it answers accepted requests only."""

        async def guarded(scope, receive, send):
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            scope = _in_origin_form(scope)
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            refusal = self._refusal(headers)

            async def send_with_headers(message):
                if message["type"] == "http.response.start":
                    added = MutableHeaders(scope=message)
                    added["x-content-type-options"] = "nosniff"
                    added["cross-origin-resource-policy"] = "same-origin"
                    added["referrer-policy"] = "no-referrer"
                    if self.origins:
                        added.add_vary_header("Origin")
                    if not refusal and origin in self.origins:
                        added["access-control-allow-origin"] = origin
                        added["cross-origin-resource-policy"] = "cross-origin"
                await send(message)

            answer = app
            if refusal:  # the body has not been read, so the connection closes
                answer = _json_response(403, {"error": refusal}, {"connection": "close"})
            elif scope["method"] == "OPTIONS" and origin in self.origins:
                answer = _json_response(200, {}, CORS_HEADERS)
            await answer(scope, receive, send_with_headers)

        return guarded

    def _refusal(self, headers: Headers) -> str | None:
        hosts, origin = headers.getlist("host"), headers.get("origin")
        host = hosts[0] if hosts else None
        if len(hosts) > 1 or not self.knows_host(host):
            return (
                f"Host must be a name of this server. Received: {', '.join(hosts)[:200]}. Start"
                " the server with this name in --allowed-hosts."
            )
        if not self.knows_origin(origin, host):
            return (
                f"Origin must be this server or an allowed site. Received: {origin[:200]}. Start"
                " the server with this origin in --cors-origins."
            )
        return None


def _in_origin_form(scope: dict) -> dict:
    """Turns an absolute request target, http://host/path, into /path.

    The target's host replaces the `Host` header, so that checking the header also checks the host.

    Source: RFC 9112, section 3.2.2.
    """
    match = ABSOLUTE_TARGET.fullmatch(scope["raw_path"])
    if not match:
        return scope
    host, path = match[1], match[2] or b"/"
    others = [header for header in scope["headers"] if header[0] != b"host"]
    headers = [(b"host", host), *others]
    return {**scope, "raw_path": path, "path": unquote(path.decode("ascii")), "headers": headers}


def _json_response(status: int, document: dict, headers: dict) -> Response:
    return Response(json_bytes(document), status, {"content-type": "application/json", **headers})


def _host_name(host: str) -> str:
    """Returns the host name in a Host header, without the port."""
    name = host.strip().lower()
    if name.startswith("["):
        return name.split("]")[0] + "]"
    return name.split(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
