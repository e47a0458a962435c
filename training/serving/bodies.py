"""Reads request bodies within limits: plain, or gzip, which is unpacked as it arrives.

Source: RFC 1952 (gzip) and RFC 9110, section 8.4.1.3.
"""

import asyncio
import zlib

from starlette.requests import Request

from training.serving.errors import ServingError
from training.serving.predict import Limits

GZIP_WINDOW = 16 + zlib.MAX_WBITS  # tells zlib to accept gzip only
LARGEST_RATIO = 1032  # of unpacked to packed bytes: the most that deflate can reach


def expected_bytes(request: Request, most: int) -> int:
    """Returns the unpacked body's size, or an upper bound if the headers do not give the size.

    Raises:
        ServingError: If the body is larger than `most`, or in an unknown coding.
    """
    is_gzip = _is_gzip(request)
    length = request.headers.get("content-length", "")
    expected = int(length) if length.isascii() and length.isdecimal() else most
    if expected > most:
        raise _too_large(most)
    return min(expected * LARGEST_RATIO, most) if is_gzip else expected


async def read_body(request: Request, limits: Limits) -> bytes:
    """Returns the unpacked body.

    Raises:
        ServingError: If the body is too large or too slow, or is broken gzip.
    """
    most, num_received = limits.max_request_bytes, 0
    packed = GzipBody(most) if _is_gzip(request) else None
    content = packed.content if packed else bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                num_received += len(part)
                if packed:
                    packed.add(part)
                else:
                    content += part
                if max(num_received, len(content)) > most:
                    raise _too_large(most)
    except TimeoutError as error:
        raise _unread(
            "REQUEST_TIMEOUT",
            f"The body must arrive within {limits.body_seconds:g} s. Received: a part of it. Send"
            " the request again.",
        ) from error
    if packed:
        packed.end()
    return bytes(content)


class GzipBody:
    """Unpacks a body of one or more gzip members, up to one byte more than `most`."""

    def __init__(self, most: int):
        self.content = bytearray()
        self._most = most
        self._member = None

    def add(self, part: bytes) -> None:
        """Unpacks the next part of the body.

        Raises:
            ServingError: If the part is not gzip, or a member's checksum or length is wrong.
        """
        while part and len(self.content) <= self._most:
            if self._member is None or self._member.eof:
                self._member = zlib.decompressobj(GZIP_WINDOW)
            try:
                self.content += self._member.decompress(part, self._most + 1 - len(self.content))
            except zlib.error as error:
                raise _bad_gzip(str(error)) from error
            part = self._member.unused_data  # the next member

    def end(self) -> None:
        """Raises a ServingError unless the last member is complete."""
        if self._member is None or not self._member.eof:
            raise _bad_gzip("no end of the gzip data")


def _is_gzip(request: Request) -> bool:
    named = ",".join(request.headers.getlist("content-encoding")).lower().split(",")
    codings = [name.strip() for name in named if name.strip() not in ("", "identity")]
    if codings and codings not in (["gzip"], ["x-gzip"]):
        raise _unread(
            "UNSUPPORTED_MEDIA_TYPE",
            f"Content-Encoding must be gzip or absent. Received: {', '.join(codings)[:200]}."
            " Send the body uncompressed, or as gzip.",
        )
    return bool(codings)


def _bad_gzip(what: str) -> ServingError:
    return _unread(
        "INVALID_ARGUMENT",
        "With Content-Encoding: gzip, a body must hold complete gzip data and nothing else."
        f" Received: {what}. Compress it again, or send it uncompressed.",
    )


def _too_large(most: int) -> ServingError:
    return _unread(
        "CONTENT_TOO_LARGE",
        f"A request may have up to {most:,} bytes. Received: more. Send fewer texts at a time.",
    )


def _unread(code: str, message: str) -> ServingError:
    return ServingError(code, message, body_is_unread=True)
