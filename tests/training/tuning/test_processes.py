"""Searches with real training: promoted, killed, distributed over workers, and compared."""

import dataclasses
import errno
import json
import signal
import socket

import numpy as np
import pytest

from tests.training.processes import finish, started, wait_until
from tests.training.small_run import SMALL, once
from training.command_line.errors import InputError, UnfitSettings, UsageError
from training.runs.checkpoints import load_arrays
from training.runs.folder import Position, RunFolder
from training.runs.record import RunRecord
from training.runs.training import train
from training.settings import make_settings, read_settings_file
from training.tuning import child_process
from training.tuning.child_process import UNFIT_SETTINGS, Failure, run_child
from training.tuning.plan import SearchFolder, SearchPlan
from training.tuning.search import search
from training.tuning.space import Space
from training.tuning.trial_run import TrialFailed
from training.tuning.trials import Trials

SETTINGS = {**SMALL, "epochs": 2}


def train_here(run, settings, watch):
    """Trains in this process, because another one takes longer to start than to train."""
    try:
        train(settings, str(run.path))
    except UnfitSettings as error:
        raise TrialFailed(str(error)) from error
    watch()


def timeless(run):
    lines = RunFolder(run).read_metrics()
    return [{key: line[key] for key in line if "second" not in key} for line in lines]


@pytest.mark.slow
def test_a_promoted_trial_ends_bit_for_bit_as_if_it_had_never_paused(
    text_files, tmp_path, monkeypatch
):
    monkeypatch.setattr(Trials, "drop_checkpoints", lambda *_: None)
    settings = make_settings({**text_files, **SETTINGS, "ema_decay": 0.8, "accumulation_steps": 2})
    space = Space.of({"peak_learning_rate": [0.01, 1e30]})
    common = {"objective": "val_perplexity", "max_epochs": 2, "factor": 2, "max_parameters": None}
    plan = SearchPlan(record=RunRecord.of(settings), space=space, algorithm="hyperband", **common)
    folder = SearchFolder(tmp_path / "search")
    search(Trials(folder, plan, train_here), max_trials=3)
    rows = [json.loads(line) for line in folder.rows_path.read_text().splitlines()]
    [promoted] = [row for row in rows if row["continues"]]
    assert (promoted["continues"], promoted["epochs"], rows[0]["epochs"]) == ("0", 2, 1)
    [diverged] = [row for row in rows if row["settings"]["peak_learning_rate"] == 1e30]
    assert diverged["status"] == "failed"
    assert "The training loss must stay finite" in diverged["reason"]

    continued = RunFolder(folder.trials_path / promoted["trial"])
    whole = RunFolder(tmp_path / "whole")
    train(continued.read_record().settings, str(whole.path))
    assert timeless(continued.path) == timeless(whole.path)
    for kind in ("weights", "state", "average"):
        ours, theirs = (
            load_arrays(run.checkpoint_path(Position(2, 0), kind)) for run in (continued, whole)
        )
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"seconds"}:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{kind} {name}")
    assert continued.tokenizer_path.read_bytes() == whole.tokenizer_path.read_bytes()
    assert folder.picture_path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def command(text_files, tmp_path):
    """Returns the command line of a search with three trials of two epochs."""
    (tmp_path / "config.yaml").write_text(json.dumps({**text_files, **SETTINGS}))
    (tmp_path / "space.yaml").write_text("dropout: [0.1, 0.2, 0.3]\nwarmup_steps: [10, 20]\n")
    files = [f"--config={tmp_path / 'config.yaml'}", f"--space={tmp_path / 'space.yaml'}"]
    return [*files, "--algorithm=random", "--max-trials=3"]


def searching(command, output, **environment):
    return started("training.tune", *command, f"--output={output}", **environment)


