"""Runs on several devices or workers in separate processes end like runs on one device."""

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import WORDS, as_arguments, write_lines
from tests.training.small_run import once
from training.command_line.backend import choose_backend
from training.command_line.errors import InputError
from training.command_line.running import run_command
from training.devices.opening import leave_devices_to_children
from training.runs.checkpoints import load_arrays
from training.runs.folder import Position, RunFolder
from training.train import main

ROOT = Path(__file__).parents[3]
SECONDS_OF_A_START = 300  # on a busy machine
SECONDS_TO_NOTICE_A_LOSS = 100

ON_SEVERAL_CPUS = """
import sys, tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
parts = [tf.config.LogicalDeviceConfiguration()] * int(sys.argv.pop(1))
tf.config.set_logical_device_configuration(cpu, parts)
from training.command_line.running import run_command
from training.train import main
sys.exit(run_command(main))
"""


def test_a_process_that_trains_nothing_leaves_the_gpus_alone(monkeypatch):
    import tensorflow as tf

    hidden = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *seen: hidden.append(seen))
    leave_devices_to_children()
    assert hidden == [([], "GPU")]

    def in_use(*_):
        raise RuntimeError

    monkeypatch.setattr(tf.config, "set_visible_devices", in_use)
    leave_devices_to_children()


# With such a small model, JAX spends half of its time compiling code that runs a few times.
QUICK_JAX = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Options for 2 epochs and few shapes; batches have 7 pairs, not a multiple of 2 or 3."""
    folder = tmp_path_factory.mktemp("text")
    generator = random.Random(3)
    settings = {}
    for split, num_lines in (("train", 59), ("validation", 20)):
        lines = [generator.choices(WORDS[:3], k=2) for _ in range(num_lines)]
        write_lines(folder / f"{split}.source", [" ".join(line) for line in lines])
        write_lines(folder / f"{split}.target", [" ".join(reversed(line)) for line in lines])
        for side in ("source", "target"):
            settings[f"{split}_{side}"] = str(folder / f"{split}.{side}")
    settings |= {
        "vocabulary_size": 268,
        "num_layers": 1,
        "model_dim": 12,
        "feed_forward_dim": 17,
        "num_heads": 3,
        "batch_tokens": 44,
        "epochs": 2,
        "warmup_steps": 20,
        "peak_learning_rate": 0.01,
        "average_checkpoints": 2,
        "average_epochs": "best",  # of two epochs both
        "checkpoint_steps": 1,
        "keep_checkpoints": 1000,
        "seed": 5,
    }
    return as_arguments(settings)


@pytest.fixture(scope="module")
def of_one_device(arguments, tmp_path_factory):
    """A finished run on one device, without dropout."""
    output = tmp_path_factory.mktemp("runs") / "one"
    finish([Start(arguments, output, "--dropout=0")])
    return output


class Start:
    """Returns the command of one process: `python -m training.train`, or another program."""

    def __init__(self, arguments, output, *more, program=("-m", "training.train"), **environment):
        options = once([*arguments, f"--output={output}", *more])
        self.command = [sys.executable, *program, *options]
        self.environment = environment


def on_cpus(number, arguments, output, *more):
    program = ("-c", ON_SEVERAL_CPUS, str(number))
    return [Start(arguments, output, "--strategy=mirrored", *more, program=program)]


def tensorflow_workers(number, arguments, output, *more):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(number)]}
    tasks = [{"type": "worker", "index": index} for index in range(number)]
    configs = [json.dumps({"cluster": cluster, "task": task}) for task in tasks]
    more = ("--strategy=multi_worker", *more)
    return [Start(arguments, output, *more, TF_CONFIG=config) for config in configs]


def jax_workers(number, arguments, output, *more):
    [port] = free_ports(1)
    more = ("--backend=jax", "--strategy=multi_worker", *more)
    return [
        Start(
            arguments,
            output,
            *more,
            **QUICK_JAX,
            KERAS_DISTRIBUTION_JOB_ADDRESSES=f"127.0.0.1:{port}",
            KERAS_DISTRIBUTION_NUM_PROCESSES=str(number),
            KERAS_DISTRIBUTION_PROCESS_ID=str(index),
        )
        for index in range(number)
    ]


def free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running(starts):
    """A list of running processes, which are always killed at the end."""
    with contextlib.ExitStack() as stack:
        processes = []
        for start in starts:
            process = subprocess.Popen(
                start.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **start.environment},
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            processes.append(process)
        yield processes


def outcome(process, timeout=SECONDS_OF_A_START):
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


def finish(starts):
    """Runs processes until they succeed; returns what they print."""
    with running(starts) as processes:
        outcomes = [outcome(process) for process in processes]
    assert [code for code, _, _ in outcomes] == [0] * len(starts), outcomes
    return [output for _, output, _ in outcomes]


def wait_for_checkpoint(output, position, processes):
    deadline = time.monotonic() + SECONDS_OF_A_START
    while RunFolder(output).position_saved < position:
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def break_off(starts, output, position):
    """Kills a run as soon as it has a checkpoint."""
    with running(starts) as processes:
        wait_for_checkpoint(output, position, processes)
    assert not RunFolder(output).is_finished


def metrics_by_step(output):
    """Returns the totals and counts of loss and metrics after each step of each epoch."""
    run = RunFolder(output)
    return {
        position: [
            array
            for name, array in load_arrays(run.checkpoint_path(position, "state")).items()
            if name.startswith("metrics.")
        ]
        for position in sorted(run.positions_with("state"))
        if position.batch
    }


def assert_same_training(output, other):
    """Compares the loss and the metrics of each step and of each epoch."""
    ours, theirs = metrics_by_step(output), metrics_by_step(other)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 10
    for position in ours:
        np.testing.assert_allclose(ours[position], theirs[position], rtol=1e-5, err_msg=position)
    assert_same_metrics(output, other)


def assert_same_metrics(output, other, without=()):
    """Compares each epoch; the gradient's norm only if both have it, since JAX does not."""
    for ours, theirs in zip(
        RunFolder(output).read_metrics(), RunFolder(other).read_metrics(), strict=True
    ):
        assert ours.keys() | {"gradient_norm"} == theirs.keys() | {"gradient_norm"}
        for name in ours.keys() & theirs.keys() - set(without):
            if "second" not in name:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name


