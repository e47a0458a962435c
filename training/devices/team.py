"""The workers that train on several machines, and how they meet.

TensorFlow and JAX wait for absent workers inside a call that prints nothing and ignores signals.
So the workers meet before that call, at the chief's address: the chief listens, each other worker
connects and sends its number, and the chief tells all of them which workers are missing until none
is. Then the chief leaves the address to TensorFlow or JAX.
"""

import contextlib
import dataclasses
import errno
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from training.command_line.errors import InputError

# The environment variables that name the workers to `keras.distribution`.
JAX_VARIABLES = tuple(
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)
GREETING = "keras-transformer worker "

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_ANSWER = 2  # to connect, and to send a greeting
SECONDS_BETWEEN_REMINDERS = 30


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Team:
    """The workers that the environment names.

    Attributes:
        worker: The number of this worker, from 0. Worker 0 is the chief.
        addresses: HOST:PORT of each worker; None if unknown.
        named_by: The environment variable that names the workers.
    """

    worker: int
    addresses: Sequence[str | None]
    named_by: str

    @classmethod
    def of_environment(cls, backend: str) -> "Team":
        """Reads the backend's environment variables.

        Raises:
            InputError: If the variables do not name the workers.
        """
        return _jax_team() if backend == "jax" else _tensorflow_team()

    @property
    def is_chief(self) -> bool:
        return self.worker == 0

    def in_words(self) -> str:
        number = len(self.addresses)
        return (
            f"{self.named_by} names {number} worker{'s' * (number != 1)}:"
            f" {self.names(range(number))}; this is worker {self.worker}"
        )

    def names(self, workers: Sequence[int]) -> str:
        """Lists the numbers of the given workers, with their addresses where known."""
        return ", ".join(
            f"{worker} ({self.addresses[worker]})" if self.addresses[worker] else str(worker)
            for worker in workers
        )

    def gather(self, minutes: float, tell: Callable[[str], None] = _print) -> None:
        """Waits until all workers have connected.

        Args:
            minutes: The longest wait.
            tell: Called with a line about the missing workers whenever they change.

        Raises:
            InputError: If a worker does not come in time, or the chief cannot listen at its
                address.
        """
        if len(self.addresses) == 1:
            return
        wait = _Wait(self, minutes, tell)
        if self.is_chief:
            _gather_as_chief(self, wait)
        else:
            _gather_as_worker(self, wait)
        tell(f"all {len(self.addresses)} workers have come")


class _Wait:
    """Reports the missing workers, and fails when the time is up."""

    def __init__(self, team: Team, minutes: float, tell: Callable[[str], None]):
        self._team, self._minutes, self._tell = team, minutes, tell
        self._end_seconds = time.monotonic() + 60 * minutes
        self._missing = None

    def go_on(self, missing: Sequence[int]) -> None:
        """Takes the workers that are missing now. Call this repeatedly.

        Raises:
            InputError: If the time is up.
        """
        now, missing = time.monotonic(), list(missing)
        names = f"worker{'s' * (len(missing) != 1)} {self._team.names(missing)}"
        if now >= self._end_seconds:
            raise InputError(
                f"All workers must come within {self._minutes:g} minutes. Received: no {names}."
                " Run the same command there, check that they can reach the chief at its address,"
                " or give more --wait-minutes."
            )
        if missing != self._missing or now >= self._next_reminder_seconds:
            self._missing = missing
            self._next_reminder_seconds = now + SECONDS_BETWEEN_REMINDERS
            minutes = (self._end_seconds - now) / 60
            self._tell(f"waiting for {names}, at most {minutes:.3g} minutes (--wait-minutes)")


def _gather_as_chief(team: Team, wait: _Wait) -> None:
    others = range(1, len(team.addresses))
    connections = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listening(team.addresses[0]))
        while missing := [worker for worker in others if worker not in connections]:
            wait.go_on(missing)
            sockets = [server, *connections.values()]
            ready, _, _ = select.select(sockets, [], [], SECONDS_BETWEEN_LOOKS)
            for worker, connection in list(connections.items()):
                if connection in ready:  # after its greeting, a worker can only disconnect
                    connections.pop(worker).close()
            if server in ready:
                connection = stack.enter_context(server.accept()[0])
                worker = _greeting(connection)
                if worker in others and worker not in connections:
                    connections[worker] = connection
                else:
                    connection.close()
            if ready:
                _send_missing([w for w in others if w not in connections], connections)


