"""Measures how fast a model trains: `python -m training.benchmark train --help`."""

import dataclasses
import gc
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal

from training.benchmarks.flops import forward_flops
from training.benchmarks.measuring import PRESETS, seconds_of
from training.benchmarks.step_profile import step_profile
from training.command_line.parser import CommandParser, Options, parse
from training.command_line.running import import_keras, import_tensorflow, tell
from training.settings import TrainingSettings

DTYPE_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}

# A product that takes this long is measured reliably on any machine.
SECONDS_OF_A_PRODUCT = 0.05


def measure_training(arguments: Sequence[str]) -> None:
    """Trains on random tokens without padding, and prints the speed."""
    options = parse(_parser(), arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import_keras()
    import keras

    from keras_transformer.config import TransformerConfig

    if keras.backend.backend() == "tensorflow":
        import_tensorflow()
    vocabulary_size, batch, length = PRESETS[options.preset]
    config = getattr(TransformerConfig, options.preset)(
        options.vocabulary_size or vocabulary_size, dropout=options.dropout
    )
    options.batch = options.batch or batch
    options.source_length = options.source_length or length
    options.target_length = options.target_length or length
    keras.config.set_dtype_policy(DTYPE_POLICIES[options.dtype])
    keras.utils.set_random_seed(0)

    tell(f"building {options.preset}, then {options.repeats} times {options.steps} updates ...")
    import training.runs.compiled_model  # noqa: F401  imports are no part of the first step

    gc.collect()  # takes 0.3 seconds, which may fall into the first step or not
    start = time.perf_counter()
    model = model_to_train(config, options.xla)
    fit = _fit_on_random_tokens(model, config, options)
    build_seconds = time.perf_counter() - start
    first_step_seconds = seconds_of(lambda: fit(1)) + build_seconds
    fit(options.steps)
    steps = [seconds_of(lambda: fit(options.steps)) / options.steps for _ in range(options.repeats)]
    profile = {"profile_ms": step_profile(fit, options.steps)} if options.profile else {}
    print(json.dumps(_line(options, model, config, first_step_seconds, steps, profile)))


def _parser() -> CommandParser:
    parser = CommandParser("benchmark train", "Measures training on random tokens.")
    parser.add_option("preset", Literal[tuple(PRESETS)], "tiny", "Size of the model.")
    parser.add_option("dtype", Literal[tuple(DTYPE_POLICIES)], "float32", "Precision of products.")
    batch_help = "Sentences per batch (default: 64 for tiny, 32 for base and big)."
    parser.add_option("batch", int | None, None, batch_help)
    length_help = "Tokens per sentence (default: 20 for tiny, 25 for base and big)."
    parser.add_option("source_length", int | None, None, length_help)
    parser.add_option("target_length", int | None, None, length_help)
    vocabulary_help = "Sub-words (default: 10,000 for tiny, 8,000 for base and big)."
    parser.add_option("vocabulary_size", int | None, None, vocabulary_help)
    parser.add_option("dropout", float, 0.1, "P_drop of the paper.")
    parser.add_option("steps", int, 10, "Updates per repeat.")
    parser.add_option("repeats", int, 5, "Repeats; the median is reported.")
    parser.add_threads()
    parser.add_flag("profile", "Show where a step's time goes, on TensorFlow.")
    parser.add_flag("xla", "Compile the step with XLA, as JAX always does.")
    return parser


def _line(options: Options, model, config, first_step_seconds, steps, profile) -> dict:
    import keras

    peak = matrix_product_flops_per_second(options.dtype)
    lengths = options.source_length, options.target_length
    step_seconds = statistics.median(steps)
    flops_per_second = 3 * forward_flops(config, options.batch, *lengths) / step_seconds
    return {
        "task": "train",
        "preset": options.preset,
        "dtype": options.dtype,
        "backend": keras.backend.backend(),
        "xla": options.xla,
        "threads": options.threads or os.cpu_count(),
        "batch": options.batch,
        "source_length": options.source_length,
        "target_length": options.target_length,
        "dropout": options.dropout,
        "parameters": model.count_params(),
        "tokens_per_second": round(options.batch * sum(lengths) / step_seconds),
        "step_ms": round(1000 * step_seconds, 2),
        "step_ms_min": round(1000 * min(steps), 2),
        "step_ms_max": round(1000 * max(steps), 2),
        "repeats": options.repeats,
        "steps_per_repeat": options.steps,
        "first_step_seconds": round(first_step_seconds, 2),
        "gflops_per_second": round(flops_per_second / 1e9, 1),
        "peak_gflops_per_second": round(peak / 1e9, 1),
        "share_of_peak": round(flops_per_second / peak, 4),
        **profile,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def matrix_product_flops_per_second(dtype: str, repeats: int = 7) -> float:
    """Returns the best rate of square matrix products on this machine, over several sizes."""
    import numpy as np
    from keras import ops

    best = 0.0
    for size in (512, 1024, 2048, 4096, 8192):
        factor = ops.cast(np.random.default_rng(0).normal(size=(size, size)), dtype)

        def multiply(factor=factor):
            corner = ops.cast(ops.matmul(factor, factor)[0, 0], "float32")
            return float(ops.convert_to_numpy(corner))  # waits for the device

        multiply()
        seconds = min(seconds_of(multiply) for _ in range(repeats))
        best = max(best, 2 * size**3 / seconds)
        if seconds > SECONDS_OF_A_PRODUCT:
            break
    return best


def model_to_train(config, xla: bool):
    """Returns a model compiled as `training.train` compiles it."""
    import keras

    from training.runs.compiled_model import compiled_model

    settings = TrainingSettings(**dataclasses.asdict(config))
    jit_compile = xla or keras.backend.backend() == "jax"
    model = compiled_model(settings, jit_compile)
    model.optimizer.build(model.trainable_variables)  # or the first step would be traced twice
    return model


def _fit_on_random_tokens(model, config, options: Options) -> Callable[[int], None]:
    """Returns a function that trains a number of steps through `model.fit`."""
    import keras
    import numpy as np

    from keras_transformer.data import Epochs

    generator = np.random.default_rng(0)

    def tokens(length):  # without special ids, so without padding
        shape = options.batch, length
        return generator.integers(4, config.vocabulary_size, shape, dtype="int32")

    source_ids, target_ids = tokens(options.source_length), tokens(options.target_length)
    inputs = {"source_ids": source_ids, "target_ids": target_ids}
    labels = tokens(options.target_length)

    def fit(steps):
        epochs = Epochs(lambda epoch, index: (inputs, labels), steps)
        on_tensorflow = keras.backend.backend() == "tensorflow"
        batches = epochs.dataset() if on_tensorflow else epochs.stream()
        model.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False)

    return fit
