"""Measures time and memory in TensorFlow."""

import itertools
import time
from collections.abc import Callable, Hashable

from training.command_line.errors import InputError, UsageError
from training.command_line.parser import use_threads
from training.command_line.running import import_keras, import_tensorflow, tell


def prepare_tensorflow(threads: int) -> None:
    """Prepares TensorFlow for measurements. Call this before TensorFlow's first operation.

    Args:
        threads: The number of threads that TensorFlow may use; 0 for all.

    Raises:
        UsageError: If `threads` is negative.
        InputError: If Keras runs on another backend.
    """
    if threads < 0:
        raise UsageError(
            f"--threads must be 0 or more. Received: {threads}. Give 0 to use all processors."
        )
    if threads:
        use_threads(threads)
    import_keras()
    import keras

    if keras.backend.backend() != "tensorflow":
        raise InputError(
            "This experiment must run on TensorFlow, whose memory it measures. Received:"
            f" {keras.backend.backend()}. Leave out --backend and KERAS_BACKEND."
        )
    import_tensorflow()
    import tensorflow as tf

    # TensorFlow warns about functions that are traced repeatedly, but each size needs a trace.
    tf.get_logger().setLevel("ERROR")


def device() -> str:
    """Returns the name of the device that runs TensorFlow's operations."""
    import tensorflow as tf

    return "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"


def seconds_per_call(
    functions: dict[Hashable, Callable[[int], None]], repeats: int, least_seconds: float = 0.02
) -> dict[Hashable, list[float]]:
    """Measures the functions in turn, so that other load on the machine affects all of them.

    Args:
        functions: Functions that take a number of calls, and return after doing their work that
            often.
        repeats: The number of measurements of each function.
        least_seconds: The shortest measurement; shorter work is repeated to take this long.
    """
    calls = {}
    for key, function in functions.items():
        function(1)  # warm-up
        calls[key] = next(
            number
            for number in (4**power for power in itertools.count())
            if _seconds(function, number) >= least_seconds
        )
    seconds = {key: [] for key in functions}
    for repeat in range(repeats):
        tell(f"measurement {repeat + 1} of {repeats}")
        for key, function in functions.items():
            seconds[key].append(_seconds(function, calls[key]) / calls[key])
    return seconds


def _seconds(function: Callable[[int], None], calls: int) -> float:
    start = time.perf_counter()
    function(calls)
    return time.perf_counter() - start


def peak_bytes(function: Callable[[], object]) -> int | None:
    """Returns the peak memory of new tensors while a function runs, including its result.

    TensorFlow counts its allocator's blocks, which may be up to twice as large as a tensor. On a
    CPU, it skips tensors below about 0.1 MiB. Returns None if TensorFlow does not count memory.
    """
    import tensorflow as tf

    try:
        tf.config.experimental.reset_memory_stats(device())
        before = tf.config.experimental.get_memory_info(device())["current"]
        function()
        return tf.config.experimental.get_memory_info(device())["peak"] - before
    except (ValueError, tf.errors.OpError):
        return None
