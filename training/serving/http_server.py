"""uvicorn, with bounds on connections and with signals that mean what a service needs them to mean.

The first SIGTERM or SIGINT: no new connections, running requests are answered, exit code 0. A
second one: out at once.
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


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that a port in use is known before a model is loaded.

    Raises:
        InputError: If it can't be bound.
    """
    if not 0 <= port <= 65535:
        raise InputError(
            f"--port must be 0 to 65535. Received: {port}. Choose for example 8501, or 0 for any"
            " that is free."
        )
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(
            f"--host must be an address of this machine. Received: {host} ({error.strerror})."
            " Choose for example 127.0.0.1."
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise InputError(
            f"--host and --port must be free to listen on. Received: {host} and {port}"
            f" ({error.strerror}). Choose another port, or 0 for any that is free."
        ) from error
    return bound


def make_server(
    app, max_connections: int, header_seconds: float = 20.0, keep_alive_seconds: float = 75.0
) -> uvicorn.Server:
    """The server of an application; `await server.serve(sockets=[...])` runs it.

    Args:
        app: What answers.
        max_connections: More are refused.
        header_seconds: For the headers of a request to arrive, from the first byte on, and for the
            first byte of a new connection.
        keep_alive_seconds: How long a connection may idle between two requests.
    """

    class Protocol(_BoundedProtocol):
        pass

    Protocol.max_connections = max_connections
    Protocol.header_seconds = header_seconds
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=LONGEST_STOP_SECONDS,
        backlog=2048,
    )
    return _Server(config)


class _BoundedProtocol(H11Protocol):
    """Closes connections that are too many, or that don't get to the point."""

    max_connections = 0
    header_seconds = 0.0
    _header_timer = None

    def connection_made(self, transport):
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(REFUSAL) + REFUSAL
            )
            transport.close()
            return
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
        self._header_timer = self.loop.call_later(self.header_seconds, self._give_up)

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
        """Stops in order at the first signal, at once at the second; both leave no exit code."""
        with handling_signals(self._stop, signal.SIGINT, signal.SIGTERM):
            yield

    def _stop(self, signal_number, _frame):
        if self.should_exit:
            os._exit(128 + signal_number)
        self.should_exit = True


async def serve_until_stopped(server: uvicorn.Server, bound: socket.socket, *tasks) -> None:
    """Serves until a signal comes; meanwhile the tasks run, which must not end before."""
    running = [asyncio.ensure_future(task) for task in tasks]
    serving = asyncio.ensure_future(server.serve(sockets=[bound]))
    try:
        await asyncio.wait([serving, *running], return_when=asyncio.FIRST_COMPLETED)
        for task in running:
            if task.done():
                server.should_exit = True
                task.result()  # raises what stopped it
        await serving
    finally:
        for task in running:
            task.cancel()
