"""What stops training, and what has been saved by then."""

import itertools
import os
import signal
import threading

import numpy as np
import pytest

from training.command_line.errors import InputError, UnfitSettings
from training.command_line.running import Terminated
from training.runs import early_stopping, kept_epochs
from training.runs.checkpoints import Progress
from training.runs.fitting import short_warmup
from training.runs.folder import Position, RunFolder
from training.runs.monitor import best_epoch
from training.runs.progress import SaveProgress, StopRequest
from training.settings import TrainingSettings

PERPLEXITIES = {1: 9.0, 2: 4.0, 3: 5.0, 4: 4.0}
METRICS = [
    {
        "epoch": epoch,
        "val_perplexity": perplexity,
        "val_bleu": 10.0 * epoch,
        "val_chrf": 0.0,
        "seconds": 1.0,
    }
    for epoch, perplexity in PERPLEXITIES.items()
]


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({"average_checkpoints": 1}, [2]),
        ({"average_checkpoints": 2}, [3, 4]),
        ({"average_checkpoints": 3}, [3, 4]),  # no more than half of them
        ({"average_checkpoints": 9}, [3, 4]),
        ({"average_checkpoints": 2, "average_epochs": "best"}, [2, 4]),
        ({"average_checkpoints": 3, "average_epochs": "best"}, [2, 3, 4]),
        ({"average_checkpoints": 9, "average_epochs": "best"}, [1, 2, 3, 4]),
        ({"average_checkpoints": 1, "monitor": "val_bleu", "validation_bleu": True}, [4]),
        ({"average_checkpoints": 1, "monitor": "val_chrf", "validation_bleu": True}, [2]),
    ],
)
def test_the_last_epochs_or_the_best_ones_make_the_model(settings, epochs):
    metrics = [*METRICS, {"final": True, "val_perplexity": 1.0}]
    assert kept_epochs.epochs_wanted(metrics, TrainingSettings(**settings)) == epochs


def test_at_most_the_last_half_of_all_epochs_is_averaged():
    """The weights of a short training's first epochs would spoil the mean."""
    settings = TrainingSettings(average_checkpoints=3)
    wanted = [
        kept_epochs.epochs_wanted([{"epoch": epoch} for epoch in range(1, last + 1)], settings)
        for last in range(8)
    ]
    assert wanted == [[], [1], [2], [2, 3], [3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 7]]
    for before, now in itertools.pairwise(wanted):  # only what was wanted before is still there
        assert {*now[:-1]} <= {*before}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [2, 3, 4]),
        ({"average_checkpoints": 1}, [2]),
        ({"average_checkpoints": 2, "average_epochs": "best"}, [2, 4]),
        ({"monitor": "val_bleu", "validation_bleu": True}, [3, 4]),
    ],
)
def test_the_best_epoch_is_kept_in_addition_to_those_averaged(settings, kept):
    settings = TrainingSettings(**settings)
    assert kept_epochs.epochs_to_keep(METRICS, settings) == kept
    for last in range(len(METRICS)):  # what was dropped is not wanted again
        before = {*kept_epochs.epochs_to_keep(METRICS[:last], settings)}
        now = {*kept_epochs.epochs_to_keep(METRICS[: last + 1], settings)}
        assert now <= before | {last + 1}


def test_perplexity_breaks_ties_between_equal_scores():
    """If BLEU is always 0, as for text without spaces, the first epoch must not win."""
    metrics = [{**line, "val_bleu": 0.0} for line in METRICS]
    by_bleu = {"monitor": "val_bleu", "validation_bleu": True, "epochs": 9}
    settings = TrainingSettings(**by_bleu, average_checkpoints=2, average_epochs="best")
    assert kept_epochs.epochs_wanted(metrics, settings) == [2, 4]
    assert best_epoch(metrics, settings.monitor) == 2
    stopping = TrainingSettings(**by_bleu, early_stopping_epochs=2)
    assert not early_stopping.is_over(metrics[:3], stopping)
    assert early_stopping.is_over(metrics, stopping)


@pytest.mark.parametrize(
    ("settings", "num_epochs", "is_over"),
    [
        ({}, 4, False),
        ({"epochs": 4}, 3, False),
        ({"epochs": 4}, 4, True),
        ({"early_stopping_epochs": 2}, 3, False),
        ({"early_stopping_epochs": 2}, 4, True),  # epoch 4 is as good as epoch 2, not better
        ({"early_stopping_epochs": 3}, 4, False),
        ({"early_stopping_epochs": 1}, 0, False),
        ({"early_stopping_epochs": 1, "monitor": "val_bleu", "validation_bleu": True}, 4, False),
        ({"max_minutes": 0.084}, 4, False),  # a fifth epoch ends just in time
        ({"max_minutes": 0.07}, 4, True),
    ],
)
def test_training_ends_when_epochs_time_or_patience_run_out(settings, num_epochs, is_over):
    settings = TrainingSettings(**{"epochs": 9, **settings})
    assert early_stopping.is_over(METRICS[:num_epochs], settings) == is_over


