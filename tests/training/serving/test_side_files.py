"""Nothing beside the SavedModel of an export is trusted: side files are bounded, or not read."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import tensorflow as tf

from keras_transformer.checksums import check_export
from keras_transformer.errors import InputError
from keras_transformer.export import saved_model
from keras_transformer.export.prediction_log import WARMUP_FILE, prediction_log_class
from tests.mutated_bytes import KINDS, TRIALS, mutants
from training.runs.exported_translator import ExportedTranslator
from training.serving.saved_model import (
    MOST_WARMUP_BYTES,
    MOST_WARMUP_REQUESTS,
    exported_requests,
    load_version,
)

OPENED = []


def note_opened(event, arguments):
    if event == "open":
        OPENED.append(str(arguments[0]))


def tensor(*sizes, dtype=tf.string, **values):
    """Returns a serialized TensorProto of any shape and values, which need not fit."""
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    made = TensorProto(dtype=tf.as_dtype(dtype).as_datatype_enum, **values)
    for size in sizes:
        made.tensor_shape.dim.add(size=size)
    return made.SerializeToString()


def record(tensor):
    """Returns a record of a TFRecord file; its checksums are not right."""
    log = prediction_log_class()()
    log.predict_log.request.inputs.add(key="text", value=tensor)
    content = log.SerializeToString()
    return framed(len(content), content)


def framed(size, content):
    return size.to_bytes(8, "little") + b"sums" + content + b"sums"


def requests_in(folder, content):
    file = folder / WARMUP_FILE
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return list(exported_requests(folder))


def test_requests_are_read(tmp_path):
    text = record(tensor(2, string_val=[b"a", b"b"]))
    number = record(tensor(2, dtype=tf.int32, tensor_content=b"\1\0\0\0\2\0\0\0"))
    found = [inputs["text"].tolist() for _, inputs in requests_in(tmp_path, text + number)]
    assert found == [[b"a", b"b"], [1, 2]]


@pytest.mark.parametrize(
    "damaged",
    [
        tensor(2**62, string_val=[b"a"]),
        tensor(2**31, 2**31, 2**31, dtype=tf.float32, float_val=[1.0]),
        tensor(-1, string_val=[b"a"]),
        tensor(3, dtype=tf.int32, tensor_content=b"\1\0"),
        tensor(1, dtype=tf.resource),
        b"\xff",
    ],
)
def test_a_tensor_that_claims_more_than_it_holds_is_refused(tmp_path, damaged):
    with pytest.raises(ValueError, match="must hold PredictionLog messages. Received: a damaged"):
        requests_in(tmp_path, record(damaged))


@pytest.mark.parametrize(
    "content",
    [
        framed(2**62, b""),
        framed(2**64 - 1, b""),
        framed(1, b""),
        b"\1",
        framed(0, b"") * (MOST_WARMUP_REQUESTS + 1),
        b"\0" * (MOST_WARMUP_BYTES + 1),
    ],
)
def test_a_file_that_claims_more_than_it_holds_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"must hold at most 1,000 whole requests .* Received"):
        requests_in(tmp_path, content)


@pytest.mark.parametrize("link", [WARMUP_FILE, Path(WARMUP_FILE).parent])
def test_a_link_out_of_the_version_is_refused(tmp_path, link):
    outside, version = tmp_path / "outside", tmp_path / "1"
    outside.mkdir()
    assert requests_in(outside, record(tensor(1, string_val=[b"a"])))
    (version / link).parent.mkdir(parents=True)
    (version / link).symlink_to(outside / link)
    with pytest.raises(InputError, match=f"{WARMUP_FILE}: the folder must hold all its files"):
        list(exported_requests(version))


def read_requests(version):
    found = list(exported_requests(version))
    values = sum(array.size for _, inputs in found for array in inputs.values())
    assert values <= (version / WARMUP_FILE).stat().st_size


READERS = {
    WARMUP_FILE: read_requests,
    "checksums.json": check_export,
    "versions.json": saved_model._highest_version,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_refused_or_read(exported, tmp_path, name, kind):
    folder = Path(shutil.copytree(exported, tmp_path / "1"))
    (folder / "versions.json").write_text(json.dumps({"highest_version": 12}))
    content, outcomes = (folder / name).read_bytes(), Counter()
    for mutant in mutants(content, kind):
        (folder / name).write_bytes(mutant)
        try:
            READERS[name](folder)
            outcomes["read"] += 1
        except ValueError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    print(f"{name} {kind}: {dict(outcomes)}")
    assert outcomes["refused"] > TRIALS // 3


@pytest.mark.slow
def test_no_description_is_read(exported, tmp_path, caplog):
    version = shutil.copytree(exported, tmp_path / "1")
    (version / "checksums.json").unlink()
    for name in ("model.json", "README.md"):
        (version / name).write_text("[" * 9999)
    sys.addaudithook(note_opened)
    OPENED.clear()
    load_version(version, 1)
    ExportedTranslator(version)
    opened = {path for path in OPENED if path.startswith(str(version))}
    assert str(version / WARMUP_FILE) in opened
    assert not opened & {str(version / name) for name in ("model.json", "README.md")}
    [first, second] = [record.getMessage() for record in caplog.records]
    assert first == second
    assert first.startswith(f"{version}: has no checksums.json")
