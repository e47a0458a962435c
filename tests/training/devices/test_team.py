"""The workers of a training run find each other, on addresses of this machine."""

import contextlib
import json
import socket
import threading

import pytest

from tests.training.devices.test_devices import free_ports
from training.command_line.errors import InputError
from training.devices.team import JAX_VARIABLES, Team


def teams(number):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(number)]
    return [Team(worker, addresses, "TF_CONFIG") for worker in range(number)]


class Gathering:
    """A worker that waits for the others in a thread, and the lines that it reports."""

    def __init__(self, team, minutes=5.0):
        self.lines, self.error = [], None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(team, minutes), daemon=True)
        self._thread.start()

    def _run(self, team, minutes):
        try:
            team.gather(minutes, self._tell)
        except InputError as error:
            self.error = str(error)

    def _tell(self, line):
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()

    def wait_for(self, words):
        with self._changed:
            assert self._changed.wait_for(lambda: words in "\n".join(self.lines), 200)

    def end(self):
        self._thread.join(200)
        assert not self._thread.is_alive()
        return self.error


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_workers_meet_in_any_order_of_arrival(order):
    workers = teams(3)
    gatherings = [Gathering(workers[number]) for number in order]
    assert [gathering.end() for gathering in gatherings] == [None] * 3
    assert all(gathering.lines[-1] == "all 3 workers have come" for gathering in gatherings)


def test_all_workers_name_the_missing_ones():
    workers = teams(3)
    chief, second = Gathering(workers[0]), Gathering(workers[1])
    for waiting in (chief, second):
        waiting.wait_for(f"waiting for worker 2 ({workers[2].addresses[2]})")
    port = int(workers[0].addresses[0].split(":")[1])
    with socket.create_connection(("127.0.0.1", port)) as third:
        third.sendall(b"keras-transformer worker 2\n")
        assert json.loads(third.makefile().readline()) == []
    assert second.end() is None and chief.end() is None


def test_foreign_connections_are_not_accepted_as_workers():
    workers = teams(3)
    chief, second = Gathering(workers[0]), Gathering(workers[1])
    chief.wait_for("waiting for worker 2 ")
    port = int(workers[0].addresses[0].split(":")[1])
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.recv(10) == b""
    with socket.create_connection(("127.0.0.1", port)) as impostor:
        impostor.sendall(b"keras-transformer worker 1\n")
        assert impostor.recv(10) == b""  # worker 1 is there
    third = Gathering(workers[2])
    assert [gathering.end() for gathering in (chief, second, third)] == [None] * 3


@pytest.mark.parametrize(("present", "missing"), [(0, 1), (1, 0)])
def test_waiting_ends_and_names_the_missing_worker(present, missing):
    workers = teams(2)
    error = Gathering(workers[present], minutes=0.005).end()
    name = f"{missing} ({workers[0].addresses[missing]})"
    assert f"must come within 0.005 minutes. Received: no worker {name}. Run the same" in error
    assert "give more --wait-minutes" in error


def test_an_address_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"must be able to listen .* Received: {address}: "):
            Team(0, [address, "127.0.0.1:1"], "TF_CONFIG").gather(1, lambda line: None)


def test_a_single_worker_does_not_wait():
    Team(0, ["127.0.0.1:1"], "TF_CONFIG").gather(1, pytest.fail)


def test_a_worker_that_disconnects_is_missing_again():
    workers = teams(3)
    chief = Gathering(workers[0])
    port = int(workers[0].addresses[0].split(":")[1])
    chief.wait_for("waiting for workers 1 ")
    with socket.create_connection(("127.0.0.1", port)) as second:
        second.sendall(b"keras-transformer worker 1\n")
        chief.wait_for("waiting for worker 2 ")
    third = Gathering(workers[2])
    third.wait_for("waiting for worker 1 ")
    second = Gathering(workers[1])
    assert [gathering.end() for gathering in (chief, second, third)] == [None] * 3


def test_workers_wait_again_for_a_chief_that_disconnects():
    workers = teams(2)
    port = int(workers[0].addresses[0].split(":")[1])
    with contextlib.closing(socket.create_server(("127.0.0.1", port))) as server:
        second = Gathering(workers[1])
        connection, _ = server.accept()
        connection.recv(64)
        connection.close()
    chief = Gathering(workers[0])
    assert chief.end() is None and second.end() is None


def test_tensorflow_names_its_workers(monkeypatch):
    cluster = {"worker": ["10.0.0.1:22", "[::1]:23"]}
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    team = Team.of_environment("tensorflow")
    assert not team.is_chief
    assert team.in_words() == (
        "TF_CONFIG names 2 workers: 0 (10.0.0.1:22), 1 ([::1]:23); this is worker 1"
    )


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.1:", "10.0.0.1:x", ":1", "a:70000"])
def test_an_address_needs_host_and_port(monkeypatch, address):
    config = {"cluster": {"worker": [address]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(InputError, match="TF_CONFIG must name all workers"):
        Team.of_environment("tensorflow")


def set_jax(monkeypatch, *values):
    for name, value in zip(JAX_VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)


def test_jax_names_the_first_worker_and_the_number_of_workers(monkeypatch):
    set_jax(monkeypatch, "10.0.0.1:22", "3", "2")
    team = Team.of_environment("jax")
    assert team.addresses == ["10.0.0.1:22", None, None]
    assert team.names([0, 2]) == "0 (10.0.0.1:22), 2"
    set_jax(monkeypatch, "10.0.0.1:22,10.0.0.2:22", "2", "0")
    assert Team.of_environment("jax").addresses == ["10.0.0.1:22", "10.0.0.2:22"]


@pytest.mark.parametrize(
    "values",
    [
        ("", "2", "0"),
        ("a:1", "", "0"),
        ("a:1", "2", "2"),
        ("a:1", "two", "0"),
        ("a", "2", "0"),
        ("a:1", "2", "-1"),
    ],
)
def test_wrong_jax_variables_are_refused(monkeypatch, values):
    set_jax(monkeypatch, *values)
    with pytest.raises(InputError, match="must name the first worker's address .* Received: "):
        Team.of_environment("jax")
