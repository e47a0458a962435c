"""Attacks on those who load a model, as published for Keras: each is refused by name.

The files are earlier_files/finished_run with one thing changed.
"""

import base64
import io
import itertools
import json
import os
import shutil
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from keras_transformer.errors import InputError
from keras_transformer.translator import Translator
from training.command_line.errors import InputError as CommandError
from training.runs.checkpoints import Checkpoint
from training.runs.compiled_model import compiled_model
from training.runs.folder import Position, RunFolder
from training.runs.translator import load_translator

RUN = Path(__file__).parent / "earlier_files" / "finished_run"
WEIGHTS, CONFIG = "model.weights.h5", "config.json"
A_WEIGHT = "layers/positional_embedding/vars/0"


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path, items, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in items:
            archive.writestr(name, content)


def with_class(entry):
    """Puts an object into the configuration, as a layer of the model."""

    def change(path):
        parts = members(path)
        config = json.loads(parts[CONFIG])
        config["config"]["layers"].insert(2, entry)
        write_members(path, {**parts, CONFIG: json.dumps(config)}.items())

    return change


def with_weights(change_file):
    """Changes the HDF5 file of the weights."""

    def change(path):
        parts = members(path)
        file = io.BytesIO(parts[WEIGHTS])
        with h5py.File(file, "r+") as root:
            change_file(root)
        write_members(path, {**parts, WEIGHTS: file.getvalue()}.items())

    return change


def virtual(root):
    layout = h5py.VirtualLayout((300, 32), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (300, 32))
    del root[A_WEIGHT]
    root.create_virtual_dataset(A_WEIGHT, layout)


def external(root):
    del root[A_WEIGHT]
    root.create_dataset(A_WEIGHT, (300, 32), "f4", external=[("/etc/passwd", 0, 38_400)])


def linked(link):
    def change(root):
        del root[A_WEIGHT]
        root[A_WEIGHT] = link

    return change


def diverged(root):
    root[A_WEIGHT][7, 3] = np.nan


def infinite(root):
    root[A_WEIGHT][7, 3] = np.inf


def wide(root):
    del root[A_WEIGHT]
    root[A_WEIGHT] = np.zeros((32, 300), "f4")


def whole_numbers(root):
    del root[A_WEIGHT]
    root[A_WEIGHT] = np.zeros((300, 32), "i4")


def huge_shape(path):
    parts = members(path)
    shape, huge = struct.pack("<2Q", 300, 32), struct.pack("<2Q", 2**62, 1)
    assert shape in parts[WEIGHTS]
    parts[WEIGHTS] = parts[WEIGHTS].replace(shape, huge)
    write_members(path, parts.items())


def added(name, content=b"x"):
    return lambda path: write_members(path, [*members(path).items(), (name, content)])


def repeated(path):
    parts = members(path)
    with pytest.warns(UserWarning, match="Duplicate"):
        write_members(path, [*parts.items(), (WEIGHTS, parts[WEIGHTS])])


def compressed(path):
    parts = {**members(path), CONFIG: b" " * 10**7}
    write_members(path, parts.items(), zipfile.ZIP_DEFLATED)


LAMBDA = {
    "module": "keras.layers",
    "class_name": "Lambda",
    "config": {
        "function": {
            "class_name": "__lambda__",
            "config": {"code": base64.b64encode(b"code").decode()},
        }
    },
}
ATTACKS = {
    # A class or a function by its path
    r"the class 'os\.system'": with_class({"module": "os", "class_name": "system", "config": "id"}),
    r"the class 'keras\.src\.utils\.get_file'": with_class(
        {"module": "keras.src.utils", "class_name": "get_file", "config": {"origin": "http://a"}}
    ),
    # Code in the configuration
    r"the class '(keras\.layers\.Lambda|__lambda__)'": with_class(LAMBDA),
    # A layer that unpickles
    r"the class 'keras\.layers\.TorchModuleWrapper'": with_class(
        {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"module": "gA=="}}
    ),
    # A layer that loads another program
    r"the class 'keras\.layers\.TFSMLayer'": with_class(
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "//host/x"}}
    ),
    # Data from other files
    "a dataset whose layout is virtual": with_weights(virtual),
    "a dataset whose data is in another file": with_weights(external),
    "which Keras does not write": with_weights(linked(h5py.ExternalLink("/etc/passwd", "x"))),
    "a link to another name": with_weights(linked(h5py.SoftLink("/layers"))),
    # A shape that takes all memory
    r"an array of shape \(4611686018427387904, 1\)": huge_shape,
    # Members that leave the folder
    r"a member named '\.\./\.\./evil\.sh'": added("../../evil.sh"),
    "a member named '/tmp/evil'": added("/tmp/evil"),
    "an archive of": added("evil.py"),
    "two members of the name 'model.weights.h5'": repeated,
    "which is compressed or encrypted": compressed,
    # Numbers that poison what uses them
    "not finite numbers, in layers/positional_embedding/vars/0": with_weights(diverged),
    "not finite numbers, in layers": with_weights(infinite),
    r"of shape \(32, 300\) and dtype float32, where": with_weights(wide),
    "and dtype int32, where": with_weights(whole_numbers),
}


