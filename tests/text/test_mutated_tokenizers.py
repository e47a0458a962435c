"""A damaged tokenizer is refused, or works; no library that reads it crashes, here or in graphs."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from tests.mutated_bytes import KINDS, TRIALS
from tests.random_models import TEXTS

ROOT = Path(__file__).parents[2]

# Says which trial it has ended, so that a crash can be repeated. The memory and the time of a trial
# are limited, and what it opens is watched.
TRIES = """
import json, resource, signal, sys, tempfile
from pathlib import Path
import tensorflow as tf
from keras_transformer.errors import InputError
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from tests.mutated_bytes import KINDS, mutants

path = Path(sys.argv[1])
content = path.read_bytes()
texts = ["a man rides a bicycle", "snow \\ufb01ne \\u212b", "\\U0001f469 \\uff21 </s>", ""]

def use(tokenizer):
    ids = tokenizer.encode(texts)
    assert tokenizer.decode(ids) is not None
    assert tokenizer.sample(texts, 0.1, seed=1)
    in_graph = tokenizer.tokenize(tf.constant(texts))
    assert tokenizer.detokenize(in_graph).shape == len(texts)
    return ids == in_graph.to_list()

assert use(SubwordTokenizer.load(path))
opened = []
watched = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn")
allowed = (str(path.parent), sys.prefix, sys.base_prefix)

def watch(event, arguments):
    is_outside = event == "open" and not str(arguments[0]).startswith(allowed)
    is_ours = arguments[:1] == (tempfile.gettempdir(),)  # an anonymous file for TensorFlow's output
    if (is_outside and not is_ours) or event.startswith(watched):
        opened.append((event, arguments))

pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + 512 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
sys.addaudithook(watch)
mutant_path = path.with_suffix(".damaged")
for kind, mutant in ((kind, mutant) for kind in KINDS for mutant in mutants(content, kind)):
    mutant_path.write_bytes(mutant)
    signal.alarm(10)
    try:
        outcome = "used" if use(SubwordTokenizer.load(mutant_path)) else "differs"
    except InputError as error:
        assert str(error).startswith(str(mutant_path)) and "\\n" not in str(error), str(error)
        outcome = "refused"
    print(json.dumps([kind, outcome]), flush=True)
signal.alarm(0)
assert not opened, opened
"""


@pytest.fixture(scope="module", params=["bpe", "unigram nfkc"])
def tokenizer_file(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("mutated") / "tokenizer.model"
    model_type, _, normalization = request.param.partition(" ")
    SubwordTokenizer.train_from_lines(TEXTS, 300, model_type, normalization or "none").save(path)
    return path


@pytest.mark.slow
def test_a_damaged_tokenizer_is_refused_or_works(tokenizer_file):
    finished = subprocess.run(
        [sys.executable, "-c", TRIES, str(tokenizer_file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    counts = Counter(tuple(json.loads(line)) for line in finished.stdout.splitlines())
    assert finished.returncode == 0, f"trial {counts.total()}: {finished.stderr[-2000:]}"
    print(f"{tokenizer_file.parent.name}: {dict(counts)}")
    for kind in KINDS:
        refused, used = counts[kind, "refused"], counts[kind, "used"]
        assert refused + used == TRIALS  # in the graph, the same ids as outside
        assert refused > TRIALS // 10