def results(output):
    """Returns, by trial, the values that do not depend on the clock."""
    rows = [json.loads(line) for line in (output / "trials.jsonl").read_text().splitlines()]
    return {row["trial"]: {key: row[key] for key in row if key != "minutes"} for row in rows}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_that_is_killed_in_a_trial_ends_like_an_uninterrupted_one(command, tmp_path):
    with searching(command, tmp_path / "whole") as process:
        finish(process)
    killed = tmp_path / "killed"
    second = RunFolder(killed / "trials" / "1")
    log_path = killed / "trials" / "1.log"
    with searching(command, killed) as process:
        wait_until(lambda: second.position_saved.batch > 0, process)
        process.kill()
    with searching(command, killed) as process:
        # Not earlier: a process that is still importing cannot choose its exit code.
        wait_until(lambda: "resuming after" in log_path.read_text(), process)
        process.send_signal(signal.SIGTERM)
        finish(process, 143)
    with searching(command, killed) as process:
        finish(process)
    assert results(killed) == results(tmp_path / "whole")
    for trial in ("0", "1", "2"):
        runs = [folder / "trials" / trial for folder in (killed, tmp_path / "whole")]
        assert timeless(runs[0]) == timeless(runs[1])

    settings = make_settings(read_settings_file(killed / "best.yaml"))
    train(settings, str(tmp_path / "best"))
    assert RunFolder(tmp_path / "best").is_finished


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_chief_and_two_workers_survive_the_death_of_one(command, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output = tmp_path / "out"
    address = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}

    def member(name):
        return searching(command, output, KERASTUNER_TUNER_ID=name, **address)

    first = RunFolder(output / "trials" / "0")
    with member("chief") as chief, member("worker0") as victim:
        wait_until(lambda: first.position_saved.batch > 0, victim)
        victim.kill()
        with member("worker1") as worker:
            finish(worker)
            finish(chief)
    rows = results(output)
    assert [*rows] == ["0", "1", "2"]
    assert {row["status"] for row in rows.values()} == {"completed"}
    assert "resuming after" in (output / "trials" / "0.log").read_text()
    assert (output / "best.yaml").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_best_settings_are_compared_with_the_start(command, tmp_path):
    output = tmp_path / "out"
    more = ["--max-epochs=1", "--max-trials=1", "--confirm-seeds=2", "--confirm-epochs=1"]
    with searching(once([*command, *more]), output) as process:
        finish(process)
    lines = (output / "comparison" / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["side"], row["seed"]) for row in rows] == [
        ("start", 6),
        ("best", 6),
        ("start", 7),
        ("best", 7),
    ]
    # The only trial was the start itself, so both sides have the same training runs.
    for seed in (6, 7):
        start, best = (row for row in rows if row["seed"] == seed)
        assert start["perplexity"] == best["perplexity"]
    assert rows[0]["perplexity"] != rows[2]["perplexity"]
    assert "standard error" in (output / "comparison" / "table.md").read_text()


@pytest.fixture
def run_module(tmp_path, monkeypatch):
    """Runs a module with this source as a child process."""

    def run(text):
        (tmp_path / "made_up_child.py").write_text(text)
        return run_child("made_up_child", [], tmp_path / "log", lambda: None)

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return run


def test_the_signal_that_ended_a_command_is_named(run_module):
    failure = run_module("import os\nos.kill(os.getpid(), 9)\n")
    reason = "the training was ended by SIGKILL, as happens when memory runs out"
    assert failure == Failure(reason, is_of_settings=True)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_child_that_is_stopped_while_it_imports_has_not_failed(run_module, number):
    default = f"import os, signal\nsignal.signal(signal.{number}, signal.SIG_DFL)\n"
    with pytest.raises(KeyboardInterrupt):
        run_module(f"{default}os.kill(os.getpid(), signal.{number})\n")


def test_a_bug_is_not_the_fault_of_the_settings(run_module):
    assert run_module("nothing\n") == Failure(
        "NameError: name 'nothing' is not defined", is_of_settings=False
    )


class ResourceExhaustedError(Exception):
    """Stands for TensorFlow's error."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UnfitSettings("The loss must stay finite."), UNFIT_SETTINGS, "The loss must stay finite."),
        (MemoryError("12 GiB"), UNFIT_SETTINGS, "must fit into memory. Received: MemoryError"),
        (ResourceExhaustedError("[2,3]"), UNFIT_SETTINGS, "Received: ResourceExhaustedError:"),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: x"), UNFIT_SETTINGS, "must fit into memory."),
        (InputError("train.en: must be there."), 1, "train.en: must be there."),
        (OSError(errno.ENOSPC, "no space", "out"), 1, "out must fit on the disk."),
        (UsageError("--dropout must be a number."), 2, "--dropout must be a number."),
    ],
)
def test_the_exit_code_says_whether_the_settings_are_at_fault(error, code, line, capfd):
    def command(_):
        raise error

    assert child_process._run(command, []) == code
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and line in last


def test_missing_text_is_not_the_fault_of_the_vocabulary(text_files, tmp_path):
    settings = make_settings({**text_files, **SETTINGS, "vocabulary_size": 100})
    plan = SearchPlan(RunRecord.of(settings), None, "random", "val_bleu", 1, 3, None)
    trials = Trials(SearchFolder(tmp_path), plan)
    with pytest.raises(TrialFailed, match="vocabulary_size=100, and the text needs"):
        trials._tokenizer(settings)
    gone = dataclasses.replace(settings, train_source=str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="gone"):  # the library's InputError
        trials._tokenizer(gone)
