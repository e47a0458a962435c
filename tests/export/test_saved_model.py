import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from keras_transformer.decoding.precision import Int8Product
from keras_transformer.errors import InputError
from keras_transformer.export import saved_model
from keras_transformer.export.saved_model import export_saved_model
from keras_transformer.translator import Translator
from tests.random_models import TEXTS


@pytest.mark.slow
def test_an_export_in_8_bits_answers_like_the_live_translator_in_8_bits(
    wide_model, tokenizer, tmp_path
):
    import tensorflow as tf

    translator = Translator(wide_model, tokenizer, beam_size=2, precision="int8")
    version = export_saved_model(translator, tmp_path, verify_texts=TEXTS)
    kernels = [k for k in (w.shape for w in wide_model.weights) if np.prod(k) >= 2**16]
    served = [tuple(weight.shape) for weight in tf.saved_model.load(version).weights]
    assert kernels
    assert not set(kernels) & set(served)  # weights stored in 8 bits are not stored in 32 bits too
    # The five signatures share these constants: the graph has each of them once.
    in_graph = (tmp_path / "1" / "saved_model.pb").read_bytes()
    kernels = [
        product.kernel
        for layer in translator.fast_model._flatten_layers()
        for product in vars(layer).values()
        if isinstance(product, Int8Product)
    ]
    assert len(kernels) == 4  # two per feed-forward network
    assert [in_graph.count(kernel.tobytes()) for kernel in kernels] == [1] * 4


def test_the_import_of_earlier_versions_still_works():
    import keras_transformer.export

    assert keras_transformer.export.export_saved_model is export_saved_model


# Folders. These tests write small files instead of a model, since saving takes seconds.


def write_at_once(translator, folder, *_):
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_text("whole")
    (folder / "variables" / "variables.index").write_text("whole")


@pytest.fixture
def saves_at_once(monkeypatch):
    monkeypatch.setattr(saved_model, "_write", write_at_once)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.mark.usefixtures("saves_at_once")
def test_versions_are_counted_from_1(translator, tmp_path):
    folder = tmp_path / "not" / "there" / "yet"
    assert export_saved_model(translator, folder) == str(folder / "1")
    assert export_saved_model(translator, str(folder)) == str(folder / "2")
    assert names_in(folder) == ["1", "2"]


@pytest.mark.usefixtures("saves_at_once")
def test_the_number_of_a_deleted_version_is_not_reused(translator, tmp_path):
    for _ in range(2):
        newest = export_saved_model(translator, tmp_path)
    shutil.rmtree(tmp_path / "2")
    assert newest == str(tmp_path / "2")
    assert export_saved_model(translator, tmp_path) == str(tmp_path / "3")
    assert names_in(tmp_path) == ["1", "3"]


@pytest.mark.usefixtures("saves_at_once")
def test_a_new_version_follows_the_highest_existing_number(translator, tmp_path):
    for name in ("9", "10", "notes"):
        (tmp_path / name).mkdir()
    assert export_saved_model(translator, tmp_path) == str(tmp_path / "11")


@pytest.mark.usefixtures("saves_at_once")
def test_the_remains_of_a_killed_export_are_removed(translator, tmp_path):
    unfinished = tmp_path / ".unfinished"
    unfinished.mkdir()
    (unfinished / "half").write_text("half")
    version = export_saved_model(translator, tmp_path)
    assert names_in(tmp_path) == ["1"]
    assert not (tmp_path / "1" / "half").exists()
    assert version == str(tmp_path / "1")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_export_that_fails_leaves_no_version(translator, tmp_path, monkeypatch, error):
    def write(*arguments):
        write_at_once(*arguments)
        assert names_in(tmp_path) == [".unfinished"]
        raise error("in the middle")

    monkeypatch.setattr(saved_model, "_write", write)
    with pytest.raises(error, match="in the middle"):
        export_saved_model(translator, tmp_path)
    assert names_in(tmp_path) == []


def test_a_second_writer_is_refused(translator, tmp_path, monkeypatch):
    def write(*arguments):
        with pytest.raises(InputError, match=r"only one export .* Received: another.* Wait for"):
            export_saved_model(translator, tmp_path)
        write_at_once(*arguments)

    monkeypatch.setattr(saved_model, "_write", write)
    assert export_saved_model(translator, tmp_path) == str(tmp_path / "1")


def test_a_directory_that_is_a_file_is_refused(translator, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: must be a writable folder\. .*\. Choose another"):
        export_saved_model(translator, tmp_path / "file")


NUMBERS = "many", 1e999, -1, 2**63, True


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "[" * 9999, "\xff", *(json.dumps({"highest_version": x}) for x in NUMBERS)],
)
def test_a_damaged_record_is_refused(translator, tmp_path, content):
    (tmp_path / "versions.json").write_text(content, encoding="latin-1")
    message = r"versions\.json: must hold the highest version\. Received: .* Write"
    with pytest.raises(InputError, match=message):
        export_saved_model(translator, tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", [".lock", ".unfinished", "versions.json.unfinished"])
def test_nothing_is_written_through_a_link_out_of_the_directory(translator, tmp_path, name):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / name).symlink_to(tmp_path / "outside")
    message = rf"{name}: the folder must hold all its files\. Received: a link that leaves"
    with pytest.raises(InputError, match=message):
        export_saved_model(translator, tmp_path / "saved")
    assert not (tmp_path / "outside").exists()


@pytest.mark.usefixtures("saves_at_once")
def test_an_export_with_different_answers_does_not_become_a_version(
    translator, tmp_path, monkeypatch
):
    verified = []

    def refuse(path, live, texts):
        verified.append((path.name, (path / "saved_model.pb").read_text(), live, texts))
        raise InputError("answers otherwise")

    monkeypatch.setattr(saved_model, "verify_saved_model", refuse)
    with pytest.raises(InputError, match="answers otherwise"):
        export_saved_model(translator, tmp_path, verify_texts=["snow"])
    assert verified == [(".unfinished", "whole", translator, ["snow"])]
    assert names_in(tmp_path) == []


@pytest.mark.usefixtures("saves_at_once")
def test_a_version_is_flushed_to_disk_before_it_gets_its_name(translator, tmp_path, monkeypatch):
    flushed, rename = set(), Path.rename

    def fsync(descriptor):
        flushed.add(os.fstat(descriptor).st_ino)

    def rename_what_is_flushed(path, target):
        if path.name == ".unfinished":
            inside = [path, *path.rglob("*"), tmp_path / "versions.json"]
            assert len(inside) == 5
            assert all(entry.stat().st_ino in flushed for entry in inside)
            assert tmp_path.stat().st_ino not in flushed
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename_what_is_flushed)
    export_saved_model(translator, tmp_path)
    assert names_in(tmp_path) == ["1"]
    assert tmp_path.stat().st_ino in flushed