def sha256_of(output):
    """Returns the hash of all weights, dropout's random states and the optimizer at the end."""
    run, digest = RunFolder(output), hashlib.sha256()
    for kind in ("weights", "state"):
        for name, array in load_arrays(run.checkpoint_path(run.position_saved, kind)).items():
            if name != "seconds":
                digest.update(name.encode() + str(array.dtype).encode() + array.tobytes())
    return digest.hexdigest()


@pytest.mark.slow
def test_devices_of_one_machine_train_like_one_device(arguments, of_one_device, tmp_path):
    [output] = finish(on_cpus(3, arguments, tmp_path / "run", "--dropout=0"))
    assert "\nmirrored: 3 devices\n" in output
    assert_same_training(tmp_path / "run", of_one_device)


@pytest.mark.slow
def test_devices_together_accumulate_the_parts_of_a_batch(arguments, of_one_device, tmp_path):
    more = ["--dropout=0", "--accumulation-steps=2", "--checkpoint-steps=1000"]
    finish(on_cpus(2, arguments, tmp_path / "run", *more))
    # The loss of an epoch counts the blank rows of parts.
    assert_same_metrics(tmp_path / "run", of_one_device, without={"loss"})


@pytest.mark.slow
def test_two_workers_train_like_one_and_only_the_chief_prints(arguments, of_one_device, tmp_path):
    chief, other = finish(tensorflow_workers(2, arguments, tmp_path / "run", "--dropout=0"))
    assert_same_training(tmp_path / "run", of_one_device)
    assert "\nmulti_worker: 2 devices of 2 workers\n" in chief
    assert "finished: " in chief
    assert other == ""


@pytest.mark.slow
@pytest.mark.jax
def test_two_workers_on_jax_train_like_one_and_tensorflow_reads_the_run(arguments, tmp_path):
    pytest.importorskip("jax")
    one, two = tmp_path / "one", tmp_path / "two"
    finish([Start(arguments, one, "--dropout=0", "--backend=jax", **QUICK_JAX)])
    finish(jax_workers(2, arguments, two, "--dropout=0"))
    assert_same_training(two, one)

    from keras_transformer.export.saved_model import export_saved_model
    from keras_transformer.translator import Translator

    translator = Translator.load(two)
    assert translator(["one two"]) == Translator.load(one)(["one two"])
    assert (Path(export_saved_model(translator, tmp_path / "export")) / "saved_model.pb").exists()


@pytest.mark.slow
def test_the_loss_of_a_worker_ends_the_other_and_the_run_resumes_exactly(arguments, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ("--dropout=0.3",)
    finish(tensorflow_workers(2, arguments, whole, *more))
    for lost, position in ((0, Position(0, 3)), (1, Position(1, 3))):
        with running(tensorflow_workers(2, arguments, broken, *more)) as processes:
            wait_for_checkpoint(broken, position, processes)
            processes[lost].kill()
            code, _, errors = outcome(processes[1 - lost], SECONDS_TO_NOTICE_A_LOSS)
        assert code == 1
        last = errors.splitlines()[-1]
        assert last.startswith("error: All workers must run until the training ends. Received: a")
        assert "Run the same command on all workers again to resume" in last
    finish(tensorflow_workers(2, arguments, broken, *more))
    assert sha256_of(broken) == sha256_of(whole)
    assert_same_metrics(broken, whole)


def says(process, words):
    """Reads a process's stderr up to a line with the given words, and returns the line."""
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"it ended with {process.wait()}")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [tensorflow_workers, jax_workers])
@pytest.mark.parametrize("present", [0, 1])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_waiting_worker_says_so_and_reacts_to_signals(
    arguments, tmp_path, workers, present, number, code
):
    start = workers(2, arguments, tmp_path / "run")[present]
    with running([start]) as [process]:
        assert f"this is worker {present}" in says(process, " names 2 workers: 0 (127.0.0.1:")
        says(process, f"waiting for worker {1 - present}")
        process.send_signal(number)
        assert outcome(process)[0] == code
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [tensorflow_workers, jax_workers])
def test_waiting_ends_with_an_error_that_names_the_missing_worker(arguments, tmp_path, workers):
    start = workers(2, arguments, tmp_path / "run", "--wait-minutes=0.01")[0]
    with running([start]) as [process]:
        code, output, errors = outcome(process)
    assert code == 1
    assert output == "reading the text\n"
    last = errors.splitlines()[-1]
    assert re.match(
        r"error: All workers must come within 0.01 minutes\. Received: no worker 1", last
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [tensorflow_workers, jax_workers])
def test_an_error_of_only_the_chief_ends_all_workers(arguments, tmp_path, workers):
    once = [argument for argument in arguments if "--vocabulary-size" not in argument]
    with running(workers(2, once, tmp_path / "run", "--vocabulary-size=261")) as processes:
        outcomes = [outcome(process) for process in processes]
    for code, _, errors in outcomes:
        assert code == 1
        assert "error: vocabulary_size must hold 4 special ids" in errors.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [tensorflow_workers, jax_workers])
