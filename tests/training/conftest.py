"""A made-up text, and one small run that all tests of the commands read."""

import random

import pytest

from tests.training.small_run import SMALL
from training.command_line.running import run_command
from training.train import main as train_main

WORDS = "one two three four five six seven eight nine ten".split()


@pytest.fixture(scope="session")
def text_files(tmp_path_factory):
    """Files of number words, whose translation is the same words in reverse."""
    folder = tmp_path_factory.mktemp("text")
    generator = random.Random(3)
    for split, num_lines in (("train", 150), ("validation", 20)):
        lines = [generator.choices(WORDS, k=generator.randint(1, 5)) for _ in range(num_lines)]
        write_lines(folder / f"{split}.source", [" ".join(line) for line in lines])
        write_lines(folder / f"{split}.target", [" ".join(reversed(line)) for line in lines])
    return {
        f"{split}_{side}": str(folder / f"{split}.{side}")
        for split in ("train", "validation")
        for side in ("source", "target")
    }


@pytest.fixture(scope="session")
def train_arguments(text_files):
    """The command line of a training run that takes seconds, without --output."""
    return as_arguments({**text_files, **SMALL})


@pytest.fixture(scope="session")
def finished_run(train_arguments, tmp_path_factory):
    """A finished run, which tests read and copy but never change."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert run_command(train_main, [*train_arguments, "--output", str(run)]) == 0
    return run


@pytest.fixture
def small_model():
    """One weight of shape (2, 3), dropout's random state, and an optimizer with momenta."""
    import keras

    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(3, use_bias=False), keras.layers.Dropout(0.5)]
    )
    model.compile(optimizer=keras.optimizers.Adam(), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def as_arguments(settings):
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def write_lines(path, lines):
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))
