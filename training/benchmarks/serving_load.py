"""Measures how many requests a server answers: `python -m training.benchmark serve --help`."""

import contextlib
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from training.benchmarks.measuring import measure_alone, memory_mib
from training.command_line.errors import InputError, UsageError
from training.command_line.parser import CommandParser, Options, option_name, parse
from training.command_line.running import import_keras, tell
from training.serving.batching import num_processors

WARM_UP_SECONDS = 3.0
NUM_SENTENCES = 1000
SERVER_OPTIONS = ("runs_at_once", "max_batch_size", "batch_timeout_ms")


def measure_serving(arguments: Sequence[str]) -> None:
    """Starts a server, sends requests, and prints a line for each number of clients."""
    options = parse(_parser(), arguments)
    _check(options)
    texts = _texts(options.text)
    bodies = [
        json.dumps({"signature_name": options.signature, "instances": chunk}, ensure_ascii=False)
        for chunk in _chunks(texts, options.texts_per_request)
    ]
    with _server(options) as (model_address, process_id):
        for clients in options.clients:
            tell(f"sending requests from {clients} clients for {options.seconds:g} s ...")
            before = _counts(model_address)
            answer = _ask(model_address, bodies, clients, options.seconds)
            after = _counts(model_address)
            print(json.dumps(_line(options, clients, answer, before, after, process_id)))


def _parser() -> CommandParser:
    parser = CommandParser(
        "benchmark serve",
        "Sends requests to the local server, or to a running server, from many clients at a time."
        " Prints a line for each number of clients.",
    )
    add = parser.add_option
    for_server = "For the server that this command starts."
    parser.add_positional("folder", "saved_models/NAME, to start a server on it.", nargs="?")
    address_help = "Or a running server's model: http://HOST:8501/v1/models/NAME."
    add("address", str | None, None, address_help)
    add("clients", int, [1, 8, 32], "Clients at a time.", least=1, nargs="+")
    add("seconds", float, 60.0, "Seconds of requests, for each number of clients.")
    text_help = "A file of lines to translate (default: made-up French sentences)."
    add("text", str | None, None, text_help)
    add("texts_per_request", int, 1, "Lines per request.", least=1)
    add("signature", str, "serving_default", "Signature to request.")
    add("max_batch_size", int | None, None, for_server)
    add("batch_timeout_ms", float | None, None, for_server)
    add("runs_at_once", int | None, None, for_server)
    parser.add_threads()
    return parser


def _check(options: Options) -> None:
    if (options.folder is None) == (options.address is None):
        raise UsageError(
            "Either a folder or --address must be given. Received:"
            f" {'both' if options.folder else 'neither'}. For example: saved_models/NAME."
        )
    if options.address and not re.fullmatch(r"http://[^/]+/v1/models/[^/:]+", options.address):
        raise UsageError(
            f"--address must be the address of a model. Received: {options.address}. For example:"
            " http://127.0.0.1:8501/v1/models/en-de."
        )
    for name in SERVER_OPTIONS:
        if options.address and options[name] is not None:
            raise UsageError(
                f"{option_name(name)} must be given with a folder. Received: --address. Leave out"
                f" {option_name(name)}."
            )
    if not 0 < options.seconds < 86_400:
        raise UsageError(
            f"--seconds must be more than 0 and less than a day. Received: {options.seconds}. For"
            " example: 60."
        )


def _texts(path: str | None) -> list[str]:
    if path is None:
        from training.phrases.grammar import make_pairs

        return [pair.source for pair in make_pairs(NUM_SENTENCES).train]
    import_keras()
    from keras_transformer.text.blank import is_blank
    from keras_transformer.text.lines import iterate_lines

    return [line for line in iterate_lines(path) if not is_blank(line)]


def _chunks(texts: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, max(1, len(texts) - size + 1), size):
        yield [texts[place % len(texts)] for place in range(start, start + size)]


@contextlib.contextmanager
def _server(options: Options) -> Iterator[tuple[str, int | None]]:
    """Yields the model's address, and the server's process id, or None if it was running."""
    if options.address:
        yield options.address, None
        return
    tell(f"starting a server on {options.folder} ...")
    command = [sys.executable, "-m", "training.serve", options.folder, "--port=0"]
    for name in SERVER_OPTIONS:
        if options[name] is not None:
            command.append(f"{option_name(name)}={options[name]}")
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, encoding="utf-8", errors="backslashreplace"
    )
    try:
        yield _address_when_ready(server), server.pid
    finally:
        server.terminate()
        server.wait(timeout=60)


def _address_when_ready(server) -> str:
    for line in server.stdout:
        if match := re.match(r"serving (http://\S+)", line):
            return match[1]
    raise InputError("The server must start to be measured. Received: the error above. Fix it.")


def _ask(address: str, bodies: list[str], clients: int, seconds: float) -> dict:
    parts = urlsplit(address)
    request = {
        "host": parts.hostname,
        "port": parts.port or 80,
        "path": f"{parts.path}:predict",
        "bodies": bodies,
        "clients": clients,
        "seconds": seconds,
        "warm_up_seconds": WARM_UP_SECONDS,
    }
    return measure_alone("served_load.py", request, f"{clients} clients must run")


def _counts(address: str) -> dict[str, float] | None:
    """Returns the local server's counts of model calls and rows; None for another server."""
    parts = urlsplit(address)
    url = f"{parts.scheme}://{parts.netloc}/monitoring/prometheus/metrics"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            page = answer.read().decode("utf-8")
    except OSError:
        return None
    found = re.findall(r"^local_server_(runs|rows)_total\{.*\} (\d+)$", page, re.MULTILINE)
    return {name: int(number) for name, number in found} or None


def _line(options: Options, clients: int, answer: dict, before, after, process_id) -> dict:
    line = {
        "task": "serve",
        "model": Path(options.folder).resolve().name if options.folder else options.address,
        "signature": options.signature,
        "clients": clients,
        "texts_per_request": options.texts_per_request,
        "seconds": round(answer["seconds"], 2),
        "requests": answer["requests"],
        "requests_per_second": round(answer["requests"] / answer["seconds"], 1),
        "median_ms": _milliseconds(answer["median_seconds"]),
        "p99_ms": _milliseconds(answer["p99_seconds"]),
        "max_ms": _milliseconds(answer["max_seconds"]),
        "errors": answer["errors"],
        # The clients' share of one processor: near 1, they are the bottleneck.
        "client_load": round(answer["processor_seconds"] / answer["seconds"], 2),
        "processors": num_processors(),
    }
    if answer["first_error"]:
        line["first_error"] = answer["first_error"]
    if before and after and after["runs"] > before["runs"]:
        rows, runs = (after[name] - before[name] for name in ("rows", "runs"))
        line["texts_per_run"] = round(rows / runs, 2)
    if process_id:
        line["memory_mib"] = memory_mib(process_id, "VmRSS")
    return line


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