def _send_missing(missing: list[int], connections: dict[int, socket.socket]) -> None:
    for connection in connections.values():
        with contextlib.suppress(OSError):  # the worker has gone; the next select will show it
            connection.sendall(json.dumps(missing).encode() + b"\n")


def _greeting(connection: socket.socket) -> int | None:
    """Reads the number of the worker that has connected; None if it is not a worker."""
    connection.settimeout(SECONDS_TO_ANSWER)
    with contextlib.suppress(OSError, ValueError):
        line = connection.recv(64).decode()  # short enough to come in one piece
        if line.startswith(GREETING):
            return int(line.removeprefix(GREETING))
    return None


def _gather_as_worker(team: Team, wait: _Wait) -> None:
    while True:
        wait.go_on([0])
        with contextlib.suppress(OSError):
            for missing in _missing_according_to_chief(team):
                if not missing:
                    return
                wait.go_on([worker for worker in missing if worker < len(team.addresses)])
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _missing_according_to_chief(team: Team) -> Iterator[list[int]]:
    """Yields the missing workers repeatedly, until the chief has gone.

    Raises:
        OSError: If the chief cannot be reached.
    """
    with socket.create_connection(_host_and_port(team.addresses[0]), SECONDS_TO_ANSWER) as chief:
        chief.sendall(f"{GREETING}{team.worker}\n".encode())
        chief.settimeout(SECONDS_BETWEEN_LOOKS)
        unread, missing = b"", [0]
        while True:
            with contextlib.suppress(TimeoutError):
                received = chief.recv(4096)
                *lines, unread = (unread + received).split(b"\n")
                if not received or len(unread) > 4096:
                    return
                for line in lines:
                    missing = _numbers(line)
            yield missing


def _numbers(line: bytes) -> list[int]:
    """Parses the chief's list of missing workers; [0] if the line is not from a chief."""
    with contextlib.suppress(ValueError):
        numbers = json.loads(line)
        if isinstance(numbers, list) and all(type(number) is int for number in numbers):
            return numbers
    return [0]


def _listening(address: str) -> socket.socket:
    """Opens a socket that listens at the address.

    If this machine does not know the address as its own, the socket listens at all of its
    addresses.

    Raises:
        InputError: If the port is taken.
    """
    host, port = _host_and_port(address)
    for name in (host, ""):
        try:
            family = socket.AF_INET6 if ":" in name else socket.AF_INET
            return socket.create_server((name, port), family=family)
        except OSError as error:
            is_elsewhere = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
            if not (name and is_elsewhere):
                raise cannot_listen(address, error) from error


def cannot_listen(address: str, error: Exception) -> InputError:
    """Returns the error to raise if a worker's address is taken, or not its own."""
    return InputError(
        f"The worker must be able to listen at its address. Received: {address}:"
        f" {str(error).splitlines()[0][:200]}. Correct the address, or free the port."
    )


def _host_and_port(address: str) -> tuple[str, int]:
    """Splits HOST:PORT; raises ValueError if the address has another form."""
    host, _, port = address.rpartition(":")
    if not host or not 0 < int(port) < 65536:
        raise ValueError(address)
    return host.strip("[]"), int(port)


def _tensorflow_team() -> Team:
    text = os.environ.get("TF_CONFIG", "")
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        for address in workers:
            _host_and_port(address)
        if (
            list(config["cluster"]) == ["worker"]
            and task["type"] == "worker"
            and 0 <= int(task["index"]) < len(workers)
        ):
            return Team(int(task["index"]), workers, "TF_CONFIG")
    raise InputError(
        "TF_CONFIG must name all workers, and the index of this one, for example"
        ' {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker",'
        f' "index": 0}}}}. Received: TF_CONFIG={text or "nothing"}. Set it in the environment, with'
        " a different index on each machine."
    )


def _jax_team() -> Team:
    values = [os.environ.get(name, "") for name in JAX_VARIABLES]
    with contextlib.suppress(ValueError):
        addresses, number, worker = values[0].split(","), int(values[1]), int(values[2])
        for address in addresses:
            _host_and_port(address)
        if 0 <= worker < number:
            known = addresses if len(addresses) == number else addresses[:1]
            return Team(worker, [*known, *[None] * (number - len(known))], JAX_VARIABLES[0])
    received = ", ".join(
        f"{name}={value}" if value else f"no {name}"
        for name, value in zip(JAX_VARIABLES, values, strict=True)
    )
    raise InputError(
        f"{', '.join(JAX_VARIABLES)} must name the first worker's address as HOST:PORT, the number"
        f" of workers and the number of this one, from 0. Received: {received}. Set them in the"
        " environment, with a different number on each machine."
    )