@pytest.mark.parametrize("words", ATTACKS)
def test_an_attack_on_the_model_is_refused_by_name(words, run):
    ATTACKS[words](run / "model.keras")
    with pytest.raises(InputError, match=rf"model\.keras: must be the model .*{words}") as caught:
        Translator.load(run)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_runs_are_read_without_the_loaders_of_other_libraries(run, monkeypatch):
    """Those of Keras follow class paths, those of HDF5 links, and those of NumPy unpickle."""
    folder = RunFolder(run)
    settings = folder.read_record().settings
    model = compiled_model(settings, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    for name in (
        "keras.saving.load_model",
        "keras.models.load_model",
        "keras.saving.deserialize_keras_object",
        "keras.Model.load_weights",
        "h5py.File",
        "numpy.load",
        "pickle.loads",
    ):
        monkeypatch.setattr(name, None)
    assert Translator.load(run)
    assert load_translator(str(run), epoch=60)
    assert Checkpoint.read(folder, model, Position(60, 0))


def changed(setting, value):
    def change(run):
        path = run / "config.yaml"
        lines = path.read_text().splitlines()
        assert sum(line.startswith(f"{setting}:") for line in lines) == 1
        lines = [
            f"{setting}: {value}" if line.startswith(f"{setting}:") else line for line in lines
        ]
        path.write_text("\n".join(lines))

    return change


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 8)}]\n"
    for old, new in itertools.pairwise("abcdefghij")
)


def bomb(run):
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + BOMB)


def link(name):
    def change(run):
        outside = run.parent / name
        shutil.move(run / name, outside)
        (run / name).symlink_to(outside)

    return change


def pipe(name):
    def change(run):
        (run / name).unlink()
        os.mkfifo(run / name)

    return change


SETTINGS = {
    "num_layers": (changed("num_layers", 10**9), "num_layers='1000000000'"),
    "more layers": (changed("num_layers", 1000), "where config.yaml describes 19,305,728"),
    "feed_forward_dim": (changed("feed_forward_dim", 10**9), "where config.yaml describes"),
    "vocabulary_size": (changed("vocabulary_size", 2**40), "vocabulary_size="),
    "beam_size": (changed("beam_size", 10**9), "beam_size"),
    "a number in base 60": (changed("seed", "1:" * 50_000 + "1"), "more than 100 digits"),
    "dropout": (changed("dropout", ".nan"), "dropout"),
    "model": (changed("model", "os.system"), "model"),
    "dtype_policy": (changed("dtype_policy", "int8_from_float32"), "dtype_policy"),
    "alias bomb": (bomb, "alias|values, with references written out"),
    "config.yaml": (link("config.yaml"), "a link that leaves"),
    "model.keras": (link("model.keras"), "a link that leaves"),
    "pipe": (pipe("config.yaml"), "a pipe"),
    "a model that is a pipe": (pipe("model.keras"), "a pipe"),
}


@pytest.mark.parametrize("load", [Translator.load, load_translator])
@pytest.mark.parametrize("attack", SETTINGS)
def test_an_attack_on_the_settings_is_refused_by_name(attack, load, run):
    change, words = SETTINGS[attack]
    change(run)
    with pytest.raises((InputError, CommandError), match=words) as caught:
        load(str(run))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_a_giant_model_is_refused_for_a_checkpoint_too(run):
    changed("feed_forward_dim", 10**9)(run)
    with pytest.raises(CommandError, match=r"is from a different model, of [\d,]+ parameters"):
        load_translator(str(run), epoch=60)


def test_many_small_layers_of_one_large_array_are_refused_before_they_are_built(run):
    """As many numbers as 900 tiny layers have, in one array."""
    sizes = {"num_layers": 900, "model_dim": 2, "feed_forward_dim": 1, "num_heads": 1}
    for name, value in sizes.items():
        changed(name, value)(run)

    def one_array(root):
        del root["layers"]
        root["layers/positional_embedding/vars/0"] = np.zeros(96_008, "f4")

    with_weights(one_array)(run / "model.keras")
    with pytest.raises(InputError, match="1 layers where config.yaml describes 1800 or more"):
        Translator.load(run)


def test_a_checkpoint_with_a_pickle_is_refused(run):
    path = run / "checkpoints" / "epoch_0060_batch_00000.weights.npz"
    np.savez(path, **{"weights.00000": np.array([print], dtype=object)})
    with pytest.raises(CommandError, match="a header that is not one of numbers or text"):
        load_translator(str(run), epoch=60)


@pytest.mark.parametrize("dtype", ["f16", "U3", "f8", "i4"])
def test_a_checkpoint_of_another_dtype_is_refused(dtype, run):
    path = run / "checkpoints" / "epoch_0060_batch_00000.weights.npz"
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, "weights.00003": arrays["weights.00003"].astype(dtype)})
    with pytest.raises(CommandError, match="from a different model"):
        load_translator(str(run), epoch=60)


def test_a_checkpoint_of_a_diverged_training_is_refused(run):
    path = run / "checkpoints" / "epoch_0060_batch_00000.weights.npz"
    arrays = dict(np.load(path))
    arrays["weights.00003"] = np.full_like(arrays["weights.00003"], np.nan)
    np.savez(path, **arrays)
    with pytest.raises(CommandError, match=r"weights that are not finite numbers.* Choose another"):
        load_translator(str(run), epoch=60)


@pytest.mark.parametrize("name", ["checkpoints", "logs", ".lock", "metrics.jsonl"])
def test_links_that_leave_a_run_are_refused(name, run, tmp_path):
    (tmp_path / "outside").mkdir()
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "outside")
    folder = RunFolder(run)
    for read in (folder.read_record, folder.check_ours, folder.check_finished):
        with pytest.raises(CommandError, match="a link that leaves the folder"):
            read()


def test_links_within_a_run_are_followed(run):
    (run / "model.keras").rename(run / "weights")
    (run / "model.keras").symlink_to("weights")
    assert Translator.load(run)
    assert RunFolder(run).read_record()
