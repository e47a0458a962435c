"""Serves an export over TensorFlow Serving's REST API: `python -m training.serve --help`."""

import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from training.command_line.errors import InputError
from training.command_line.outputs import check_utf_8
from training.command_line.parser import CommandParser, option_name, parse
from training.command_line.running import import_tensorflow, run_command

LABEL = re.compile(r"([^/:=,\s]+)=(\d{1,18})")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    options = parse(_parser(), arguments)
    _check_numbers(options)
    folder = Path(options.folder)
    name = _model_name(options.model_name or folder.resolve().name)
    policy_settings = _policy_settings(options.versions)
    labels = _labels(options.labels)
    hosts = _listed(f"{options.allowed_hosts or ''},{options.host}".lower())
    visitors = frozenset(hosts), _origins(options.cors_origins)
    check_utf_8("the folder", options.folder)
    _check_folder(folder, options.wait)
    _check_serve_extra()
    from training.serving.http_server import listening_socket
    from training.serving.versions import Policy, Versions

    bound = listening_socket(options.host, options.port)
    versions = Versions(folder, name, Policy(**policy_settings), labels, tell=print)
    if not versions.announce():
        if not options.wait:
            raise _no_version(versions, options)
        print(f"waiting for a version in {folder} ...")
    import_tensorflow()
    asyncio.run(_serve(options, versions, visitors, bound))


def _parser() -> CommandParser:
    parser = CommandParser(
        "serve",
        "Serves a folder of exported versions over TensorFlow Serving's REST API, with a page to"
        " try them out. Loads new versions as they appear, and retires old ones once a new one is"
        " ready. SIGTERM or Ctrl-C stops the server after it has answered the running requests.",
    )
    add = parser.add_option
    parser.add_positional("folder", "saved_models/NAME, which contains the versions as folders.")
    add("port", int, 8501, "Port to listen on; 0 picks a free one.")
    add("host", str, "127.0.0.1", "Address to listen on; 0.0.0.0 means all of this machine's.")
    add("model_name", str | None, None, "NAME in requests (default: the folder's name).")
    add("versions", str, "latest:1", "Versions to serve: latest:N, all, or numbers such as 1,3.")
    add("labels", str | None, None, "Names for versions, such as stable=1,canary=2.")
    add("poll_seconds", float, 1.0, "Seconds between checks for new and removed versions.")
    parser.add_flag("wait", "Wait for the first version if there is none yet.")
    add("max_batch_size", int, 32, "Texts that the model processes together, at most.")
    add("batch_timeout_ms", float, 20.0, "How long a text waits for others if the model is busy.")
    add("runs_at_once", int | None, None, "Batches at a time (default: one per processor).")
    add("queue_size", int, 4000, "Texts that may wait; more get HTTP 503.")
    add("max_batch", int, 1000, "Texts per request, at most.")
    add("max_text_bytes", int, 400_000, "Bytes per text in UTF-8, at most.")
    add("max_request_bytes", int, 4 * 2**20, "Bytes per request body; longer ones get HTTP 413.")
    add("max_connections", int, 500, "Connections at a time; more get HTTP 503.")
    add("body_timeout_seconds", float, 30.0, "Time for a request's body to arrive.")
    add("request_timeout_seconds", float, 300.0, "Time for the model to answer a request.")
    add("allowed_hosts", str | None, None, "Host names of this server, such as a.org,b.org.")
    parser.add_threads()
    add("cors_origins", str | None, None, "Sites whose pages may call it, such as https://a.org.")
    return parser


async def _serve(options, versions, visitors, bound) -> None:
    from training.serving.app import Service, make_app
    from training.serving.batching import Batcher
    from training.serving.http_server import make_server, serve_until_stopped
    from training.serving.predict import Limits
    from training.serving.visitors import Visitors

    await versions.refresh()
    if not versions.available and not options.wait:
        raise _no_version(versions, options)
    batcher = Batcher(
        options.runs_at_once,
        options.max_batch_size,
        options.batch_timeout_ms / 1000,
        options.queue_size,
    )
    limits = Limits(
        options.max_batch,
        options.max_text_bytes,
        max_request_bytes=options.max_request_bytes,
        max_bytes_in_flight=max(Limits.max_bytes_in_flight, options.max_request_bytes),
        body_seconds=options.body_timeout_seconds,
        answer_seconds=options.request_timeout_seconds,
    )
    app = make_app(Service(versions, batcher, Visitors(*visitors), limits))
    server = make_server(app, options.max_connections)
    # Listen before printing the address, because programs connect once they read it. The socket
    # queues their connections until the event loop accepts them.
    bound.listen(2048)
    host, port = bound.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"serving {address}/v1/models/{versions.name} and the page {address}/")
    await serve_until_stopped(server, bound, versions.watch(options.poll_seconds))
    batcher.close()
    print("stopped")


