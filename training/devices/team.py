"""The workers of a training on several machines: who they are, and how they meet.

TensorFlow and JAX wait for absent workers inside a call that prints nothing and ignores signals.
So the workers meet before that call, at the chief's address: the chief listens there, the others
connect and say who they are, and the chief tells them all who is missing until nobody is. Then it
leaves the address to TensorFlow or JAX.
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
SECONDS_TO_ANSWER = 2  # to make a connection, and to send a greeting over it
SECONDS_BETWEEN_REMINDERS = 30


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Team:
    """The workers that the environment names.

    Attributes:
        worker: The number of this process among them, from 0, which is the chief.
        addresses: HOST:PORT of each; None where it is not known.
        named_by: The variable that names them.
    """

    worker: int
    addresses: Sequence[str | None]
    named_by: str

    @classmethod
    def of_environment(cls, backend: str) -> "Team":
        """Reads the backend's variables.

        Raises:
            InputError: If they do not name the workers.
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
        """The numbers of some workers, with the addresses that are known."""
        return ", ".join(
            f"{worker} ({self.addresses[worker]})" if self.addresses[worker] else str(worker)
            for worker in workers
        )

    def gather(self, minutes: float, tell: Callable[[str], None] = _print) -> None:
        """Waits until all workers have come.

        Args:
            minutes: The longest wait.
            tell: Called with a line about who is missing whenever that changes.

        Raises:
            InputError: If one does not come in time, or the chief cannot listen at its address.
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
    """Tells who is missing, and ends when its time is up."""

    def __init__(self, team: Team, minutes: float, tell: Callable[[str], None]):
        self._team, self._minutes, self._tell = team, minutes, tell
        self._end_seconds = time.monotonic() + 60 * minutes
        self._missing = None

    def go_on(self, missing: Sequence[int]) -> None:
        """Takes the workers that are missing now; call it again and again.

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
                if connection in ready:  # after its greeting, a worker sends only its end
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
        with contextlib.suppress(OSError):  # it has gone; the next look will notice
            connection.sendall(json.dumps(missing).encode() + b"\n")


def _greeting(connection: socket.socket) -> int | None:
    """The number of the worker that has connected; None if it is something else."""
    connection.settimeout(SECONDS_TO_ANSWER)
    with contextlib.suppress(OSError, ValueError):
        line = connection.recv(64).decode()  # so short that it comes in one piece
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
    """Yields the missing workers again and again, until the chief has gone.

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
    """The chief's list; if something else answers at its address, the chief is missing."""
    with contextlib.suppress(ValueError):
        numbers = json.loads(line)
        if isinstance(numbers, list) and all(type(number) is int for number in numbers):
            return numbers
    return [0]


def _listening(address: str) -> socket.socket:
    """A socket at the address, or at all of this machine's if it does not know this one.

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
    """The error to raise if a worker's address is taken, or not its own."""
    return InputError(
        f"The worker must be able to listen at its address. Received: {address}:"
        f" {str(error).splitlines()[0][:200]}. Correct the address, or free the port."
    )


def _host_and_port(address: str) -> tuple[str, int]:
    """Splits HOST:PORT; raises ValueError if it is something else."""
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
        "TF_CONFIG must name all workers and say which of them this process is, for example"
        ' {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker",'
        f' "index": 0}}}}. Received: TF_CONFIG={text or "nothing"}. Set it in the environment, with'
        " another index on each machine."
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
        " environment, with another number on each machine."
    )
