"""The settings that may be tuned, and how Keras Tuner's values become settings."""

import json
import typing
from pathlib import Path

import keras_tuner
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.command_line.errors import InputError
from training.settings import FIELDS, TYPES, make_settings, read_settings_file
from training.tuning.space import NOT_TUNED, Choices, Range, Space

CONFIGS = Path(__file__).parents[3] / "training" / "configs"


def read(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return Space.read(path)


def drawn(space, seed):
    """Returns a trial's values as an oracle draws them."""
    hp = keras_tuner.HyperParameters()
    space.declare(hp, make_settings({}))
    return {one.name: one.random_sample(seed + place) for place, one in enumerate(hp.space)}


def test_a_space_is_read_with_the_types_of_its_settings(tmp_path):
    text = (
        "num_layers: [2, 3]\n"
        "dropout: [0, 0.1]\n"
        "normalize_first: [true, false]\n"
        "ema_decay: [null, 0.999]\n"
        "activation: [relu, gelu]\n"
        "peak_learning_rate: {min: 1e-4, max: 0.01, log: true}\n"
        "warmup_steps: {min: 100, max: 400}\n"
    )
    dimensions = read(tmp_path, text).dimensions
    assert dimensions == {
        "num_layers": Choices((2, 3)),
        "dropout": Choices((0.0, 0.1)),
        "normalize_first": Choices((True, False)),
        "ema_decay": Choices((None, 0.999)),
        "activation": Choices(("relu", "gelu")),
        "peak_learning_rate": Range(0.0001, 0.01, True),
        "warmup_steps": Range(100, 400),
    }
    assert isinstance(dimensions["dropout"].values[0], float)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("dropout: {min: 0.1, max: 0.3, step: 0.1}", (0.1, 0.2, 0.3)),
        ("dropout: {min: 0.1, max: 0.35, step: 0.1}", (0.1, 0.2, 0.3)),
        ("model_dim: {min: 64, max: 256, step: 96}", (64, 160, 256)),
        ("batch_tokens: {min: 1000, max: 8000, step: 2, log: true}", (1000, 2000, 4000, 8000)),
        ("peak_learning_rate: {min: 0.001, max: 0.1, step: 10, log: true}", (0.001, 0.01, 0.1)),
    ],
)
def test_steps_reach_the_end_of_a_range(tmp_path, text, values):
    [dimension] = read(tmp_path, text).dimensions.values()
    assert dimension == Choices(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dropout: [0, 0.1]\nnum_layer: [1, 2]\n", r"space.yaml:2: every key of a space must be a "
         r"setting. Received: num_layer. Did you mean num_layers\?"),
        ("epochs: [1, 2]\n", r":1: epochs must not be tuned, because all trials must share it"),
        ("beam_size: [1, 2]\n", r"beam_size must not be tuned, because it does not affect"),
        ("train_source: [a, b]\n", "train_source must not be tuned"),
        ("monitor: [val_bleu, val_perplexity]\n", "because --objective decides it"),
        ("dropout: 0.1\n", r":1: the values of dropout must be given as \[VALUE, VALUE\] or {min:"),
        ("activation: {min: 1, max: 2}\n", r"must be given as \[VALUE, VALUE\]. Received: {'min'"),
        ("dropout: [0.1]\n", r"dropout must have at least two values, .* Received: \[0.1\]"),
        ("dropout: []\n", "dropout must have at least two values"),
        ("dropout: [0, 0.1, 0.0]\n", "at least two values, all different"),
        ("dropout: [0.1, 1.0]\n", r"space.yaml:1: dropout must be below 1. Received: dropout=1.0"),
        ("num_layers: [2, 2.5]\n", "num_layers must be a whole number. Received: num_layers=2.5"),
        ("activation: [relu, tanh]\n", "activation must be one of relu, gelu, silu"),
        ("dropout: {min: 0.1}\n", "the range of dropout must have min and max"),
        ("dropout: {min: 0.1, max: 0.2, stop: 1}\n", "the range of dropout must have min and max"),
        ("dropout: {min: 0.1, max: 0.2, log: 3}\n", r"log \(true or false\)"),
        ("dropout: {min: 0.2, max: 0.1}\n", "min of dropout must be below max. Received: min=0.2"),
        ("dropout: {min: 0.1, max: 0.1}\n", "min of dropout must be below max"),
        ("head_dim: {min: null, max: 4}\n", "min of head_dim must be below max"),
        ("dropout: {min: 0.1, max: 1.0}\n", "dropout must be below 1"),
        ("dropout: {min: 0, max: 0.1, log: true}\n", "min of dropout must be above 0 if log"),
        ("num_layers: {min: 1, max: 4, step: 0.5}\n", "step of num_layers must be a whole number"),
        ("dropout: {min: 0.1, max: 0.4, step: 0}\n", "step of dropout must be a number above 0"),
        ("dropout: {min: 0.1, max: 0.4, step: .nan}\n", "step of dropout must be a number above 0"),
        ("dropout: {min: 0.1, max: 0.4, step: true}\n", "step of dropout must be a number above 0"),
        ("num_layers: {min: 1, max: 8, step: 1, log: true}\n", "a whole number above 1"),
        ("dropout: {min: 0.1, max: 0.4, step: 1e-9}\n", "step of dropout must be a number|at most"),
        ("dropout: {min: 0.1, max: 0.15, step: 0.1}\n", "must have at least two values"),
        ("{}\n", "A space must have at least one setting"),
        ("- dropout\n", "must hold `name: value` lines"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_named_with_its_file_and_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "num_layers": st.lists(st.integers(1, 99), min_size=2, unique=True),
        "ema_decay": st.just([None, 0.9]),
        "normalize_first": st.just([True, False]),
        "activation": st.just(["gelu", "relu"]),
        "dropout": st.lists(st.floats(0, 0.99), min_size=2, unique=True),
        "warmup_steps": st.just({"min": 3, "max": 17, "log": True}),
        "peak_learning_rate": st.floats(1e-6, 1).map(lambda low: {"min": low, "max": 2 * low}),
    },
).filter(bool)