def test_a_chief_that_fails_does_not_wait_for_the_others(arguments, tmp_path, workers):
    """The kernel refuses to write files of more than 4 KiB."""
    chief, other = workers(2, arguments, tmp_path / "run")
    chief.command = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *chief.command]
    with running([chief, other]) as processes:
        outcomes = [outcome(process, SECONDS_TO_NOTICE_A_LOSS) for process in processes]
    assert outcomes[0][0] == 1
    assert "must fit on the disk. Received: File too large" in outcomes[0][2].splitlines()[-1]
    assert outcomes[1][0] != 0


@pytest.mark.jax
def test_on_jax_a_worker_that_fails_alone_exits_without_the_others(monkeypatch):
    jax = pytest.importorskip("jax")
    from training.devices import jax_devices

    all_have_come, codes = threading.Event(), []
    monkeypatch.setattr(jax.distributed, "shutdown", all_have_come.wait)
    monkeypatch.setattr(jax_devices, "_SECONDS_TO_LEAVE_TOGETHER", 0.01)
    monkeypatch.setattr(os, "_exit", codes.append)
    jax_devices._leave_soon()
    all_have_come.set()
    assert codes == [1]


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_all_after_the_same_update(arguments, tmp_path):
    starts = tensorflow_workers(2, arguments, tmp_path, "--epochs=1000", "--keep-checkpoints=2")
    with running(starts) as processes:
        wait_for_checkpoint(tmp_path, Position(1, 3), processes)
        processes[1].send_signal(signal.SIGTERM)
        outcomes = [outcome(process) for process in processes]
    assert [code for code, _, _ in outcomes] == [143, 143]
    assert "Run the same command again to resume." in outcomes[0][2]


@pytest.mark.slow
@pytest.mark.jax
def test_a_run_moves_between_devices(arguments, of_one_device, tmp_path):
    pytest.importorskip("jax")
    run, more = tmp_path / "run", "--dropout=0"
    break_off([Start(arguments, run, more)], run, Position(0, 2))
    break_off(on_cpus(2, arguments, run, more), run, Position(0, 5))
    break_off([Start(arguments, run, more, "--backend=jax", **QUICK_JAX)], run, Position(1, 1))
    [output, _] = finish(tensorflow_workers(2, arguments, run, more))
    assert "resuming after 1 epoch and" in output
    assert_same_metrics(run, of_one_device)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "not JSON",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"chief": ["b:1"], "worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
    ],
)
def test_a_config_that_does_not_name_the_workers_is_a_one_line_error(
    arguments, tmp_path, capfd, monkeypatch, config
):
    monkeypatch.setenv("TF_CONFIG", config)
    more = ["--output", str(tmp_path / "run"), "--strategy", "multi_worker"]
    assert run_command(main, [*arguments, *more]) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert re.match(r"error: TF_CONFIG must name all workers, .* Received: TF_CONFIG=", line)
    assert not (tmp_path / "run").exists()


def test_choosing_a_backend_too_late_is_a_one_line_error(arguments, tmp_path, capfd):
    assert run_command(main, [*arguments, f"--output={tmp_path}/run", "--backend=jax"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("error: --backend must be given before Keras is imported. Received: ")


@pytest.mark.parametrize(
    ("arguments", "backend"),
    [
        (["--backend", "jax"], "jax"),
        (["--seed=1", "--backend=jax", "--epochs=2"], "jax"),
        (["--backend=torch"], "before"),
        (["--backend"], "before"),
        ([], "before"),
    ],
)
def test_the_backend_is_known_before_keras_is_imported(monkeypatch, arguments, backend):
    monkeypatch.setenv("KERAS_BACKEND", "before")
    choose_backend(arguments)
    assert os.environ["KERAS_BACKEND"] == backend


def test_a_backend_that_is_not_installed_is_a_one_line_error(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="--backend jax needs the package jax. Received"):
        choose_backend(["--backend=jax"])
