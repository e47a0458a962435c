"""Reserves a run folder for one process, and replaces a finished run with a new one.

To overwrite a finished run, trains the new one in `.NAME.new` beside it and swaps the two at the
end.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from training.command_line.errors import InputError
from training.runs.folder import START, RunFolder
from training.runs.record import RunRecord


@contextlib.contextmanager
def claim(output: str | Path, record: RunRecord, *, overwrite: bool) -> Iterator[RunFolder]:
    """Reserves the folder to train in for this process.

    Uses a blank or new folder directly, and also an unfinished run with the same settings and
    data. Limits (`LIMITS`) may be raised, which also continues a finished run. With `overwrite`,
    any other run stays unchanged until the caller's block has finished the new one beside it.

    Args:
        output: The run folder.
        record: The settings and data of this run.
        overwrite: Whether a different run in the folder may be replaced.

    Yields:
        The folder, locked.

    Raises:
        InputError: If another process has locked the folder, it holds something other than a run,
            or its run is finished, has changed since (the library's InputError), or was started
            with different settings or data.
    """
    run = RunFolder(Path(output).resolve())
    _complete_swap(run)
    run.check_ours()
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(run))
        if not run.is_blank and _must_be_replaced(run, record, overwrite):
            staging, old = _sibling(run, "new"), _sibling(run, "old")
            for folder in (staging, old):
                folder.check_ours()
            stack.enter_context(locked(staging))
            _discard_if_different(staging, record)
            yield staging
            _swap(run, staging)
        else:
            if run.is_finished:
                run.check_unchanged()
            yield run


def _must_be_replaced(run: RunFolder, record: RunRecord, overwrite: bool) -> bool:
    """Returns False for a run to train further: it is unfinished, or its limits were raised."""
    earlier, is_finished = None, run.is_finished
    try:
        earlier = run.read_record()
    except InputError:  # in a different format, or damaged
        if not (overwrite or is_finished):
            raise
    if overwrite:
        return is_finished or earlier is None or bool(record.differences(earlier))
    has_checkpoint = run.position_saved > START
    if is_finished and not (earlier and has_checkpoint and record.raised_limits(earlier)):
        further = "raise epochs, max_minutes or early_stopping_epochs to train it further"
        if not has_checkpoint:
            further = "put its checkpoints back to train it further"
        raise InputError(
            f"{run.path}: the output must not hold a finished run. Received: a finished run."
            f" Choose another --output, give --overwrite to replace it, or {further}."
        )
    differences = record.differences(earlier, may_raise=True)
    if differences:
        raise InputError(
            f"{run.path}: a run must be resumed with the settings and data that it was started"
            f" with. Received: {'; '.join(differences)}. Give the original values (only"
            " epochs, max_minutes and early_stopping_epochs may be raised), choose another"
            " --output, or give --overwrite."
        )
    return False


def _discard_if_different(staging: RunFolder, record: RunRecord) -> None:
    """Empties the folder beside the run if it was started with different settings."""
    if staging.is_blank:
        return
    with contextlib.suppress(InputError):
        if not record.differences(staging.read_record(), may_raise=True):
            return
    _empty(staging)


def _empty(run: RunFolder) -> None:
    """Removes all but the lock; config.yaml last, so that an interrupted folder is still ours."""
    entries = [path for path in run.path.iterdir() if path not in (run.lock_path, run.config_path)]
    for path in [*entries, run.config_path]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _remove(run: RunFolder) -> None:
    if run.path.exists():
        _empty(run)
        shutil.rmtree(run.path)


def _sibling(run: RunFolder, suffix: str) -> RunFolder:
    return RunFolder(run.path.with_name(f".{run.path.name}.{suffix}"))


def _swap(run: RunFolder, staging: RunFolder) -> None:
    """Moves the finished new run to the old run's place."""
    old = _sibling(run, "old")
    _remove(old)  # blank, or `claim` would have refused it
    os.rename(run.path, old.path)
    os.rename(staging.path, run.path)
    _remove(old)


def _complete_swap(run: RunFolder) -> None:
    """Finishes a swap that was interrupted between its steps."""
    staging, old = _sibling(run, "new"), _sibling(run, "old")
    if not old.path.exists() or not old.is_ours:
        return
    if not run.path.exists():
        os.rename((staging if staging.is_finished else old).path, run.path)
    _remove(old)


@contextlib.contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Locks the folder against other processes; removes a new folder that stays blank."""
    is_new = not run.path.exists()
    run.path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(run.lock_path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        owner = "?"
        with contextlib.suppress(OSError):
            owner = run.lock_path.read_text().strip() or "?"
        raise InputError(
            f"{run.path}: only one process may train in a folder. Received: process {owner} trains"
            " there. Wait for it, stop it, or choose another --output."
        ) from error
    try:
        run.lock_path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        if is_new and run.path.exists() and run.is_blank:
            shutil.rmtree(run.path)
        lock.release()
