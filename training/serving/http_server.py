"""A uvicorn server that limits connections and stops gracefully on signals.

On the first SIGTERM or SIGINT, it accepts no more connections, finishes running requests, and exits
with code 0. On the second, it exits at once.
"""

import asyncio
import contextlib
import os
import signal
import socket

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from training.command_line.errors import InputError
from training.command_line.running import handling_signals

REFUSAL = b'{"error": "Too many connections. Try again later."}\n'
LONGEST_STOP_SECONDS = 60
HEADER_SECONDS = 20.0  # for a new connection's first byte, and again for the rest of its headers
KEEP_ALIVE_SECONDS = 75.0  # how long a connection may be idle between two requests


def listening_socket(host: str, port: int) -> socket.socket:
    """Returns a bound socket. Call it before loading a model, to report a port in use early.

    Raises:
        InputError: If the address or port cannot be used.
    """
    if not 0 <= port <= 65535:
        raise InputError(
            f"--port must be 0 to 65535. Received: {port}. For example: 8501, or 0 for any free"
            " port."
        )
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(
            f"--host must be an address of this machine. Received: {host} ({error.strerror})."
            " For example: 127.0.0.1."
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise InputError(
            f"The server must be able to listen on --host and --port. Received: {host} and {port}"
            f" ({error.strerror}). Choose another port, or 0 for any free port."
        ) from error
    return bound


def make_server(app, max_connections: int) -> uvicorn.Server:
    """Returns the server for an ASGI application; `serve_until_stopped` runs it."""
    config = uvicorn.Config(
        app,
        http=type("Protocol", (_BoundedProtocol,), {"max_connections": max_connections}),
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LONGEST_STOP_SECONDS,
        backlog=2048,
    )
    return _Server(config)


class _BoundedProtocol(H11Protocol):
    """Closes connections beyond `max_connections`, and those that send no headers in time."""

    max_connections = 0
    _header_timer = None

    def connection_made(self, transport):
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(REFUSAL) + REFUSAL
            )
            transport.close()
        else:
            self._start_header_timer()

    def data_received(self, data):
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_answering():
            self._stop_header_timer()
        elif self._header_timer is None:
            self._start_header_timer()

    def connection_lost(self, exc):
        self._stop_header_timer()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_header_timer(self):
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_header_timer(self):
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _give_up(self):
        self._header_timer = None
        if not self._is_answering():
            self.transport.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):
        with handling_signals(self._stop, signal.SIGINT, signal.SIGTERM):
            yield

    def _stop(self, signal_number, _frame):
        if self.should_exit:
            os._exit(128 + signal_number)
        self.should_exit = True


async def serve_until_stopped(server: uvicorn.Server, bound: socket.socket, task) -> None:
    """Serves until a signal arrives, and runs `task` meanwhile; raises the task's error."""
    running = asyncio.ensure_future(task)
    serving = asyncio.ensure_future(server.serve(sockets=[bound]))
    try:
        await asyncio.wait([serving, running], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            server.should_exit = True
            running.result()  # raises its error
        await serving
    finally:
        running.cancel()