def _no_version(versions, options) -> InputError:
    failures = [
        f"version {number}: {status.message}"
        for number, status in sorted(versions.statuses.items())
    ]
    return InputError(
        f"{versions.folder}: must hold a version that can be served. Received:"
        f" {'; '.join(failures) or f'none that matches --versions {options.versions}'}. Export one"
        " with python -m training.export, or start with --wait."
    )


def _model_name(name: str) -> str:
    if not re.fullmatch(r"[^/:\s]+", name):
        raise InputError(
            "--model-name must be a name without slashes, colons and spaces. Received:"
            f" {name or 'nothing'}. For example: en-de."
        )
    return name


def _check_folder(folder: Path, wait: bool) -> None:
    if not folder.is_dir() and not wait:
        raise InputError(
            f"{folder}: must be a folder of versions. Received:"
            f" {'a file' if folder.exists() else 'no such folder'}. Export one with python -m"
            " training.export, or start with --wait."
        )
    if (folder / "saved_model.pb").exists():
        raise InputError(
            f"{folder}: must be a folder of versions. Received: a single version. Give the folder"
            f" above it, {folder.resolve().parent}."
        )


def _check_numbers(options) -> None:
    names = "max_batch_size queue_size max_batch max_text_bytes max_request_bytes max_connections"
    for name in (*names.split(), "runs_at_once"):
        _check(name, options[name] is None or options[name] >= 1, "at least 1", options)
    _check("batch_timeout_ms", options.batch_timeout_ms >= 0, "at least 0", options)
    for name in ("poll_seconds", "body_timeout_seconds", "request_timeout_seconds"):
        _check(name, options[name] > 0, "more than 0", options)
    enough = options.queue_size >= options.max_batch
    _check("queue_size", enough, f"at least --max-batch, {options.max_batch}", options)


def _check(name: str, fits: bool, rule: str, options) -> None:
    if not fits:
        raise InputError(
            f"{option_name(name)} must be {rule}. Received: {options[name]}. See"
            " python -m training.serve --help."
        )


def _policy_settings(text: str) -> dict:
    """Turns --versions into the arguments of a Policy."""
    if text == "all":
        return {"newest": None}
    if match := re.fullmatch(r"latest(?::([1-9]\d{0,8}))?", text):
        return {"newest": int(match[1] or 1)}
    if re.fullmatch(r"\d{1,18}(,\d{1,18})*", text):
        return {"named": frozenset(map(int, text.split(",")))}
    raise InputError(
        f"--versions must be latest:N, all, or numbers. Received: {text}. For example:"
        " latest:1 or 1,3."
    )


def _labels(text: str | None) -> dict[str, int]:
    labels = {}
    for part in text.split(",") if text else ():
        match = LABEL.fullmatch(part.strip())
        if not match or match[1] in labels:
            raise InputError(
                f"--labels must be pairs NAME=VERSION, each name once. Received: {text}. For"
                " example: stable=1,canary=2."
            )
        labels[match[1]] = int(match[2])
    return labels


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _origins(text: str | None) -> frozenset[str]:
    origins = _listed(text or "")
    for origin in origins:
        if not re.fullmatch(r"https?://[^/\s*]+", origin):
            raise InputError(
                f"--cors-origins must be schemes with hosts. Received: {origin}. For example:"
                " https://example.org, without a path or an asterisk."
            )
    return frozenset(origins)


def _check_serve_extra() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            "The local server needs the extra `serve`. Received: an environment without"
            f' {error.name}. Run pip install --editable ".[serve]".'
        ) from error


if __name__ == "__main__":
    sys.exit(run_command(main))
