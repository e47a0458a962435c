"""Sends requests to a server with TensorFlow Serving's REST interface from many clients at a time.

    python -I training/benchmarks/served_load.py < request.json > answer.json

The request has `host`, `port`, `path`, `bodies` (JSON texts), `clients`, `seconds` and
`warm_up_seconds`. Each client keeps one connection and waits for each answer before it sends the
next request. The script has its own process and imports only the standard library, so that clients
cost the server nothing except processor time, which the answer reports.
"""

import asyncio
import itertools
import json
import math
import sys
import time

TIMEOUT_SECONDS = 60
READ_BYTES = 2**24


async def ask_for(request: dict) -> dict:
    """Sends requests for the given seconds, and returns what was measured after the warm-up."""
    bodies = itertools.cycle([_http(request, body) for body in request["bodies"]])
    start_seconds = time.monotonic() + request["warm_up_seconds"]
    end_seconds = start_seconds + request["seconds"]
    outcomes = []  # for each request: when it was sent, how long it took, and its error
    clients = [_client(request, bodies, end_seconds, outcomes) for _ in range(request["clients"])]
    asking = asyncio.gather(*clients)
    await asyncio.sleep(request["warm_up_seconds"])
    processor_seconds = time.process_time()
    await asking
    seconds = time.monotonic() - start_seconds
    counted = [outcome for sent, *outcome in outcomes if sent >= start_seconds]
    latencies = sorted(latency for latency, error in counted if error is None)
    errors = [error for _, error in counted if error is not None]
    return {
        "requests": len(latencies),
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "seconds": seconds,
        "median_seconds": percentile(latencies, 50),
        "p99_seconds": percentile(latencies, 99),
        "max_seconds": percentile(latencies, 100),
        "processor_seconds": time.process_time() - processor_seconds,
    }


def percentile(ascending: list[float], percent: float) -> float | None:
    """Returns the smallest value that `percent` of the values do not exceed; None if empty."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


async def _client(request: dict, bodies, end_seconds: float, outcomes: list) -> None:
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
        outcomes.append((sent_seconds, time.monotonic() - sent_seconds, error))
        if error:
            if streams:
                streams[1].close()
                streams = None
            await asyncio.sleep(0.05)  # no busy loop if the server is down
    if streams:
        streams[1].close()


async def _ask(reader, writer, message: bytes) -> str | None:
    """Sends one request; returns None if it is answered, else a description of the error."""
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
