"""Bodies of requests as they arrive: plain, or in gzip and unpacked to a limit.

Source: RFC 1952 (gzip) and RFC 9110, section 8.4.1.3.
"""

import zlib

GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib's way to ask for gzip alone
LARGEST_RATIO = 1032  # of what comes out to what goes in: deflate can't do more


class PlainBody:
    """A body that comes as it is."""

    def __init__(self):
        self.content = bytearray()

    def add(self, part: bytes) -> None:
        """Takes the next part."""
        self.content += part

    def end(self) -> None:
        """Accepts any end."""


class GzipBody:
    """A body of one or more gzip members; at most one byte beyond the limit is unpacked.

    Args:
        most: The limit in bytes.
    """

    def __init__(self, most: int):
        self.content = bytearray()
        self._most = most
        self._member = None

    def add(self, part: bytes) -> None:
        """Unpacks the next part.

        Raises:
            ValueError: If it is not gzip, or a member's checksum or length is wrong.
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
        """Checks that the last member is complete.

        Raises:
            ValueError: If it is not, or there is none.
        """
        if self._member is None or not self._member.eof:
            raise _bad_gzip("no end of the gzip data")


def _bad_gzip(what: str) -> ValueError:
    return ValueError(
        f"With Content-Encoding: gzip, a body must be whole gzip members and nothing else."
        f" Received: {what}. Compress it again, or send it uncompressed."
    )
