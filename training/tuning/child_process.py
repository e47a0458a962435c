"""A command in a process of its own, which stops when the search that started it is gone.

    python -m training.tuning.child_process PARENT training.train OPTION ...

A trial that crashes, or that the system ends for want of memory, takes nothing else with it, and
the next one finds the devices empty.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS_BETWEEN_LOOKS = 0.25


def run_child(
    module: str, arguments: Sequence[str], log_path: Path, watch: Callable[[], None]
) -> str | None:
    """Runs a command of this project up to its end.

    Args:
        module: Its module, such as "training.train".
        arguments: Its command line.
        log_path: What it prints is added to this file.
        watch: Is called again and again meanwhile.

    Returns:
        None if it did what it should; else what was wrong, in one line.

    Raises:
        KeyboardInterrupt: If this process or the child is asked to stop; the child has stopped.
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
            start_new_session=True,  # Ctrl-C is ours: we pass it on once
        )
        try:
            while process.poll() is None:
                watch()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            _stop(process)
    watch()
    if process.returncode in (130, 143):
        raise KeyboardInterrupt
    return _complaint(process.returncode, log_path, start)


def _stop(process: subprocess.Popen) -> None:
    """Lets the child write its checkpoint; a second request ends it at once."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()


def _complaint(code: int, log_path: Path, start: int) -> str | None:
    """What an exit code and the end of the log say."""
    if code == 0:
        return None
    if code < 0:
        name = signal.Signals(-code).name
        return f"the training was ended by {name}" + ", as happens when memory runs out" * (
            -code == signal.SIGKILL
        )
    with open(log_path, "rb") as log:
        log.seek(start)
        lines = [
            line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()
        ]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return [f"exit code {code}", *lines[-1:], *errors[-1:]][-1].strip()


def _stop_with(parent: int) -> None:
    """Asks this process to stop, as SIGTERM does, as soon as its parent is another one."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """The child."""
    parent, module, *arguments = sys.argv[1:]
    threading.Thread(target=_stop_with, args=(int(parent),), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        command = importlib.import_module(module)
        from training.command import run_command

        return run_command(command.main, arguments)
    return 130


if __name__ == "__main__":
    sys.exit(main())
