"""The load test's counts and its printed lines; the speed itself is not tested."""

import json
import socket

import pytest

from tests.training.serving import conftest as serving_fixtures
from training.benchmark import main
from training.benchmarks import serving_load
from training.benchmarks.served_load import percentile
from training.command_line.running import run_command

model_address = serving_fixtures.model_address


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch):
    monkeypatch.setattr(serving_load, "WARM_UP_SECONDS", 0.2)


def lines_of(capfd, *arguments):
    assert run_command(main, ["serve", *arguments]) == 0
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_percentiles_are_measured_values():
    latencies = [0.001 * number for number in range(1, 201)]
    assert percentile(latencies, 50) == latencies[99]
    assert percentile(latencies, 99) == latencies[197]
    assert percentile(latencies, 100) == latencies[199]
    assert percentile([3.0], 1) == percentile([3.0], 99) == 3.0
    assert percentile([], 50) is None


def test_each_number_of_clients_prints_a_line(model_address, capfd):
    one, four = lines_of(
        capfd, f"--address={model_address}", "--clients", "1", "4", "--seconds=0.6"
    )
    assert (one["clients"], four["clients"]) == (1, 4)
    for line in (one, four):
        assert line["task"] == "serve"
        assert line["errors"] == 0
        assert line["requests"] > 0
        expected = line["requests"] / line["seconds"]
        assert line["requests_per_second"] == pytest.approx(expected, rel=0.05)
        assert 0 < line["median_ms"] <= line["p99_ms"] <= line["max_ms"]
        assert 0 < line["client_load"] <= 1.1
    assert one["texts_per_run"] == 1  # nobody to share a batch with


def test_refused_requests_are_counted_as_errors(model_address, capfd):
    [line] = lines_of(
        capfd,
        f"--address={model_address}",
        "--clients=1",
        "--seconds=0.3",
        "--signature=none",
    )
    assert line["requests"] == 0
    assert line["errors"] > 0
    assert "400" in line["first_error"]


def test_without_a_server_all_requests_are_errors(capfd):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    address = f"--address=http://127.0.0.1:{port}/v1/models/m"
    [line] = lines_of(capfd, address, "--clients=2", "--seconds=0.3")
    assert (line["requests"], line["median_ms"]) == (0, None)
    assert line["errors"] > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Either a folder or --address must be given. Received: neither"),
        (["m", "--address=http://a/v1/models/m"], "Received: both"),
        (["--address=localhost:8501"], "--address must be the address of a model"),
        (["m", "--clients=0"], "--clients must be at least 1. Received: 0"),
        (["m", "--seconds=0"], "--seconds must be more than 0"),
        (["--address=http://a/v1/models/m", "--runs-at-once=2"], "--runs-at-once must be given"),
    ],
)
def test_wrong_options_are_refused(capsys, arguments, message):
    assert run_command(main, ["serve", *arguments]) == 2
    assert message in capsys.readouterr().err
