"""The display of training's progress, with a clock that the tests set."""

import re

import pytest

from training.runs.folder import Position
from training.runs.progress_display import ProgressBar, ProgressLines, duration


class Clock:
    seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def train_part(callback, clock, batch, seconds, **logs):
    clock.seconds += seconds
    callback.on_train_batch_end(batch, logs)


LOGS = {"loss": 3.25, "perplexity": 21.5, "tokens_per_second": 5120.0}


def test_a_line_is_printed_every_log_seconds(clock, capsys):
    lines = ProgressLines(30, epochs=2, num_batches=5, clock=clock)
    lines.on_epoch_begin(0)
    train_part(lines, clock, 0, 20, **LOGS)
    assert capsys.readouterr().out == ""
    train_part(lines, clock, 1, 9, **LOGS)
    assert capsys.readouterr().out == ""
    train_part(lines, clock, 2, 1, **LOGS)
    # Two batches in ten seconds since the first; seven are left.
    assert capsys.readouterr().out == (
        "epoch 1 of 2, batch 3 of 5: loss 3.25, perplexity 21.5, 5,120 tokens/s, 35 s left\n"
    )
    lines.on_test_batch_end(7)
    assert capsys.readouterr().out == ""
    clock.seconds += 30
    lines.on_test_batch_end(8)
    assert capsys.readouterr().out == "epoch 1 of 2, validation, batch 9\n"


def test_the_first_line_has_no_speed(clock, capsys):
    lines = ProgressLines(30, epochs=2, num_batches=5, clock=clock)
    lines.on_epoch_begin(0)
    train_part(lines, clock, 0, 59, **LOGS)
    expected = "epoch 1 of 2, batch 1 of 5: loss 3.25, perplexity 21.5\n"
    assert capsys.readouterr().out == expected


def test_parts_are_counted_as_whole_batches(clock, capsys):
    """Resumed in epoch 3 after 5 parts, 4 per batch, so that part 6 belongs to batch 2."""
    lines = ProgressLines(
        1, epochs=3, num_batches=10, num_parts=4, first=Position(2, 5), clock=clock
    )
    lines.on_epoch_begin(2)
    train_part(lines, clock, 0, 10, loss=1.0)
    train_part(lines, clock, 3, 3, loss=1.0)  # 3 parts later, 31 of 40 are left
    assert capsys.readouterr().out.splitlines() == [
        "epoch 3 of 3, batch 2 of 10: loss 1",
        "epoch 3 of 3, batch 3 of 10: loss 1, 31 s left",
    ]


def test_the_time_left_is_within_the_trainings_time_limit(clock, capsys):
    lines = ProgressLines(1, epochs=100, num_batches=100, most_seconds=500, clock=clock)
    lines.on_epoch_begin(0)
    train_part(lines, clock, 0, 10, loss=1.0)
    train_part(lines, clock, 1, 10, loss=1.0)
    assert capsys.readouterr().out.splitlines()[-1].endswith("8 min 00 s left")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3660, "1 h 01 min"),
        (200_000, "55 h 33 min"),
    ],
)
def test_a_duration_is_shown_in_two_units(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("steps", "num_batches"), [(40, 10), (37, 10), (3, 1)])
@pytest.mark.parametrize("verbose", [1, 2])
def test_the_bar_counts_whole_batches(capsys, steps, num_batches, verbose):
    """An epoch that was resumed within a batch has 37 parts left."""
    bar = ProgressBar(4)
    bar.set_params({"verbose": verbose, "epochs": 1, "steps": steps})
    bar.on_train_begin()
    bar.on_epoch_begin(0)
    for part in range(steps):
        bar.on_train_batch_end(part, {"loss": 1.0})
    bar.on_epoch_end(0, {"loss": 1.0})
    counts = re.findall(r"(\d+)/(\d+)\D", capsys.readouterr().out)
    assert counts[-1] == (str(num_batches), str(num_batches))
    assert {int(of_all) for _, of_all in counts} == {num_batches}
