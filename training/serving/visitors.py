"""Who may ask: programs that mean this server, and pages that it knows.

A browser sends requests for any page that its user visits. Two headers tell such a page: `Host`
(a foreign name that its owner has pointed at this machine: DNS rebinding), and `Origin` (a page of
another site). Programs send neither a foreign Host nor an Origin.
"""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from training.serving.predict import json_bytes

LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
CORS_HEADERS = {
    "access-control-allow-methods": "POST, GET",
    "access-control-allow-headers": "Content-Type, Content-Encoding",
    "access-control-max-age": "600",
}


@dataclass(frozen=True)
class Visitors:
    """Tells requests that are meant for this server from others.

    Attributes:
        hosts: Names, in lower case, that this server goes by besides those of the loopback and
            plain addresses. An address needs no mention: rebinding takes a name.
        origins: Origins whose pages may ask, as in "https://example.org".
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def knows_host(self, host: str | None) -> bool:
        """Whether a Host header names this server. HTTP/1.0 has none, and browsers always do."""
        if host is None:
            return True
        name = _host_name(host)
        return name in LOOPBACK_NAMES | self.hosts or _is_address(name)

    def knows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of this origin may ask: one from here, or from a known place."""
        if origin is None or origin in self.origins:
            return True
        parts = urlsplit(origin)
        same_place = parts.netloc.lower() == (host or "").lower()
        return parts.scheme in ("http", "https") and bool(host) and same_place

    def guard(self, app):
        """The ASGI application that answers visitors, and refuses all others."""

        async def guarded(scope, receive, send):
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
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

            if refusal:
                await _plain_answer(send_with_headers, 403, {"error": refusal})
            elif scope["method"] == "OPTIONS" and origin in self.origins:
                await _plain_answer(send_with_headers, 200, {}, CORS_HEADERS)
            else:
                await app(scope, receive, send_with_headers)

        return guarded

    def _refusal(self, headers: Headers) -> str | None:
        hosts, origin = headers.getlist("host"), headers.get("origin")
        host = hosts[0] if hosts else None
        if len(hosts) > 1 or not self.knows_host(host):
            return (
                "Host must be a name of this server. Received:"
                f" {', '.join(hosts)[:200]}. Start it with --allowed-hosts and this name."
            )
        if not self.knows_origin(origin, host):
            return (
                "Origin must be this server or a known one. Received:"
                f" {origin[:200]}. Start it with --cors-origins and this origin."
            )
        return None


async def _plain_answer(send, status: int, document: dict, more_headers: dict | None = None):
    body = json_bytes(document)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **(more_headers or {}),
    }
    if status != 200:
        headers["connection"] = "close"  # the body has not been read
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _host_name(host: str) -> str:
    """The name of a Host header, without its port."""
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
