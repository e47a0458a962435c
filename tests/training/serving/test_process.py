"""The command as a process: how it starts, watches its folder, and stops."""

import os
import shutil
import signal
import socket
import threading
import time

import pytest

from keras_transformer.export.saved_model import export_saved_model
from keras_transformer.translator import Translator
from tests.training.serving.shouting import ask, export_shouting, start_server
from training.command_line.running import run_command
from training.serve import main

SECONDS = 60


@pytest.fixture
def folder(tmp_path):
    """A folder of versions with version 1."""
    (tmp_path / "shout").mkdir()
    export_shouting(tmp_path / "shout", 1)
    return tmp_path / "shout"


@pytest.fixture
def started():
    """Starts servers, and kills those still running at the end."""
    servers = []

    def start(*arguments):
        server, address = start_server(*arguments)
        servers.append(server)
        return server, address

    yield start
    for server in servers:
        server.kill()
        server.wait(SECONDS)


def states_at(address):
    _, answer = ask(address)
    return {int(v["version"]): v["state"] for v in answer["model_version_status"]}


def wait_for(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_running_requests_are_answered_after_sigterm_and_the_exit_code_is_0(folder, started):
    server, address = started(folder)
    answers = []
    request = {"signature_name": "slow", "inputs": ["a"] * 999}  # 32 calls of the model
    asking = threading.Thread(target=lambda: answers.append(ask(f"{address}:predict", request)))
    asking.start()
    time.sleep(0.3)
    assert not answers
    server.send_signal(signal.SIGTERM)
    assert server.wait(SECONDS) == 0
    asking.join(SECONDS)
    [(status, answer)] = answers
    assert status == 200
    assert answer["outputs"]["translation"] == ["A"] * 999
    assert server.stdout.read().endswith("stopped\n")
    with pytest.raises(OSError):
        ask(address)


@pytest.mark.slow
@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_second_signal_ends_the_server_at_once(folder, started, name, code):
    server, address = started(folder)
    host, port = address.split("/")[2].split(":")
    # A request whose body never arrives: the server would wait for it.
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/models/shout:predict HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 9\r\n\r\n"
        )
        time.sleep(0.5)
        server.send_signal(signal.Signals[name])
        time.sleep(1)
        assert server.poll() is None
        server.send_signal(signal.Signals[name])
        assert server.wait(5) == code


@pytest.mark.slow
def test_no_request_fails_while_versions_change_under_load(folder, started):
    _, address = started(folder, "--poll-seconds=0.2")
    failures, translations, finished = [], set(), threading.Event()

    def keep_asking():
        while not finished.is_set():
            try:
                _, answer = ask(f"{address}:predict", {"instances": ["a"]})
                translations.add(answer["predictions"][0]["translation"])
            except Exception as failure:  # an error answer has no predictions
                failures.append(failure)

    clients = [threading.Thread(target=keep_asking) for _ in range(8)]
    for client in clients:
        client.start()
    export_shouting(folder, 2, prefix="2:")
    wait_for(lambda: states_at(address) == {1: "END", 2: "AVAILABLE"})
    (folder / "3").mkdir()
    (folder / "3" / "saved_model.pb").write_bytes(b"half a mod")
    wait_for(lambda: states_at(address).get(3) == "END")
    _, answer = ask(f"{address}/versions/3")
    assert answer["model_version_status"][0]["status"]["error_code"] != "OK"
    assert states_at(address)[2] == "AVAILABLE"
    shutil.rmtree(folder / "3")
    export_shouting(folder, 4, prefix="4:")
    wait_for(lambda: states_at(address) | {1: 0, 3: 0} == {1: 0, 2: "END", 3: 0, 4: "AVAILABLE"})
    shutil.rmtree(folder / "4")
    wait_for(lambda: states_at(address)[2] == "AVAILABLE" and states_at(address)[4] == "END")
    finished.set()
    for client in clients:
        client.join(SECONDS)
    assert failures == []
    assert translations == {"A", "2:A", "4:A"}


@pytest.mark.slow
def test_wait_starts_a_server_before_there_is_a_version(tmp_path, started):
    _, address = started(tmp_path / "shout", "--wait", "--poll-seconds=0.2")
    status, answer = ask(f"{address}:predict", {"instances": ["a"]})
    assert (status, answer) == (404, {"error": "Servable not found for request: Latest(shout)"})
    (tmp_path / "shout").mkdir()
    export_shouting(tmp_path / "shout", 1)
    wait_for(lambda: ask(f"{address}:predict", {"instances": ["a"]})[0] == 200)


