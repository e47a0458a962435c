"""Measurements take turns, and memory is the peak of simultaneous tensors."""

import pytest
import tensorflow as tf

from training.command_line.errors import InputError, UsageError
from training.experiments import machine
from training.experiments.machine import peak_bytes, prepare_tensorflow, seconds_per_call


def test_measurements_are_taken_in_turns():
    calls = []
    functions = {
        name: lambda number, name=name: calls.append((name, number)) for name in ("one", "other")
    }
    seconds = seconds_per_call(functions, repeats=3, least_seconds=0)
    assert [name for name, _ in calls[-6:]] == ["one", "other"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"one": 3, "other": 3}


class Clock:
    """A clock that only work advances."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def takes(self, seconds, calls):
        """Returns a function whose repetitions take a given time; it records their number."""

        def work(number):
            calls.append(number)
            self.now += seconds * number

        return work


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(machine, "time", clock)
    return clock


def test_measured_seconds_are_those_of_one_call(clock):
    functions = {"short": clock.takes(0.002, []), "long": clock.takes(3.0, [])}
    seconds = seconds_per_call(functions, repeats=2, least_seconds=0.02)
    assert seconds["short"] == pytest.approx([0.002] * 2)
    assert seconds["long"] == pytest.approx([3.0] * 2)


def test_short_calls_are_repeated_until_the_clock_can_measure_them(clock):
    calls = []
    seconds_per_call({"short": clock.takes(0.001, calls)}, repeats=2, least_seconds=0.03)
    assert calls == [1, 1, 4, 16, 64, 64, 64]


def test_memory_is_the_peak_of_simultaneous_tensors():
    mib = 2**20
    ones = tf.ones((mib,))  # 4 MiB that were there before

    def two_of_twelve_mib_after_each_other():
        for _ in range(2):
            tf.concat([ones, ones, ones], 0).numpy()

    def eight_of_twelve_mib_at_once():
        return [tf.concat([ones, ones, ones], 0) for _ in range(8)]

    # Blocks are up to twice as large as tensors.
    assert 12 * mib <= peak_bytes(two_of_twelve_mib_after_each_other) < 24 * mib
    assert 96 * mib <= peak_bytes(eight_of_twelve_mib_at_once) < 192 * mib


def test_memory_is_unknown_where_tensorflow_does_not_record_it(monkeypatch):
    monkeypatch.setattr(machine, "device", lambda: "GPU:7")
    assert peak_bytes(lambda: None) is None


def test_threads_and_backend_are_checked(monkeypatch):
    with pytest.raises(UsageError, match="--threads must be 0 or more. Received: -1"):
        prepare_tensorflow(-1)
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(InputError, match="must run on TensorFlow.*Received: jax"):
        prepare_tensorflow(0)
