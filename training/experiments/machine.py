"""The clock and the memory's account, as experiments read them on TensorFlow."""

import itertools
import time
from collections.abc import Callable, Hashable

from training.command_line.errors import InputError, UsageError
from training.command_line.parser import use_threads
from training.command_line.running import import_keras, import_tensorflow, tell


def prepare_tensorflow(threads: int) -> None:
    """Makes TensorFlow ready to be measured; before its first operation.

    Args:
        threads: How many it may use; 0 for as many as it likes.

    Raises:
        UsageError: If the number is negative.
        InputError: If Keras runs on another backend.
    """
    if threads < 0:
        raise UsageError(
            f"--threads must be 0 or more. Received: {threads}. Give 0 for all processors."
        )
    if threads:
        use_threads(threads)
    import_keras()
    import keras

    if keras.backend.backend() != "tensorflow":
        raise InputError(
            "This experiment must run on TensorFlow, whose memory it reads. Received:"
            f" {keras.backend.backend()}. Leave out --backend and KERAS_BACKEND."
        )
    import_tensorflow()
    import tensorflow as tf

    # It warns of functions that are traced again and again, as each size has to be.
    tf.get_logger().setLevel("ERROR")


def device() -> str:
    """The device that TensorFlow puts operations on."""
    import tensorflow as tf

    return "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"


def seconds_per_call(
    functions: dict[Hashable, Callable[[int], None]], repeats: int, least_seconds: float = 0.02
) -> dict[Hashable, list[float]]:
    """How long a call takes, measured again and again in turns.

    All are measured once before any is measured twice, so that what else the machine does meets
    all of them.

    Args:
        functions: Each does its work as many times as it is told, and returns when it is done.
        repeats: How often each is measured.
        least_seconds: Of each measurement, by repeating what is short.
    """
    calls = {}
    for key, function in functions.items():
        function(1)  # whatever happens only once
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
    """The most that tensors took while a function ran, beside those that were there before.

    TensorFlow's own account of its allocator, which counts blocks: a tensor may be given one of
    less than twice its size. On a CPU it leaves out tensors of less than about a tenth of a MiB.

    Args:
        function: What it returns counts, too.

    Returns:
        None where this build of TensorFlow keeps no account.
    """
    import tensorflow as tf

    try:
        tf.config.experimental.reset_memory_stats(device())
        before = tf.config.experimental.get_memory_info(device())["current"]
        function()
        return tf.config.experimental.get_memory_info(device())["peak"] - before
    except (ValueError, tf.errors.OpError):
        return None
