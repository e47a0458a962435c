"""The workers of one training on several machines: who they are, and how they meet.

TensorFlow and JAX wait for absent workers inside a call that says nothing and hears no signal. So
the workers meet before it, at the chief's address: the chief listens there, the others connect and
say who they are, and the chief tells all of them who is missing until nobody is. Then it leaves the
address to TensorFlow or JAX.
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

from keras_transformer.wording import counted
from training.command_line.errors import InputError

# How a training names its workers to `keras.distribution`, in the environment.
JAX_VARIABLES = tuple(
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)
GREETING = "keras-transformer worker "

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_ANSWER = 2  # for a connection to be made, and for what has connected to say who it is
SECONDS_BETWEEN_REMINDERS = 30


@dataclasses.dataclass(frozen=True)
class Team:
    """The workers that the environment names.

    Attributes:
        worker: Which of them this process is, from 0; 0 is the chief.
        addresses: HOST:PORT of each; None where it is not known.
        named_by: The variable that names them.
    """

    worker: int
    addresses: Sequence[str | None]
    named_by: str

    @classmethod
    def of_environment(cls, backend: str) -> "Team":
        """The workers as the backend's variables name them.

        Raises:
            InputError: If they do not.
        """
        return _jax_team() if backend == "jax" else _tensorflow_team()

    @property
    def is_chief(self) -> bool:
        return self.worker == 0

    def in_words(self) -> str:
        workers = range(len(self.addresses))
        return (
            f"{self.named_by} names {counted(len(workers), 'worker')}: {self.names(workers)};"
            f" this is worker {self.worker}"
        )

    def names(self, workers: Sequence[int]) -> str:
        """Some workers with their addresses."""
        addresses = (self.addresses[worker] for worker in workers)
        return ", ".join(
            f"{worker} ({address})" if address else str(worker)
            for worker, address in zip(workers, addresses, strict=True)
        )

    def gather(
        self,
        minutes: float,
        tell: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Waits until all workers have come.

        Args:
            minutes: How long at most.
            tell: Gets a line about who is missing whenever that changes; prints it to stderr if not
                given.
            clock: Gives seconds.

        Raises:
            InputError: If one does not come in time, or the chief cannot listen at its address.
        """
        if len(self.addresses) == 1:
            return
        wait = _Wait(self, minutes, tell or _tell, clock)
        if self.is_chief:
            _gather_as_chief(self, wait)
        else:
            _gather_as_worker(self, wait)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Wait:
    """Reports who is missing, and ends the wait when its time is up."""

    def __init__(self, team: Team, minutes: float, tell, clock):
        self._team, self._minutes, self._tell, self._clock = team, minutes, tell, clock
        self._end_seconds = clock() + 60 * minutes
        self._missing = None

    def goes_on(self, missing: Sequence[int]) -> None:
        """Takes those that have not come yet; call it again and again.

        Raises:
            InputError: If the time is up.
        """
        now, missing = self._clock(), list(missing)
        names = f"worker{'s' * (len(missing) != 1)} {self._team.names(missing)}"
        if now >= self._end_seconds:
            raise InputError(
                f"All workers must come within {self._minutes:g} minutes. Received: no {names}."
                " Run the same command there, see that the chief can be reached at its address, or"
                " give more --wait-minutes."
            )
        if missing != self._missing or now >= self._next_reminder_seconds:
            self._missing = missing
            self._next_reminder_seconds = now + SECONDS_BETWEEN_REMINDERS
            minutes = (self._end_seconds - now) / 60
            self._tell(f"waiting for {names}, {minutes:.3g} minutes at most (--wait-minutes)")

    def is_over(self) -> None:
        self._tell(f"all {len(self._team.addresses)} workers have come")


def _gather_as_chief(team: Team, wait: _Wait) -> None:
    others = range(1, len(team.addresses))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listening(team.addresses[0]))
        connections = {}
        while missing := [worker for worker in others if worker not in connections]:
            wait.goes_on(missing)
            ready, _, _ = select.select(
                [server, *connections.values()], [], [], SECONDS_BETWEEN_LOOKS
            )
            for worker, connection in list(connections.items()):
                if connection in ready:  # after the greeting, this means that it has gone
                    connections.pop(worker).close()
            if server in ready:
                connection = stack.enter_context(contextlib.closing(server.accept()[0]))
                worker = _greeting(connection)
                if worker in others and worker not in connections:
                    connections[worker] = connection
                else:
                    connection.close()
            if ready:
                _send_missing([w for w in others if w not in connections], connections)
    wait.is_over()


