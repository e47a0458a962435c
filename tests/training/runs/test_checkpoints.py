"""Checkpoints are written completely or not at all, and damaged ones are skipped."""

import errno
import logging
import os

import numpy as np
import pytest

from keras_transformer.optimizers import Adam
from training.command_line.running import run_command
from training.runs import checkpoints
from training.runs.checkpoints import Checkpoint, Progress, save_checkpoint
from training.runs.final_weights import readable_weights
from training.runs.folder import Position, RunFolder
from training.settings import TrainingSettings

FIRST, SECOND, THIRD = Position(1, 0), Position(1, 7), Position(2, 0)


def set_all(model, value):
    for variable in [*model.variables, *model.optimizer.variables]:
        variable.assign(np.full(variable.shape, value))


def values_of(model):
    variables = [*model.variables, *model.optimizer.variables]
    return {float(value) for variable in variables for value in np.ravel(variable)}


@pytest.fixture
def two_checkpoints(small_model, tmp_path):
    """A run in which every number was 1 after epoch 1, and 2 after 7 more batches."""
    run = RunFolder(tmp_path)
    for value, position in ((1, FIRST), (2, SECOND)):
        set_all(small_model, value)
        save_checkpoint(run, small_model, position, seconds=10.0 * value)
    set_all(small_model, 0)
    return run


def test_the_latest_checkpoint_restores_every_variable(small_model, two_checkpoints):
    progress = checkpoints.restore_latest(two_checkpoints, small_model)
    assert (progress.position, progress.seconds) == (SECOND, 20.0)
    assert values_of(small_model) == {2}


def test_checkpoints_have_metrics_within_an_epoch_but_not_at_its_end(small_model, tmp_path):
    small_model.fit(np.ones((8, 2)), np.ones((8, 3)), verbose=0)
    run = RunFolder(tmp_path)
    for position in (FIRST, SECOND):
        save_checkpoint(run, small_model, position)
    states = [np.array(variable) for variable in small_model.metrics_variables]
    assert any(state.any() for state in states)
    restored = Checkpoint.read(run, small_model, SECOND).progress.metrics
    for state, array in zip(states, restored, strict=True):
        np.testing.assert_array_equal(state, array)
    assert Checkpoint.read(run, small_model, FIRST).progress.metrics == []


@pytest.mark.parametrize("kind", ["weights", "state"])
@pytest.mark.parametrize("damage", ["cut", "removed", "altered", "of another model"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    small_model, two_checkpoints, caplog, kind, damage
):
    path = two_checkpoints.checkpoint_path(SECOND, kind)
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-50])
    elif damage == "altered":
        path.write_bytes(data.replace(np.float32(2).tobytes(), np.float32(9).tobytes()))
    elif damage == "removed":
        path.unlink()
    else:
        np.savez(path, **{f"{kind}.00000": np.zeros(5)})
    with caplog.at_level(logging.WARNING):
        assert checkpoints.restore_latest(two_checkpoints, small_model).position == FIRST
    assert values_of(small_model) == {1}
    if (kind, damage) != ("state", "removed"):  # that one was never completed
        assert f"epoch_0001_batch_00007.{kind}.npz" in caplog.text


def test_without_a_complete_checkpoint_training_starts_again(small_model, two_checkpoints):
    for position in (FIRST, SECOND):
        two_checkpoints.checkpoint_path(position, "weights").write_bytes(b"")
    assert checkpoints.restore_latest(two_checkpoints, small_model) == Progress()
    assert values_of(small_model) == {0}


def test_damaged_weights_are_left_out_of_the_result(small_model, two_checkpoints, caplog):
    save_checkpoint(two_checkpoints, small_model, THIRD)
    two_checkpoints.checkpoint_path(THIRD, "weights").write_bytes(b"")
    found = []
    [weights] = readable_weights(two_checkpoints, TrainingSettings(), small_model, [1, 2], found)
    assert found == [1]
    assert (weights[0] == 1).all()
    assert "epoch_0002_batch_00000.weights.npz cannot be read" in caplog.text

    set_all(small_model, 5)
    found = []
    [weights] = readable_weights(two_checkpoints, TrainingSettings(), small_model, [2], found)
    assert found == [2]  # the latest, which the model holds
    assert (weights[0] == 5).all()
    assert "none of the epochs [2] can be read" in caplog.text


@pytest.fixture
def averaging_model(small_model):
    """The small model after one update, with an optimizer that averages its weights."""
    small_model.compile(optimizer=Adam(ema_decay=0.5), loss="mse")
    small_model.fit(np.ones((8, 2)), np.ones((8, 3)), batch_size=8, verbose=0)
    return small_model


def kinds_of(run, position):
    kinds = ("weights", "state", "average")
    return {kind for kind in kinds if run.checkpoint_path(position, kind).exists()}


