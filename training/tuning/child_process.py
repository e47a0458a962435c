"""Runs a command in a child process, which stops when its parent, the search, has ended.

    python -m training.tuning.child_process PARENT training.train OPTION ...

A trial that crashes, or that the system kills for lack of memory, does not end the search, and the
next trial starts with empty devices. The exit code tells whether the trial's settings are at fault.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SECONDS_BETWEEN_LOOKS = 0.25
# A child that is still importing cannot choose its exit code.
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)

UNFIT_SETTINGS = 3
MOST_CHARACTERS = 200  # of an error from elsewhere
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "out of memory", "OOM when allocating")


class Failure(NamedTuple):
    """The reason why a command failed, in one line."""

    reason: str
    # Whether other settings may succeed: the loss was not finite, memory ran out, or the process
    # crashed. Otherwise the cause is the text, the disk, or a bug.
    is_of_settings: bool


def run_child(
    module: str, arguments: Sequence[str], log_path: Path, watch: Callable[[], None]
) -> Failure | None:
    """Runs a command of this project to its end.

    Args:
        module: The command's module, such as "training.train".
        arguments: The command's arguments.
        log_path: A file to append the output to.
        watch: Called several times a second while the command runs.

    Returns:
        None if the command succeeded; otherwise the failure.

    Raises:
        KeyboardInterrupt: If this process or the child was asked to stop; the child has stopped.
    """
    command = [sys.executable, "-m", "training.tuning.child_process", str(os.getpid()), module]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with open(log_path, "ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C reaches only this process, which passes it on once
        )
        try:
            while process.poll() is None:
                watch()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            _stop(process)
    watch()
    if process.returncode in STOPPED:
        raise KeyboardInterrupt
    return _failure(process.returncode, log_path, start)


def _stop(process: subprocess.Popen) -> None:
    """Lets a running child write its checkpoint; a second Ctrl-C kills it."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()


def _failure(code: int, log_path: Path, start: int) -> Failure | None:
    """Reads the failure, if any, from the exit code and the end of the log."""
    if code == 0:
        return None
    if code < 0:
        name = signal.Signals(-code).name
        why = ", as happens when memory runs out" * (-code == signal.SIGKILL)
        return Failure(f"the training was ended by {name}{why}", is_of_settings=True)
    lines = log_path.read_bytes()[start:].decode("utf-8", "replace").splitlines()
    lines = [line for line in lines if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    reason = [f"exit code {code}", *lines[-1:], *errors[-1:]][-1].strip()
    return Failure(reason, is_of_settings=code == UNFIT_SETTINGS)


def _stop_with(parent: int) -> None:
    """Sends this process SIGTERM as soon as its parent is gone."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Runs the command in this process, the child."""
    parent, module, *arguments = sys.argv[1:]
    threading.Thread(target=_stop_with, args=(int(parent),), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        return _run(importlib.import_module(module).main, arguments)
    return 130


def _run(command: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Works like `run_command`, but returns UNFIT_SETTINGS if the settings are at fault."""
    from training.command_line.errors import UnfitSettings
    from training.command_line.running import run_command

    unfit = []

    def attempt(arguments):
        try:
            command(arguments)
        except UnfitSettings as error:
            unfit.append(error)
            raise
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            traceback.print_exc()
            unfit.append(error)
            raise UnfitSettings(
                "The model and its batches must fit into memory. Received:"
                f" {type(error).__name__}: {str(error).strip()[:MOST_CHARACTERS]}. Choose a smaller"
                " model or smaller batches."
            ) from error

    code = run_command(attempt, arguments)
    return UNFIT_SETTINGS if unfit else code


def _is_out_of_memory(error: Exception) -> bool:
    """Returns whether Python, TensorFlow or JAX ran out of memory."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "ResourceExhaustedError"}) or any(
        words in str(error) for words in OUT_OF_MEMORY
    )


if __name__ == "__main__":
    sys.exit(main())
