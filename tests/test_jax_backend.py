"""The plain core on JAX, in a process that cannot import TensorFlow."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parent.parent
CORE = """
    tests/test_config.py tests/test_masks.py tests/layers tests/test_model.py tests/decoding
    tests/test_losses.py tests/test_metrics.py tests/test_optimizers.py tests/test_schedules.py
    tests/test_averaging.py tests/test_custom_gradients.py tests/decoding/test_precision.py
""".split()

pytestmark = [
    pytest.mark.jax,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed"),
    pytest.mark.skipif(keras.backend.backend() == "jax", reason="everything runs on JAX already"),
]


def test_the_core_passes_its_tests_on_jax_without_tensorflow():
    arguments = [sys.executable, "-m", "pytest", "-q", "-p", "tests.without_tensorflow", *CORE]
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        # Most of the time is spent on compiling code that runs once.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }
    process = subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1790
    )
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-1000:]
    passed = re.search(r"(\d+) passed", process.stdout)
    assert passed, process.stdout[-1000:]
    assert int(passed[1]) > 250, process.stdout[-1000:]
