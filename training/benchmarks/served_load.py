"""Asks a server that speaks TensorFlow Serving's REST interface, as many clients do at a time.

    python -I training/benchmarks/served_load.py < request.json > answer.json

The request holds `host`, `port`, `path`, `bodies` (of requests, as text), `clients`, `seconds` and
`warm_up_seconds`. Each client sends its next request when its last was answered, over one
connection. A process of its own, so that asking takes nothing from answering but a share of the
processors, which is told. It imports the standard library alone.
"""

import asyncio
import itertools
import json
import math
import sys
import time

TIMEOUT_SECONDS = 60
READ_BYTES = 2**24


class Tally:
    """What came of the requests that were sent after the warm-up.

    Args:
        start_seconds: When to begin counting, on the monotonic clock.
    """

    def __init__(self, start_seconds: float):
        self.start_seconds = start_seconds
        self.answer_seconds = []
        self.errors = 0
        self.first_error = None

    def enter(self, sent_seconds: float, error: str | None) -> None:
        """Counts one request."""
        if sent_seconds < self.start_seconds:
            return
        if error is None:
            self.answer_seconds.append(time.monotonic() - sent_seconds)
        else:
            self.errors += 1
            self.first_error = self.first_error or error


async def ask_for(request: dict) -> dict:
    """Asks for the seconds that the request names, and says what came."""
    bodies = itertools.cycle([_http(request, body) for body in request["bodies"]])
    start_seconds = time.monotonic() + request["warm_up_seconds"]
    end_seconds = start_seconds + request["seconds"]
    tally = Tally(start_seconds)
    clients = [_client(request, bodies, end_seconds, tally) for _ in range(request["clients"])]
    asking = asyncio.gather(*clients)
    await asyncio.sleep(request["warm_up_seconds"])
    processor_seconds = time.process_time()
    await asking
    seconds = time.monotonic() - start_seconds
    latencies = sorted(tally.answer_seconds)
    return {
        "requests": len(latencies),
        "errors": tally.errors,
        "first_error": tally.first_error,
        "seconds": seconds,
        "median_seconds": percentile(latencies, 50),
        "p99_seconds": percentile(latencies, 99),
        "max_seconds": percentile(latencies, 100),
        "processor_seconds": time.process_time() - processor_seconds,
    }


def percentile(ascending: list[float], percent: float) -> float | None:
    """The smallest value that at least so many percent do not exceed; None of nothing."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


async def _client(request: dict, bodies, end_seconds: float, tally: Tally) -> None:
    """One client: asks, waits for the answer, asks again."""
    streams = None
    while (sent_seconds := time.monotonic()) < end_seconds:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                if streams is None:
                    streams = await asyncio.open_connection(
                        request["host"], request["port"], limit=READ_BYTES
                    )
                error = await _ask(*streams, next(bodies))
        except (OSError, EOFError, ValueError, TimeoutError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        tally.enter(sent_seconds, error)
        if error and streams:
            streams[1].close()
            streams = None
        if error:
            await asyncio.sleep(0.05)  # a server that is not there is not asked without pause
    if streams:
        streams[1].close()


async def _ask(reader, writer, message: bytes) -> str | None:
    """Sends one request; None if it was answered, else what came instead."""
    writer.write(message)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    [length] = [line for line in head.split("\r\n") if line.startswith("content-length:")]
    body = await reader.readexactly(int(length.split(":")[1]))
    if head.split(" ", 2)[1] != "200" or b'"predictions"' not in body[:40]:
        return f"{head.splitlines()[0]} {body[:300].decode('utf-8', 'replace')}"
    return None


def _http(request: dict, body: str) -> bytes:
    data = body.encode("utf-8")
    head = (
        f"POST {request['path']} HTTP/1.1\r\nHost: {request['host']}:{request['port']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode("ascii") + data


if __name__ == "__main__":
    json.dump(asyncio.run(ask_for(json.load(sys.stdin))), sys.stdout)
