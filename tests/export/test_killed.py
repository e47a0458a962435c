"""An export killed at any moment leaves a folder that a server may watch."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# One signature is enough: tracing takes most of the time and writes nothing. With a number N, this
# kills itself before the N-th file operation after the graph was written, as audit events of Python
# count them: the same place on every machine, unlike a time.
EXPORTS = """
import json, os, signal, sys
import tensorflow as tf
from keras_transformer.export import saved_model, signatures
from keras_transformer.export.signatures import _translates
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from keras_transformer.translator import Translator
from tests.random_models import TEXTS, random_transformer, small_config

folder, fatal = sys.argv[1], int(sys.argv[2])
operations = None

tokenizer = SubwordTokenizer.train_from_lines(TEXTS, vocabulary_size=300)
config = small_config(vocabulary_size=300, num_layers=1)
translator = Translator(random_transformer(config), tokenizer, max_source_tokens=20)

def greedy_alone(translator):
    text = [tf.TensorSpec([None], tf.string, name="text")]
    greedy = tf.function(_translates(translator, 1), input_signature=text, autograph=False)
    return {"greedy": greedy.get_concrete_function()}

def count(*arguments):
    global operations
    operations = []
    card(*arguments)

def count_or_die(event, arguments):
    if operations is None or event not in {"open", "os.scandir", "os.rename"}:
        return
    path = str(arguments[0])
    if path.startswith(folder):
        operations.append(event + path.removeprefix(folder))
        if len(operations) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

signatures.served_functions = greedy_alone
card, saved_model.write_model_card = saved_model.write_model_card, count
sys.addaudithook(count_or_die)
print("begins", flush=True)
saved_model.export_saved_model(translator, folder)
print("ends", flush=True)
print(json.dumps(operations), flush=True)
"""

# Loads every new numbered folder at once, as a server does.
WATCHES = """
import sys, time
from pathlib import Path
import tensorflow as tf
import tensorflow_text
from keras_transformer.checksums import check_export

folder, seen = Path(sys.argv[1]), []
print("watches", flush=True)
while not (folder / "stop").exists():
    for path in folder.iterdir():
        if path.name.isdecimal() and path.name not in seen:
            found = tf.saved_model.load(str(path)).signatures["greedy"](text=tf.constant(["snow"]))
            assert found["translation"].shape == (1,)
            assert check_export(path)
            assert (path / "model.json").read_text().endswith("}\\n")
            assert (path / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 100
            seen.append(path.name)
    time.sleep(0.01)
print(*seen)
"""


def started(program, folder, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), *map(str, arguments)],
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


def exports_wholly(folder):
    """Returns an export's seconds, and its file operations after the graph is written."""
    export = started(EXPORTS, folder, 0)
    start = time.monotonic()
    read_until(export, "ends")
    seconds = time.monotonic() - start
    operations, _ = export.communicate()
    assert export.returncode == 0
    assert not (folder / ".unfinished").exists()
    return seconds, json.loads(operations)


def killed_after(seconds, folder):
    export = started(EXPORTS, folder, 0)
    time.sleep(seconds)
    export.kill()
    export.wait()
    export.stdout.close()


def killed_at(operation, folder):
    export = started(EXPORTS, folder, operation)
    said, _ = export.communicate()
    assert (said, export.returncode) == ("", -signal.SIGKILL)


@pytest.mark.slow
def test_killing_an_export_leaves_the_old_versions_or_a_complete_new_one(tmp_path):
    seconds, operations = exports_wholly(tmp_path)
    assert versions_in(tmp_path) == {"1"}
    appears = operations.index("os.rename/.unfinished") + 1
    assert 10 < appears < len(operations)

    watcher = started(WATCHES, tmp_path)
    chance = random.Random(5)
    kills = [(killed_after, chance.uniform(0, 1.1 * seconds)) for _ in range(8)]
    kills += [(killed_at, operation) for operation in chance.sample(range(1, appears - 4), 4)]
    kills += [(killed_at, operation) for operation in range(appears - 4, len(operations) + 1)]
    chance.shuffle(kills)
    versions = {"1"}
    for killed, moment in kills:
        killed(moment, tmp_path)
        new = versions_in(tmp_path) - versions
        assert versions <= versions_in(tmp_path)
        assert len(new) <= 1
        highest = json.loads((tmp_path / "versions.json").read_text())["highest_version"]
        assert all(highest >= int(version) > max(map(int, versions)) for version in new)
        if killed is killed_at:
            assert len(new) == (moment > appears)
            assert (tmp_path / ".unfinished").exists() == (moment <= appears)
        versions |= new
        assert watcher.poll() is None  # it would have ended at the first version that does not load
        # There is nothing else that a server could take for a version.
        others = {path.name for path in tmp_path.iterdir()} - versions
        assert others <= {".lock", ".unfinished", "versions.json", "versions.json.unfinished"}
    exports_wholly(tmp_path)
    (tmp_path / "stop").touch()
    seen, _ = watcher.communicate(timeout=100)
    assert watcher.returncode == 0
    assert set(seen.split()) <= versions_in(tmp_path)
    assert len(versions_in(tmp_path)) == len(versions) + 1
    assert len(seen.split()) >= len(versions)  # the last may have come too late for it
