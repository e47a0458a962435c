"""Lists the command lines in the documents, and the options that make each one tiny.

Every command in a document must be in `TINY` or `RUN_ELSEWHERE`, spelled the same.
"""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "README.ko.md", "CONTRIBUTING.md", "saved_models/README.md")  # and docs/

TEXT = {
    "--train-source": "train.en",
    "--train-target": "train.de",
    "--validation-source": "val.en",
    "--validation-target": "val.de",
}
MODEL = {
    "--vocabulary-size": 290,
    "--num-layers": 1,
    "--model-dim": 12,
    "--feed-forward-dim": 18,
    "--num-heads": 3,
    "--batch-tokens": 256,
    "--warmup-steps": 4,
    "--epochs": 2,
    "--average-checkpoints": 1,
    "--beam-size": 2,
}
QUALITY = {
    "--configs": "configs",
    "--systems": "transformer",
    "--seeds": 0,
    "--minutes": 0.02,
}
SEARCH = {**MODEL, "--space": "space.yaml", "--max-epochs": 1, "--max-trials": 1}
DECODING = {  # keeps the preset's layers, or `compare` would see a different model
    "--vocabulary-size": 300,
    "--batch": 32,
    "--length": "2 3",
    "--source-length": 4,
    "--repeats": 1,
}
SIZES = {"--batch": 2, "--source-length": 3, "--target-length": 4, "--vocabulary-size": 50}

TUNING = (
    "tune --config training/configs/multi30k_tiny.yaml --space training/configs/multi30k_space.yaml"
)
MULTI30K = (
    "--train-source tok/train.lc.norm.tok.en.gz --train-target tok/train.lc.norm.tok.de.gz"
    " --validation-source tok/val.lc.norm.tok.en.gz --validation-target tok/val.lc.norm.tok.de.gz"
)
MULTI30K_TEST = "tok/test_2016_flickr.lc.norm.tok"
RAW = (
    "--train-source raw/train.en.gz --train-target raw/train.de.gz"
    " --validation-source raw/val.en.gz --validation-target raw/val.de.gz"
)
OWN_TEXT = (
    "--train-source train.en --train-target train.de"
    " --validation-source val.en --validation-target val.de"
)

# In order: later commands read the files that earlier ones write.
TINY = {
    f"train --config training/configs/multi30k_tiny.yaml {OWN_TEXT} --output runs/en-de": MODEL,
    "evaluate runs/en-de --source test.en --reference test.de": {},
    "translate runs/en-de": {},
    "translate runs/en-de --n-best 3 --scores": {"--n-best": 2},
    "translate runs/en-de --input test.en --n-best 3 --scores": {"--n-best": 2},
    "score runs/en-de --source test.en --target test.de": {},
    "export runs/en-de saved_models/en-de": {},
    "export --verify saved_models/en-de": {},
    "export --verify saved_models/en-de/1": {},
    "serve saved_models/en-de": {"--port": 0},
    "serve saved_models/en-de --versions 1,2 --labels stable=1,canary=2": {"--port": 0},
    "serve saved_models/en-de --versions 1 --labels stable=1,canary=1": {"--port": 0},
    "benchmark serve saved_models/en-de --text lines.en --clients 1 8 32 --seconds 60": {
        "--clients": "1 2",
        "--seconds": 1,
    },
    "export runs/en-de exports/en-de-ct2 --format ctranslate2 --quantization int8": {},
    "benchmark text saved_models/en-de exports/en-de-ct2 --source test.en --reference test.de"
    " --batch 32 1 --threads 1": {"--repeats": 1},
    "import_marian opus-mt-en-de runs/opus-en-de": {},
    "import_marian opus-mt-en-de runs/opus-normalized --source-punctuation en"
    " --target-punctuation de": {},
    "translate runs/opus-en-de": {},
    "export runs/opus-en-de saved_models/opus-en-de": {},
    "export runs/opus-en-de exports/opus-en-de-hf --format huggingface": {},
    "train --config runs/opus-en-de/config.yaml --initial-run runs/opus-en-de"
    f" {OWN_TEXT} --epochs 3 --batch-tokens 2048 --peak-learning-rate 1e-4 --warmup-steps 100"
    " --output runs/opus-en-de-mine": {"--epochs": 1},
    f"train --config training/configs/multi30k_tiny.yaml --vocabulary-size 16000 {OWN_TEXT}"
    " --output runs/en-de-16k": MODEL,
    "train --config training/configs/multi30k_tiny.yaml --initial-run runs/en-de"
    " --train-source news.en --train-target news.de"
    " --validation-source val.en --validation-target val.de --output runs/en-de-news": MODEL,
    # One epoch more, because a finished run is not resumed.
    f"train --strategy mirrored --config training/configs/multi30k_tiny.yaml {OWN_TEXT}"
    " --output runs/en-de": {**MODEL, "--epochs": 3},
    "average runs/en-de --best 3": {"--best": 2},
    "experiments jane": {"--run": "runs/en-de", "--source": "one", "--target": "eins"},
    'train --config training/configs/base.yaml --train-source "crawl/*.en.gz" --train-target'
    ' "crawl/*.de.gz" --steps-per-epoch 5000 --sampling 0.1 --max-length-ratio 3'
    " --accumulation-steps 8 --validation-source val.en --validation-target val.de"
    " --output runs/en-de-base": {**MODEL, "--steps-per-epoch": 2},
    f"train --config training/configs/multi30k_tiny.yaml {MULTI30K} --output runs/multi30k-tok": (
        MODEL
    ),
    f"evaluate runs/multi30k-tok --tokenized --source {MULTI30K_TEST}.en.gz"
    f" --reference {MULTI30K_TEST}.de.gz": {},
    f"train --config training/configs/multi30k_tiny.yaml --max-minutes 45 {RAW}"
    " --output runs/multi30k-raw": MODEL,
    "evaluate runs/multi30k-raw --source raw/test_2016_flickr.en.gz"
    " --reference raw/test_2016_flickr.de.gz": {},
    "train --config training/configs/multi30k_tiny.yaml --num-layers 3 --model-dim 256"
    " --feed-forward-dim 1024 --vocabulary-size 8000 --peak-learning-rate 0.002 --epochs 8"
    " --max-minutes null --average-checkpoints 4 --dtype-policy mixed_bfloat16"
    f" {MULTI30K} --output runs/bfloat16": MODEL,
    "experiments --help": {},
    f"experiments quality --minutes 15 --tokenized {MULTI30K}"
    f" --test-source {MULTI30K_TEST}.en.gz --test-target {MULTI30K_TEST}.de.gz": QUALITY,
    "experiments quality --minutes 15 --tokenized": {
        **QUALITY,
        "--data": ".",
        "--output": "runs/without-test",
    },
    "experiments layers": {"--lengths": "32 64", "--widths": 8, "--repeats": 1, "--threads": 0},
    "experiments parallel --threads 1": {
        "--threads": 0,
        "--lengths": "4 64",
        "--tokens": 256,
        "--model-dim": 8,
        "--repeats": 2,
    },
    "experiments path": {
        "--tasks": "one",
        "--distances": 2,
        "--seeds": 4,
        "--steps": 2,
        "--batch": 3,
        "--symbols": 3,
        "--model-dim": 8,
    },
    "experiments heads": {"--tasks": "neighbours", "--steps": 2, "--seeds": 1},
    "experiments positions": {
        "--tasks": "copy",
        "--trained-length": 4,
        "--steps": 2,
        "--seeds": 1,
    },
    "experiments table3": {"--rows": "base C_layers_2"},
    "benchmark decode --preset base --threads 1 --dtype float32 --batch 1 32 --beam-size 1 4"
    " --length 25 100 200": DECODING,
    "benchmark compare ours.jsonl theirs.jsonl": {},
    "benchmark curve ours.jsonl theirs.jsonl --preset base"
    " --output docs/pictures/decoding_speed.png": {},
    "benchmark memory ours.jsonl --output docs/pictures/decoding_memory.png": {},
    "benchmark train --threads N": {**SIZES, "--threads": 1, "--steps": 1, "--repeats": 1},
    "benchmark data --repeats 2": {
        "--num-pairs": 600,
        "--in-memory": 600,
        "--num-files": 3,
        "--steps": 4,
        "--batch-tokens": 1000,
        "--vocabulary-size": 500,
    },
    f"{TUNING} {OWN_TEXT} --algorithm hyperband --max-epochs 9 --output runs/tuning": SEARCH,
    "train --config runs/tuning/best.yaml --output runs/best": {},
    "train --strategy mirrored --config training/configs/base.yaml ... --output RUN": {
        **TEXT,
        **MODEL,
    },
    "export RUN saved_models/NAME": {},
    "train --strategy mirrored --backend jax ...": {**TEXT, **MODEL, "--output": "runs/jax"},
}