def test_averages_are_a_separate_file_at_the_end_of_an_epoch(averaging_model, tmp_path):
    run = RunFolder(tmp_path)
    [average] = averaging_model.optimizer.averages
    average.assign(np.full((2, 3), 7.0))
    for position in (FIRST, SECOND):
        save_checkpoint(run, averaging_model, position)
    assert kinds_of(run, FIRST) == {"weights", "state", "average"}
    assert kinds_of(run, SECOND) == {"weights", "state"}
    [averages] = checkpoints.load_weights(run, averaging_model, FIRST, "average")
    [weights] = checkpoints.load_weights(run, averaging_model, FIRST)
    assert (averages == 7).all()
    assert not (weights == 7).any()

    average.assign(np.zeros((2, 3)))
    Checkpoint.read(run, averaging_model, SECOND).set(averaging_model)  # the state has them, too
    assert (np.array(average) == 7).all()


def test_without_averages_a_checkpoint_has_no_such_file(small_model, tmp_path):
    run = RunFolder(tmp_path)
    names = {}
    for name, more in (("none", {}), ("norm", {"track_gradient_norm": True})):
        small_model.compile(optimizer=Adam(**more), loss="mse")
        small_model.optimizer.build(small_model.trainable_variables)
        save_checkpoint(run, small_model, FIRST)
        assert kinds_of(run, FIRST) == {"weights", "state"}
        names[name] = list(checkpoints.load_arrays(run.checkpoint_path(FIRST, "state")))
    # Dropout's state, iterations, rate, two momenta.
    expected = ["backend", "seconds", *(f"state.{i:05d}" for i in range(5))]
    assert names["none"] == names["norm"] == expected


def test_the_averages_become_the_model_if_there_are_any(averaging_model, tmp_path, caplog):
    run = RunFolder(tmp_path)
    [average] = averaging_model.optimizer.averages
    for value, position in ((3.0, FIRST), (4.0, THIRD)):
        average.assign(np.full((2, 3), value))
        save_checkpoint(run, averaging_model, position)
    found = []
    settings = TrainingSettings(ema_decay=0.5)
    every = readable_weights(run, settings, averaging_model, [1, 2], found)
    weights = [weights[0] for weights in every]
    assert [float(array.mean()) for array in weights] == [3.0, 4.0]
    assert found == [1, 2]

    for position in (FIRST, THIRD):  # the weights are undamaged, but were not validated
        run.checkpoint_path(position, "average").write_bytes(b"")
    average.assign(np.full((2, 3), 5.0))
    [[array]] = readable_weights(run, settings, averaging_model, [1, 2], [])
    assert (array == 5).all()
    assert "epoch_0001_batch_00000.average.npz cannot be read" in caplog.text


def test_of_an_earlier_epoch_only_its_averages_are_kept(tmp_path):
    run = RunFolder(tmp_path)
    run.checkpoints_path.mkdir()
    for epoch in range(1, 6):
        for kind in ("weights", "state", "average"):
            run.checkpoint_path(Position(epoch, 0), kind).touch()
    checkpoints.remove_other_checkpoints(run, Position(4, 0), keep=1, epochs=[2])
    assert kinds_of(run, Position(2, 0)) == {"average"}
    assert kinds_of(run, Position(4, 0)) == {"weights", "state", "average"}
    assert not any(kinds_of(run, Position(epoch, 0)) for epoch in (1, 3, 5))


def test_a_checkpoint_holds_plain_arrays_only(tmp_path):
    np.savez(tmp_path / "a.npz", array=np.array([print], dtype=object))
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"a\.npz cannot be read"):
        checkpoints.load_arrays(tmp_path / "a.npz")


def test_unneeded_checkpoints_are_removed(tmp_path):
    run = RunFolder(tmp_path)
    run.checkpoints_path.mkdir()
    positions = {Position(epoch, batch) for epoch in range(1, 8) for batch in (0, 500)}
    for position in positions:
        for kind in ("weights", "state"):
            run.checkpoint_path(position, kind).touch()
    checkpoints.remove_other_checkpoints(run, Position(6, 0), keep=3, epochs=[2, 5])
    last = {Position(5, 0), Position(5, 500), Position(6, 0)}
    assert run.positions_with("state") == last
    assert run.positions_with("weights") == last | {Position(2, 0)}


def test_no_room_for_a_checkpoint_is_reported_in_one_line_and_keeps_the_last(
    small_model, two_checkpoints, monkeypatch, capfd
):
    savez = np.savez

    def savez_until_full(path, **arrays):
        savez(path, **arrays)
        if "state" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", savez_until_full)
    assert run_command(lambda _: save_checkpoint(two_checkpoints, small_model, THIRD)) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert (
        "checkpoints/epoch_0002_batch_00000.state.npz must fit on the disk. Received: No space left"
        " on device." in line
    )
    assert two_checkpoints.position_saved == SECOND
    assert not [n for n in os.listdir(two_checkpoints.checkpoints_path) if "unfinished" in n]