@settings(max_examples=30, deadline=None)
@given(CONTENTS, st.integers(0, 1000))
def test_values_sent_through_a_worker_give_the_same_settings(content, seed):
    space = Space.of(content)
    values = space.rounded(drawn(space, seed))
    hp = keras_tuner.HyperParameters()
    space.declare(hp, make_settings({}))
    hp.values = dict(values)
    there = keras_tuner.HyperParameters.from_proto(hp.to_proto())
    assert space.settings(there.values) == space.settings(values)


@settings(max_examples=30, deadline=None)
@given(CONTENTS, st.integers(0, 1000))
def test_settings_lie_in_the_space_and_are_valid(content, seed):
    space = Space.of(content)
    chosen = space.settings(drawn(space, seed))
    for name, value in chosen.items():
        if isinstance(content[name], list):
            assert value in content[name]
        else:
            assert content[name]["min"] <= value <= content[name]["max"]
    make_settings(chosen)


@settings(max_examples=10, deadline=None)
@given(CONTENTS)
def test_a_space_can_be_written_and_read(content):
    space = Space.of(content)
    again = Space.of(json.loads(json.dumps(space.content())))
    assert again.dimensions == space.dimensions


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("default_space", "multi30k_tiny"),
        ("multi30k_space", "multi30k_tiny"),
        ("multi30k_recurrent_space", "multi30k_gru_attention"),
        ("multi30k_recurrent_space", "multi30k_gru"),
        ("multi30k_convolution_space", "multi30k_convolution"),
    ],
)
def test_the_projects_search_spaces_contain_their_start_configs(name, config):
    start = make_settings(read_settings_file(CONFIGS / f"{config}.yaml"))
    space = Space.read(CONFIGS / f"{name}.yaml")
    values = space.start(start)
    assert space.settings(values) == {key: getattr(start, key) for key in space.dimensions}


def test_a_start_outside_of_the_space_has_no_values():
    space = Space.of({"dropout": [0.2, 0.3]})
    assert space.start(make_settings({"dropout": 0.1})) is None


def test_every_setting_is_tuned_or_refused():
    for name in NOT_TUNED:
        with pytest.raises(InputError, match=f"{name} must not be tuned"):
            Space.of({name: [1, 2]})
    for name in FIELDS.keys() - NOT_TUNED.keys():  # the forms that Keras Tuner has
        kinds = {TYPES[name], *typing.get_args(TYPES[name])}
        assert kinds & {int, float, bool} or typing.get_origin(TYPES[name]) is typing.Literal