# Commands that need several processes or minutes, and the test that runs each.
RUN_ELSEWHERE = {
    "train --strategy multi_worker ... --output /shared/RUN": (
        "tests/training/devices/test_devices.py",
        "test_two_workers_train_like_one_and_only_the_chief_prints",
    ),
    "train --backend jax --strategy multi_worker ... --output /shared/RUN": (
        "tests/training/devices/test_devices.py",
        "test_two_workers_on_jax_train_like_one_and_tensorflow_reads_the_run",
    ),
    "tune ... --output DIR": (
        "tests/training/tuning/test_processes.py",
        "test_a_chief_and_two_workers_survive_the_death_of_one",
    ),
    f"{TUNING} {MULTI30K} --algorithm hyperband --max-epochs 9 --max-trials 12"
    " --max-parameters 4000000 --confirm-seeds 3 --confirm-epochs 4 --tokenized"
    " --output runs/tuning": (
        "tests/training/tuning/test_processes.py",
        "test_the_best_settings_are_compared_with_the_start",
    ),
    "demo": (
        "tests/training/test_demo.py",
        "test_the_demo_exports_only_a_model_that_passes",
    ),
}


def documents():
    """Returns the texts of all documents, by path."""
    paths = [ROOT / name for name in DOCUMENTS] + sorted((ROOT / "docs").rglob("*.md"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def shell_lines(text):
    """Returns the lines of fenced blocks, joined at backslashes, and the inline code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = re.sub(r" *\\\n *", " ", "".join(blocks)).splitlines()
    return lines + re.findall(r"`([^`\n]+)`", prose)


def python_commands(text):
    """Returns the commands after `python -m training.`, without pipes and redirections.

    A command without arguments in prose is a name, not a line to type.
    """
    found = []
    for line in shell_lines(text):
        for command in re.findall(r"python -m training\.([^|>&#]+)", line):
            command = " ".join(command.split())
            if " " in command:
                found.append(command)
    return found


def make_targets(text):
    """Returns the arguments of each `make` line."""
    lines = (re.match(r"make ((?:[\w=.-]+ ?)+)", line) for line in shell_lines(text))
    return [match[1].split() for match in lines if match]


def tiny(command, options):
    """Returns the arguments of a documented command, with some options changed or added."""
    groups = []
    for word in shlex.split(command):
        if word.startswith("--") or not groups:
            groups.append([word])
        elif word != "...":
            groups[-1].append(word)
    changed = {name: [name, *str(value).split()] for name, value in options.items()}
    kept = [changed.pop(group[0], group) for group in groups]
    return [word for group in [*kept, *changed.values()] for word in group]
