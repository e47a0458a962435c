"""A training run that is killed repeatedly ends bit for bit like an uninterrupted one."""

import hashlib
import random
import time

import pytest

from tests.training.processes import finish, started, wait_until
from tests.training.small_run import once
from training.runs.checkpoints import load_arrays
from training.runs.folder import Position, RunFolder

NUM_KILLS = 10

# 48 parts of 24 batches in 4 epochs; every source of randomness, and a checkpoint after each
# part, including those within an update.
STEPS_PER_EPOCH, PARTS = 6, 2
SETTINGS = [
    f"--steps-per-epoch={STEPS_PER_EPOCH}",
    f"--accumulation-steps={PARTS}",
    "--sampling=0.2",
    "--batch-tokens=96",
    "--epochs=4",
    "--dropout=0.3",
    "--checkpoint-steps=1",
]


def training(arguments, run, hash_seed):
    settings = [*arguments, *SETTINGS, f"--output={run}"]
    return started("training.train", *once(settings), PYTHONHASHSEED=str(hash_seed))


def sha256_of(run):
    """Returns the hash of all weights, dropout's random states and the optimizer, at the end."""
    digest = hashlib.sha256()
    for kind in ("weights", "state"):
        arrays = load_arrays(run.checkpoint_path(run.position_saved, kind))
        for name, array in arrays.items():
            if name != "seconds":
                digest.update(name.encode() + str(array.dtype).encode() + array.tobytes())
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # twelve starts
def test_ten_kills_change_nothing(train_arguments, tmp_path):
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    with training(train_arguments, whole.path, hash_seed=0) as process:
        finish(process)
    assert whole.read_metrics()[3]["steps"] == 4 * STEPS_PER_EPOCH
    num_batches = STEPS_PER_EPOCH * PARTS
    last = 4 * num_batches
    assert last > 4 * NUM_KILLS

    generator = random.Random(11)
    done = []
    # No kill is near the end, since a busy machine may kill late.
    steps = generator.sample(range(1, last - num_batches // 2), NUM_KILLS)
    for number, step in enumerate(sorted(steps), start=1):
        target = Position(*divmod(step, num_batches))
        with training(train_arguments, killed.path, hash_seed=number) as process:
            wait_until(lambda target=target: killed.position_saved >= target, process)
            time.sleep(generator.uniform(0, 0.02))  # into a step, a checkpoint or a validation
        done.append(killed.position_saved)
    assert not killed.is_finished
    assert len({position for position in done if position.batch}) > NUM_KILLS // 2
    with training(train_arguments, killed.path, hash_seed=99) as process:
        finish(process)

    assert sha256_of(killed) == sha256_of(whole)
    timeless = [
        [
            {key: value for key, value in line.items() if "second" not in key}
            for line in run.read_metrics()
        ]
        for run in (killed, whole)
    ]
    assert timeless[0] == timeless[1]
