"""An export that is killed, at any moment, leaves a folder that a server may watch."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# It says where it is, so that some are killed where little time is spent: about the rename. Tracing
# all signatures would take most of the time, and writes nothing: one does.
EXPORTS = """
import sys
import tensorflow as tf
import keras_transformer.export as export
from keras_transformer.signatures import _translates
from keras_transformer.tokenizer import SubwordTokenizer
from keras_transformer.translator import Translator
from tests.random_models import TEXTS, random_transformer, small_config

tokenizer = SubwordTokenizer.train_from_lines(TEXTS, vocabulary_size=300)
config = small_config(vocabulary_size=300, num_layers=1)
translator = Translator(random_transformer(config), tokenizer, max_source_tokens=20)

def greedy_alone(translator):
    text = [tf.TensorSpec([None], tf.string, name="text")]
    greedy = tf.function(_translates(translator, 1), input_signature=text, autograph=False)
    return {"greedy": greedy.get_concrete_function()}

export.served_functions = greedy_alone
card, flush = export.write_model_card, export._flush
export.write_model_card = lambda *a: (print("writes", flush=True), card(*a))
export._flush = lambda folder: (flush(folder), print("renames", flush=True))
print("begins", flush=True)
export.export_saved_model(translator, sys.argv[1])
print("ends", flush=True)
"""

# What a server does: it loads whatever has a number as soon as it sees it.
WATCHES = """
import sys, time
from pathlib import Path
import tensorflow as tf
import tensorflow_text

folder, seen = Path(sys.argv[1]), []
print("watches", flush=True)
while not (folder / "stop").exists():
    for path in folder.iterdir():
        if path.name.isdecimal() and path.name not in seen:
            found = tf.saved_model.load(str(path)).signatures["greedy"](text=tf.constant(["snow"]))
            assert found["translation"].shape == (1,)
            assert (path / "model.json").read_text().endswith("}\\n")
            assert (path / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 100
            seen.append(path.name)
    time.sleep(0.01)
print(*seen)
"""


def started(program, folder):
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    read_until(process, "begins" if program is EXPORTS else "watches")
    return process


def read_until(process, word):
    for line in process.stdout:
        if line.strip() == word:
            return
    raise RuntimeError(f"the process ended before it said {word!r}")


def versions_in(folder):
    return {path.name for path in folder.iterdir() if path.name.isdecimal()}


@pytest.mark.slow
def test_killing_an_export_leaves_the_old_versions_or_a_whole_new_one(tmp_path):
    export = started(EXPORTS, tmp_path)
    start = time.monotonic()
    read_until(export, "ends")
    seconds = time.monotonic() - start
    export.wait()
    assert versions_in(tmp_path) == {"1"}

    watcher = started(WATCHES, tmp_path)
    chance = random.Random(5)
    moments = [("begins", chance.uniform(0, 1.1 * seconds)) for _ in range(10)]
    moments += [("writes", chance.uniform(0, 0.01)) for _ in range(3)]
    moments += [("renames", chance.uniform(0, 0.002)) for _ in range(7)]
    chance.shuffle(moments)
    num_left_half, versions = 0, {"1"}
    for marker, delay in moments:
        export = started(EXPORTS, tmp_path)
        if marker != "begins":
            read_until(export, marker)
        time.sleep(delay)
        export.kill()
        export.wait()
        export.stdout.close()
        new = versions_in(tmp_path) - versions
        assert versions <= versions_in(tmp_path)
        assert len(new) <= 1
        highest = json.loads((tmp_path / "versions.json").read_text())["highest_version"]
        assert all(highest >= int(version) > max(map(int, versions)) for version in new)
        versions |= new
        num_left_half += (tmp_path / ".unfinished").exists()
        assert watcher.poll() is None  # it would have ended at the first that does not load
        # Nothing else that a server could take for a version.
        others = {path.name for path in tmp_path.iterdir()} - versions
        assert others <= {".lock", ".unfinished", "versions.json", "versions.json.unfinished"}
    assert num_left_half >= 5  # else it was not killed at work
    export = started(EXPORTS, tmp_path)
    read_until(export, "ends")
    assert not (tmp_path / ".unfinished").exists()
    (tmp_path / "stop").touch()
    seen, _ = watcher.communicate(timeout=100)
    assert watcher.returncode == 0
    assert set(seen.split()) <= versions_in(tmp_path)
    assert len(versions_in(tmp_path)) == len(versions) + 1
    assert len(seen.split()) >= len(versions)  # the last may have come too late for it