@pytest.mark.slow
def test_requests_leak_no_memory(folder, started):
    server, address = started(folder)

    def resident_kib():
        with open(f"/proc/{server.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))

    if not os.path.exists("/proc/self/status"):
        pytest.skip("memory is read from /proc, which only Linux has")

    def send(number):
        for place in range(number):
            text = "x" * (place % 700)
            assert ask(f"{address}:predict", {"inputs": [text, "b"]})[0] == 200

    send(1000)
    before = resident_kib()
    send(4000)
    assert resident_kib() < 1.05 * before


HOSTILE = {
    "blank": ["", " ", "\t\n\u3000"],
    "NUL and other controls": ["a\0b", "\0", "\x01\x7f\u0085\u2028"],
    "control pieces": ["<s>", "</s> </s>", "<unk><pad>", "\u2581a\u2581"],
    "scripts": ["Привет мир 你好 سلام", "עברית and English", "\u202eright to left\u202c"],
    "emoji with joiners": ["👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈", "🚲" * 50],
    "not normalised": ["e\u0301\u0323", "ﬁ", "\ufeffbom"],
    "long": ["a" * 100_000],
    "long words": ["snow " * 20_000],
}


@pytest.mark.slow
def test_no_text_harms_a_real_export_or_its_neighbors(random_model, tokenizer, tmp_path, started):
    translator = Translator(random_model, tokenizer, beam_size=2, max_source_tokens=40)
    export_saved_model(translator, tmp_path / "en-de")
    server, address = started(tmp_path / "en-de")
    _, metadata = ask(f"{address}/metadata")
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    names = {name: list(signature["inputs"]) for name, signature in signatures.items()}
    names = {name: inputs for name, inputs in names.items() if inputs}
    assert {"serving_default", "greedy"} <= names.keys()
    for name, inputs in names.items():

        def predict(texts, name=name, inputs=inputs):
            columns = dict.fromkeys(inputs, texts)
            return ask(f"{address}:predict", {"signature_name": name, "inputs": columns})

        status, alone = predict(["a dog"])
        assert status == 200
        for texts in HOSTILE.values():
            status, answer = predict(texts)
            assert status == 200 or (status == 400 and inputs != ["text"]), (name, answer)
            if inputs == ["text"]:
                assert {len(column) for column in answer["outputs"].values()} == {len(texts)}
                _, answer = predict([*texts, "a dog"])
                assert_same_row(answer["outputs"], alone["outputs"])
        raw = {"b64": "/wBh/g=="}  # not UTF-8, and with a NUL
        assert predict([raw])[0] in (200, 400)
        if inputs == ["text"]:
            assert predict([])[0] == 200
            assert predict(["a dog"] * 1000)[0] == 200
            status, answer = predict(["a dog"] * 1001)
            assert (status, "1,000 rows" in answer["error"]) == (400, True)
        assert_same_row(predict(["a dog"])[1]["outputs"], alone["outputs"])
    assert server.poll() is None


def assert_same_row(outputs, alone):
    """Asserts that the last row of `outputs` equals the row for the text alone."""
    for name, column in alone.items():
        [expected] = column
        if isinstance(expected, float):
            assert outputs[name][-1] == pytest.approx(expected, rel=1e-4)
        elif name != "scores":
            assert outputs[name][-1] == expected


# Errors of the command line


def complaint_about(capsys, *arguments):
    code = run_command(main, [str(argument) for argument in arguments])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return code, line


@pytest.fixture
def blank_folder(tmp_path):
    """A folder that looks like one with a version, so that other errors show."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    return tmp_path / "m"


def test_a_missing_folder_is_refused(tmp_path, capsys):
    code, line = complaint_about(capsys, tmp_path / "none")
    assert code == 1
    assert "none: must be a folder of versions. Received: no such folder" in line


def test_a_folder_of_one_version_is_refused(blank_folder, capsys):
    (blank_folder / "1" / "saved_model.pb").write_text("")
    code, line = complaint_about(capsys, blank_folder / "1")
    assert (code, f"Give the folder above it, {blank_folder}" in line) == (1, True)


def test_a_folder_whose_versions_are_broken_is_refused(blank_folder, capsys):
    code, line = complaint_about(capsys, blank_folder, "--port=0")
    assert code == 1
    assert "must hold a version that can be served. Received: version 1: " in line


def test_a_folder_without_the_wanted_version_is_refused(blank_folder, capsys):
    code, line = complaint_about(capsys, blank_folder, "--port=0", "--versions=7")
    assert (code, "none that matches --versions 7" in line) == (1, True)


def test_a_port_in_use_is_refused(blank_folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, line = complaint_about(capsys, blank_folder, f"--port={port}")
    assert (code, f"Received: 127.0.0.1 and {port} (Address already in use)" in line) == (1, True)


@pytest.mark.parametrize(
    "option, message",
    [
        ("--port=70000", "--port must be 0 to 65535. Received: 70000"),
        ("--port=-1", "--port must be 0 to 65535. Received: -1"),
        ("--host=no.such.host.invalid", "--host must be an address of this machine"),
        ("--max-batch-size=0", "--max-batch-size must be at least 1. Received: 0"),
        ("--runs-at-once=0", "--runs-at-once must be at least 1. Received: 0"),
        ("--poll-seconds=0", "--poll-seconds must be more than 0. Received: 0.0"),
        ("--queue-size=10", "--queue-size must be at least --max-batch, 1000. Received: 10"),
        ("--model-name=a/b", "--model-name must be a name without slashes"),
        ("--versions=newest", "--versions must be latest:N, all, or numbers. Received: newest"),
        ("--versions=latest:0", "--versions must be latest:N"),
        ("--labels=stable", "--labels must be pairs NAME=VERSION"),
        ("--labels=a=1,a=2", "each name once. Received: a=1,a=2"),
        ("--cors-origins=*", "--cors-origins must be schemes with hosts. Received: *"),
        ("--cors-origins=https://a.org/page", "without a path or an asterisk"),
    ],
)
def test_options_out_of_range_are_refused(blank_folder, capsys, option, message):
    code, line = complaint_about(capsys, blank_folder, option)
    assert code == 1
    assert message in line
