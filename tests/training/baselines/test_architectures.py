"""A run's model is built from its settings: the same model that Keras reads from the file."""

import dataclasses
import json
import re

import keras
import numpy as np
import pytest
import yaml

from keras_transformer.architectures import architecture_named
from keras_transformer.finished_run import read_model
from keras_transformer.reading.variables import variables_by_path
from training.runs.architectures import build_model, num_parameters
from training.runs.compiled_model import number_formats
from training.runs.final_weights import save_model
from training.runs.folder import RunFolder
from training.settings import MODELS, TrainingSettings

SMALL = {"num_layers": 3, "model_dim": 12, "vocabulary_size": 30}
TRANSFORMER = {**SMALL, "feed_forward_dim": 17, "num_heads": 3, "max_source_tokens": 20}
LEARNED = {"position_encoding": "learned", "max_positions": 90, "max_length": 40}
SETTINGS = {
    "transformer": TRANSFORMER,
    "pre-norm": {**TRANSFORMER, "normalize_first": True, "dtype_policy": "mixed_bfloat16"},
    "learned": {**TRANSFORMER, **LEARNED, "head_dim": 5, "value_dim": 3, "activation": "gelu"},
    "gru": {**SMALL, "model": "gru", "recurrent_dim": 8},
    "lstm": {**SMALL, "model": "lstm", "num_layers": 1},
    "gru_attention": {**SMALL, "model": "gru_attention", "recurrent_dim": 8},
    "lstm_attention": {**SMALL, "model": "lstm_attention", "dtype_policy": "mixed_float16"},
    "convolution": {**SMALL, "model": "convolution", "kernel_size": 5},
    "learned convolution": {**SMALL, **LEARNED, "model": "convolution", "max_source_tokens": 20},
}


def model_of(settings):
    with number_formats(settings.dtype_policy):
        return build_model(settings)


def as_text(model):
    """A model's configuration, without the numbers that Keras counts up in a process."""
    text = json.dumps(keras.saving.serialize_keras_object(model), sort_keys=True)
    text = re.sub(r'"shared_object_id": \d+', "", text)
    return re.sub(r'"(not_equal|add|multiply|expand_dims|[a-z_]+)_\d+"', r'"\1"', text)


def test_every_model_that_a_setting_may_name_is_known():
    assert all(architecture_named(name) for name in MODELS)
    assert {values.get("model", "transformer") for values in SETTINGS.values()} == {*MODELS}


def paths_of(model):
    return [re.sub(r"dense(_\d+)?", "dense", weight.path) for weight in model.weights]


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_run_is_read_as_keras_reads_its_file(kind, tmp_path):
    settings = TrainingSettings(**SETTINGS[kind])
    model, run = model_of(settings), RunFolder(tmp_path)
    assert model.count_params() == num_parameters(settings)
    generator = np.random.default_rng(3)
    model.set_weights([generator.normal(size=weight.shape) for weight in model.get_weights()])
    save_model(run, model)
    run.config_path.write_text(yaml.safe_dump(dataclasses.asdict(settings)))
    ours, theirs = read_model(run.model_path), keras.saving.load_model(run.model_path)
    for name in ("name", "dtype_policy", "compiled", "built", "trainable"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert type(ours) is type(theirs)
    assert as_text(ours) == as_text(theirs)
    assert paths_of(ours) == paths_of(theirs)
    for found, expected in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_keras_saves_weights_under_the_paths_that_it_names(tmp_path):
    from keras_transformer.reading.archive import members_of, read_member
    from keras_transformer.reading.hdf5 import read_hdf5

    model = model_of(TrainingSettings(**SETTINGS["pre-norm"]))
    model.save(tmp_path / "model.keras")
    with open(tmp_path / "model.keras", "rb") as file:
        arrays = read_hdf5(read_member(file, members_of(file)["model.weights.h5"]))
    variables = variables_by_path(model)
    assert arrays.keys() == variables.keys()
    for path, variable in variables.items():
        np.testing.assert_array_equal(arrays[path], keras.ops.convert_to_numpy(variable))