@pytest.mark.parametrize(
    ("seconds", "max_minutes", "is_up"),
    [
        ([], 1, False),
        ([20, 20], 1, False),  # a third epoch would end at 60 seconds
        ([20, 21], 1, True),  # at 62
        ([3600], None, False),
    ],
)
def test_no_epoch_begins_that_would_end_too_late(seconds, max_minutes, is_up):
    metrics = [{"epoch": epoch, "seconds": s} for epoch, s in enumerate(seconds, start=1)]
    assert early_stopping.time_is_up(metrics, max_minutes) == is_up


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, None),
        ({"epochs": 4, "max_minutes": 0.07}, None),  # has all its epochs
        (
            {"max_minutes": 0.07},
            "ended after 4 of 9 epochs: one more would take it beyond 0.07 minutes (max_minutes)",
        ),
        (
            {"early_stopping_epochs": 2},
            "ended after 4 of 9 epochs: the last 2 brought no better val_perplexity"
            " (early_stopping_epochs)",
        ),
    ],
)
def test_a_training_that_ends_early_says_why(settings, reason):
    metrics = [*METRICS, {"final": True, "val_perplexity": 1.0}]
    settings = TrainingSettings(**{"epochs": 9, **settings})
    assert early_stopping.early_end(metrics, settings) == reason


@pytest.fixture
def callback(small_model, tmp_path):
    """The callback in epoch 4, with 10 batches, resumed after 2 batches."""
    settings = TrainingSettings(checkpoint_steps=4)
    callback = SaveProgress(
        RunFolder(tmp_path), settings, Progress(Position(3, 2), 100.0), StopRequest()
    )
    callback.set_model(small_model)
    callback.set_params({"steps": 8})
    callback.on_epoch_begin(3)
    return callback


def train_batches(callback, batches, loss=2.0):
    for batch in batches:
        callback.on_train_batch_end(batch, {"loss": loss})


def saved(callback):
    return sorted(callback.run.positions_with("state"))


def test_checkpoints_are_written_every_checkpoint_steps_batches(callback):
    train_batches(callback, range(8))
    assert saved(callback) == [Position(3, 4), Position(3, 8)]


def test_the_last_batch_of_an_epoch_is_saved_by_the_epochs_end(callback):
    callback.set_params({"steps": 2})
    train_batches(callback, range(2))
    assert saved(callback) == []
    callback.on_epoch_end(3, {"val_perplexity": 2.0})
    assert saved(callback) == [Position(4, 0)]
    [line] = callback.run.read_metrics()
    assert line["epoch"] == 4
    assert 100 <= line["seconds"] < 160  # those before the interruption and after it


def test_metrics_of_another_model_are_refused(callback):
    progress = Progress(Position(3, 2), 100.0, metrics=[np.zeros(7)])
    resumed = SaveProgress(callback.run, callback.settings, progress, StopRequest())
    resumed.set_model(callback.model)
    with pytest.raises(InputError, match=r"epoch_0003_batch_00002\.state\.npz: must hold the met"):
        resumed.on_epoch_begin(3)


def test_a_request_to_stop_takes_effect_after_a_checkpoint(callback):
    train_batches(callback, [0])
    callback.stop_request.reason = Terminated
    with pytest.raises(Terminated):
        train_batches(callback, [1])
    assert saved(callback) == [Position(3, 4)]


def test_a_request_during_validation_takes_effect_at_the_end_of_the_epoch(callback):
    train_batches(callback, range(7))
    callback.stop_request.reason = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        callback.on_epoch_end(3, {"val_perplexity": 2.0})
    assert max(saved(callback)) == Position(4, 0)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_after_its_batch(callback, loss):
    train_batches(callback, [0, 1])
    assert saved(callback) == [Position(3, 4)]
    train_batches(callback, [2], loss)
    message = rf"must stay finite\. Received: loss={loss} in batch 5 of epoch 4, update 0"
    with pytest.raises(UnfitSettings, match=message):
        train_batches(callback, [3])
    assert saved(callback) == [Position(3, 4)]


def test_a_loss_that_is_not_finite_reaches_no_checkpoint(callback):
    train_batches(callback, [0])
    with pytest.raises(InputError, match="in batch 4 of epoch 4"):
        train_batches(callback, [1], float("nan"))  # where a checkpoint is due
    train_batches(callback, [2], float("nan"))
    with pytest.raises(InputError, match="in batch 5 of epoch 4"):
        callback.on_epoch_end(3, {})
    assert saved(callback) == []
    assert callback.run.read_metrics() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"epochs": 20},
            "it has 200 updates (20 epochs of 10 batches), and the learning rate rises until update"
            " 4,000 ",
        ),
        ({"epochs": 20}, "warmup_steps=50 with peak_learning_rate=0.0007 (the current peak)"),
        (
            {"epochs": 1, "warmup_steps": 11, "peak_learning_rate": 0.01},
            "warmup_steps=2 with peak_",
        ),
        ({"epochs": 400}, None),  # 4,000 updates
        ({"epochs": 399}, "3,990 updates"),
    ],
)
def test_training_that_would_end_during_its_warmup_causes_a_warning(settings, words):
    complaint = short_warmup(TrainingSettings(**settings), 10)
    assert (complaint is None) if words is None else (words in complaint)


def test_in_another_thread_no_signal_handler_is_installed():
    request, earlier, entered = StopRequest(), signal.getsignal(signal.SIGINT), []

    def listen():
        with request.listening():
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert entered == [earlier]


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_the_first_signal_requests_a_stop_and_the_second_stops_at_once(number, reason, capfd):
    request = StopRequest()
    earlier = signal.getsignal(number)
    with request.listening():
        request.obey()  # nothing to obey
        os.kill(os.getpid(), number)
        assert "once more stops at once" in capfd.readouterr().err
        with pytest.raises(reason):
            request.obey()
        with pytest.raises(reason):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == earlier