def _send_missing(missing: list[int], connections: dict[int, socket.socket]) -> None:
    for connection in connections.values():
        with contextlib.suppress(OSError):  # it has gone, as the next look will show
            connection.sendall(json.dumps(missing).encode() + b"\n")


def _gather_as_worker(team: Team, wait: _Wait) -> None:
    while True:
        wait.goes_on([0])
        with contextlib.suppress(OSError):
            for missing in _missing_as_the_chief_says(team):
                if not missing:
                    wait.is_over()
                    return
                wait.goes_on([worker for worker in missing if worker < len(team.addresses)])
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _missing_as_the_chief_says(team: Team) -> Iterator[list[int]]:
    """Yields who is missing again and again, until the chief has gone.

    Raises:
        OSError: If it cannot be reached.
    """
    with socket.create_connection(_host_and_port(team.addresses[0]), SECONDS_TO_ANSWER) as chief:
        chief.sendall(f"{GREETING}{team.worker}\n".encode())
        told, missing = b"", [0]
        while True:
            ready, _, _ = select.select([chief], [], [], SECONDS_BETWEEN_LOOKS)
            if ready:
                received = chief.recv(4096)
                *lines, told = (told + received).split(b"\n")
                if not received or len(told) > 4096:
                    return
                for line in lines:
                    missing = _numbers(line)
            yield missing


def _numbers(line: bytes) -> list[int]:
    """What the chief said; what something else says at its address means that it is missing."""
    with contextlib.suppress(ValueError):
        numbers = json.loads(line)
        if isinstance(numbers, list) and all(type(number) is int for number in numbers):
            return numbers
    return [0]


def _greeting(connection: socket.socket) -> int | None:
    """Which worker has connected; None if it is something else."""
    connection.settimeout(SECONDS_TO_ANSWER)
    with contextlib.suppress(OSError, ValueError):
        line = connection.recv(64).decode()  # so short that it comes in one piece
        if line.startswith(GREETING):
            return int(line.removeprefix(GREETING))
    return None


def _listening(address: str) -> socket.socket:
    """A socket at the address, or at all addresses of a machine that does not know this one.

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
    """The error of a worker whose address is taken, or not its own."""
    return InputError(
        f"The worker must be able to listen at its address. Received: {address}:"
        f" {str(error).splitlines()[0][:200]}. Correct the address, or free the port."
    )


def _host_and_port(address: str) -> tuple[str, int]:
    """Of HOST:PORT.

    Raises:
        ValueError: If it is something else.
    """
    host, _, port = address.rpartition(":")
    if not host or not 0 < int(port) < 65536:
        raise ValueError(address)
    return host.strip("[]"), int(port)


def _tensorflow_team() -> Team:
    """From TF_CONFIG.

    Raises:
        InputError: If it does not name the workers.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        for address in workers:
            _host_and_port(address)
        is_right = (
            list(config["cluster"]) == ["worker"]
            and task["type"] == "worker"
            and 0 <= int(task["index"]) < len(workers)
        )
        if is_right:
            return Team(int(task["index"]), workers, "TF_CONFIG")
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise InputError(
        "TF_CONFIG must name all workers and which of them this process is, for example"
        ' {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker",'
        f' "index": 0}}}}. Received: TF_CONFIG={text or "nothing"}. Set it in the environment, on'
        " each machine with an index of its own."
    )


def _jax_team() -> Team:
    """From the variables of `keras.distribution`.

    Raises:
        InputError: If they do not name the workers.
    """
    values = [os.environ.get(name, "") for name in JAX_VARIABLES]
    try:
        addresses, number, worker = values[0].split(","), int(values[1]), int(values[2])
        for address in addresses:
            _host_and_port(address)
        if 0 <= worker < number:
            known = addresses if len(addresses) == number else addresses[:1]
            return Team(worker, [*known, *[None] * (number - len(known))], JAX_VARIABLES[0])
    except ValueError:
        pass
    received = ", ".join(
        f"{name}={value}" if value else f"no {name}"
        for name, value in zip(JAX_VARIABLES, values, strict=True)
    )
    raise InputError(
        f"{', '.join(JAX_VARIABLES)} must name the first worker's address as HOST:PORT, the number"
        f" of workers and which of them this process is, from 0. Received: {received}. Set them in"
        " the environment, on each machine with a number of its own."
    )
