"""Trains a run: checks the input, claims the folder, and fits the model."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator

from training.command_line.backend import backend_name
from training.command_line.errors import InputError, input_errors
from training.command_line.running import import_keras
from training.devices.base import Devices
from training.devices.opening import Strategy, open_devices
from training.devices.team import Team
from training.runs.claim import claim
from training.runs.folder import RunFolder
from training.runs.record import RunRecord
from training.settings import TrainingSettings, make_settings


def train(
    settings: TrainingSettings,
    output: str,
    *,
    overwrite: bool = False,
    strategy: Strategy = "one_device",
    wait_minutes: float = 10.0,
    log_seconds: float = 30.0,
) -> None:
    """Trains, resumes or continues a run until it is finished.

    Any thread may call this, but Ctrl-C and SIGTERM stop it cleanly only in the main thread.

    Args:
        settings: The settings of the run.
        output: The run folder.
        overwrite: Whether a different run in the folder may be replaced.
        strategy: The devices to train on.
        wait_minutes: How long to wait for other workers; above 0.
        log_seconds: Seconds between progress lines if stdout is not a terminal; above 0.

    Raises:
        InputError: If the data, the folder or the devices do not allow training, or a worker is
            missing or lost.
    """
    team = None
    if strategy == "multi_worker":
        team = Team.of_environment(backend_name())
        print(team.in_words(), file=sys.stderr, flush=True)
    is_chief = team is None or team.is_chief
    tell = _print if is_chief else _keep_quiet
    tell("reading the text")
    import_keras()
    from training.runs.text import check_text

    # A resumed run has its own tokenizer.
    is_new = not RunFolder(output).tokenizer_path.exists()
    check_text(settings, is_new=is_new, warns=is_chief)
    record = RunRecord.of(settings)
    if team is not None:
        team.gather(wait_minutes)
    with open_devices(strategy, team) as devices:
        if strategy != "one_device":
            tell(f"{strategy}: {devices.in_words()}")
        devices.check(settings)
        with _joined(devices, output, record, overwrite) as run:
            must_train = not run.is_finished or record.raised_limits(run.read_record())
            if devices.from_chief(bool(must_train)):
                from training.runs.fitting import fit

                fit(run, record, devices, tell, log_seconds)
        tell(f"finished: {output}")


def _print(line: str) -> None:
    print(line, flush=True)


def _keep_quiet(line: str) -> None:
    """Replaces `_print` in workers other than the chief."""


@contextlib.contextmanager
def _joined(
    devices: Devices, output: str, record: RunRecord, overwrite: bool
) -> Iterator[RunFolder]:
    """Yields the run folder, which the chief has claimed and the other workers read.

    Raises:
        InputError: In all workers, if `claim` fails; or if a worker has different settings.
    """
    with contextlib.ExitStack() as stack:
        run = complaint = None
        if devices.is_chief:
            try:
                run = stack.enter_context(claim(output, record, overwrite=overwrite))
            except input_errors() as error:
                complaint = str(error)
        told = [run and str(run.path), complaint, dataclasses.asdict(record)]
        path, complaint, chiefs = devices.from_chief(told)
        if complaint:
            raise InputError(complaint)
        chief_record = RunRecord(make_settings(chiefs["settings"]), chiefs["data_sha256"])
        differences = record.differences(chief_record)
        if differences:
            raise InputError(
                "All workers must be given the same settings and data. Received:"
                f" {'; '.join(differences)} (there: the first worker, now: this one). Give all"
                " the same."
            )
        yield run or RunFolder(path, read_only=True)
        devices.from_chief(None)  # waits until the chief has written the last file
