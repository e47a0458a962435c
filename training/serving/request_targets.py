"""Request targets in absolute form, as programs send them to a proxy and some proxies pass on.

Source: RFC 9112, section 3.2.2.
"""

import re
from urllib.parse import unquote

ABSOLUTE = re.compile(rb"https?://([^/]+)(/.*)?", re.IGNORECASE | re.DOTALL)


def in_origin_form(app):
    """The ASGI application that is also asked by targets as http://host/path.

    The host of such a target takes the place of the `Host` header, as the RFC asks, so that whoever
    checks one has checked the other.
    """

    async def asked(scope, receive, send):
        match = scope["type"] == "http" and ABSOLUTE.fullmatch(scope["raw_path"])
        if match:
            host, path = match[1], match[2] or b"/"
            others = [header for header in scope["headers"] if header[0] != b"host"]
            scope = {
                **scope,
                "raw_path": path,
                "path": unquote(path.decode("ascii")),
                "headers": [(b"host", host), *others],
            }
        await app(scope, receive, send)

    return asked
