"""The commands in the documents: their options exist, and each runs at a tiny size."""

import contextlib
import gzip
import importlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from unittest import mock

import pytest
import yaml

from tests.documented_commands import (
    ROOT,
    RUN_ELSEWHERE,
    TINY,
    documents,
    make_targets,
    python_commands,
    tiny,
)
from training.command_line.parser import CommandParser
from training.command_line.running import run_command

EN_WORDS = "one two three four five six seven eight nine".split()
DE_WORDS = "eins zwei drei vier fünf sechs sieben acht neun".split()
# These commands set the threads, devices or backend of their process, or start processes.
IN_A_PROCESS_OF_ITS_OWN = (
    *("benchmark decode", "benchmark train", "benchmark text"),
    "train --strategy",
)


def main_of(command):
    """Returns the function of a command, and its remaining arguments."""
    name, *arguments = command
    package = {"experiments": "experiments.__main__"}
    return importlib.import_module(f"training.{package.get(name, name)}").main, arguments


# All are known


def test_every_command_of_the_documents_is_run_by_a_test():
    for path, text in documents().items():
        unknown = set(python_commands(text)) - TINY.keys() - RUN_ELSEWHERE.keys()
        assert not unknown, f"{path}: enter them in tests/documented_commands.py"


def test_every_command_that_is_run_is_in_a_document():
    shown = {command for text in documents().values() for command in python_commands(text)}
    assert TINY.keys() | RUN_ELSEWHERE.keys() <= shown | {"demo"}


@pytest.mark.parametrize(("path", "name"), RUN_ELSEWHERE.values())
def test_commands_marked_as_run_elsewhere_occur_in_that_test(path, name):
    assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8")


class Parsed(Exception):
    """Raised once the command line has been parsed."""


@pytest.mark.parametrize("command", [*TINY, *RUN_ELSEWHERE])
def test_the_options_of_a_documented_command_exist(command, monkeypatch, capsys):
    parse_args = CommandParser.parse_args

    def only_parse(parser, *arguments):
        parse_args(parser, *arguments)
        raise Parsed

    monkeypatch.setattr(CommandParser, "parse_args", only_parse)
    needed = {} if "--output" in command else TINY.get(command, {})
    needed = {name: needed[name] for name in ("--output", "--threads") if name in needed}
    main, arguments = main_of(tiny(command, needed))
    with pytest.raises((Parsed, SystemExit)) as end:
        main(arguments)
    assert end.type is Parsed or (command.endswith("--help") and end.value.code == 0)


@pytest.mark.skipif(shutil.which("make") is None, reason="GNU Make is absent")
def test_every_make_line_of_the_documents_has_its_targets():
    targets = re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = [line for text in documents().values() for line in make_targets(text)]
    named = {word for line in shown for word in line if word.islower() and "=" not in word}
    assert {"demo", "test", "lint", "docs", "clean"} & named <= {*targets}
    assert named <= {*targets}


# All run


def write_lines(path, lines):
    path.parent.mkdir(exist_ok=True)
    content = "".join(line + "\n" for line in lines).encode("utf-8")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_text(folder):
    """Writes number words in two languages, under every text name in the documents."""
    generator = random.Random(3)
    names = {
        "train": [
            "train.{}",
            "news.{}",
            "tok/train.lc.norm.tok.{}.gz",
            "raw/train.{}.gz",
            "crawl/1.{}.gz",
        ],
        "validation": ["val.{}", "tok/val.lc.norm.tok.{}.gz", "raw/val.{}.gz"],
        "test": [
            "test.{}",
            "lines.{}",
            "tok/test_2016_flickr.lc.norm.tok.{}.gz",
            "raw/test_2016_flickr.{}.gz",
        ],
    }
    for split, num_lines in (("train", 120), ("validation", 20), ("test", 8)):
        rows = [generator.choices(range(9), k=generator.randint(2, 5)) for _ in range(num_lines)]
        for language, words in (("en", EN_WORDS), ("de", DE_WORDS)):
            lines = [" ".join(words[number] for number in row) for row in rows]
            for name in names[split]:
                write_lines(folder / name.format(language), lines)


def write_settings(folder):
    """Writes tiny settings wherever an option names a settings file."""
    settings = {"vocabulary_size": 290, "num_layers": 1, "model_dim": 12, "feed_forward_dim": 18}
    settings |= {"num_heads": 3, "batch_tokens": 256, "warmup_steps": 4, "beam_size": 2}
    (folder / "configs").mkdir()
    (folder / "configs/multi30k_transformer.yaml").write_text(yaml.safe_dump(settings))
    (folder / "space.yaml").write_text(yaml.safe_dump({"dropout": [0.1, 0.2]}))


def write_peer(folder):
    """Writes a line that another program could have measured."""
    peer = {"peer": "other", "task": "decode", "size": "base", "dtype": "float32", "batch": 32}
    peer |= {"beams": 4, "src": 4, "length": 3, "threads": 1, "tokens_per_s": 100}
    (folder / "theirs.jsonl").write_text(json.dumps(peer) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which all commands run, one after another."""
    folder = tmp_path_factory.mktemp("documented")
    (folder / "training").symlink_to(ROOT / "training")
    (folder / "docs").mkdir()
    write_text(folder)
    write_settings(folder)
    write_peer(folder)
    shutil.copytree(ROOT / "tests" / "marian" / "models" / "hf", folder / "opus-mt-en-de")
    return folder


@pytest.fixture(scope="module")
def environment():
    """The environment of commands in new processes."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def run_here(arguments, place):
    """Runs a command in this process, with a line as stdin; returns its output."""
    main, arguments = main_of(arguments)
    stdin, stdout = (io.TextIOWrapper(io.BytesIO(text), "utf-8") for text in (b"one two\n", b""))
    with contextlib.chdir(place), mock.patch("sys.stdin", stdin), mock.patch("sys.stdout", stdout):
        with contextlib.suppress(SystemExit):  # --help
            assert run_command(main, arguments) == 0
        stdout.flush()
    return stdout.buffer.getvalue().decode("utf-8")


def run_apart(arguments, place, environment):
    """Runs a command in a new process; returns its output."""
    command = [sys.executable, "-m", f"training.{arguments[0]}", *arguments[1:]]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def serve_and_ask(arguments, place, environment):
    """Starts the server, sends it the documented request, stops it; returns the answer."""
    command = [sys.executable, "-m", f"training.{arguments[0]}", *arguments[1:]]
    server = subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        address = next(line for line in server.stdout if line.startswith("serving ")).split()[1]
        body = b'{"instances": ["A man rides a bicycle."]}'
        with urllib.request.urlopen(f"{address}:predict", body, timeout=60) as answer:
            predictions = json.load(answer)["predictions"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        return predictions[0]["translation"] + "."
    finally:
        server.kill()
        server.communicate()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", TINY)
def test_a_documented_command_runs(command, place, environment):
    if "--backend jax" in command:
        pytest.importorskip("jax", reason="the extra jax is absent")
    arguments = tiny(command, TINY[command])
    if command.startswith("serve "):
        printed = serve_and_ask(arguments, place, environment)
    elif command.startswith(IN_A_PROCESS_OF_ITS_OWN):
        printed = run_apart(arguments, place, environment)
    else:
        printed = run_here(arguments, place)
    assert printed.strip()
    if "--output" in arguments:
        assert (place / arguments[arguments.index("--output") + 1]).exists()
    if command.startswith("benchmark decode "):
        (place / "ours.jsonl").write_text(printed)
