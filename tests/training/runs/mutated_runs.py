"""Loads damaged run folders, one after another, and watches what each load does.

Called by test_mutations.py as `python -m tests.training.runs.mutated_runs KIND FIRST STEP END
FOLDER`. Prints a line before each trial, and after it the JSON of what was seen.
"""

import faulthandler
import io
import json
import os
import random
import resource
import shutil
import struct
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[3]
RUN = ROOT / "tests" / "earlier_files" / "finished_run"
FILES = {
    "config": ["config.yaml"],
    "weights": ["model.keras"],
    "checkpoint": [
        f"checkpoints/epoch_0060_batch_00000.{kind}.npz" for kind in ("weights", "state")
    ],
    "metrics": ["metrics.jsonl"],
}
_WATCHED = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.")
_OPENED_BY_PYTHON = (sys.prefix, sys.base_prefix, str(ROOT / "keras_transformer"), "/proc/self/")
_MOST_SECONDS = 60  # beyond this, something waits
_MORE_BYTES = 2**31  # of address space, beyond what the first load has taken


# Mutations: of any file, of text, and of archives


def _numbers(choose):
    return choose.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1])


def cut(content, choose):
    return content[: choose.randrange(len(content))]


def flip_bits(content, choose):
    changed = bytearray(content)
    for _ in range(choose.choice([1, 1, 1, 4, 16])):
        changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
    return bytes(changed)


def flip_at_the_start(content, choose):
    size = min(len(content), 2000)
    return flip_bits(content[:size], choose) + content[size:]


def overwrite(content, choose):
    size = choose.choice([2, 4, 8])
    place = choose.randrange(max(1, len(content) - size))
    number = struct.pack("<Q", _numbers(choose))[:size]
    return content[:place] + number + content[place + size :]


def move_a_piece(content, choose):
    start, end = sorted(choose.randrange(len(content)) for _ in range(2))
    end = min(end, start + 5000)
    rest = content[:start] + content[end:]
    place = choose.randrange(len(rest) + 1)
    return rest[:place] + content[start:end] * choose.choice([0, 1, 2]) + rest[place:]


ANY_FILE = [cut, flip_bits, flip_at_the_start, overwrite, move_a_piece]
VALUES = [
    "9" * 5000,
    str(2**62),
    "1:" * 50_000 + "1",  # in base 60
    "-1",
    "0",
    ".inf",
    ".nan",
    "1e400",
    "null",
    "true",
    "[1, 2]",
    "{a: 1}",
    "&a [*a]",
    "[" * 3000,
    "!!python/object/apply:os.system [id]",
    "!!binary x",
    "2026-99-99",
    "/etc/passwd",
    "../../etc/passwd",
    '"\\0\\n"',
    "x" * 100_000,
]


def lines_of(content, choose):
    """Repeats, removes or swaps lines, or gives one another value."""
    lines = content.decode("utf-8").splitlines()
    first, second = (choose.randrange(len(lines)) for _ in range(2))
    action = choose.randrange(6)
    if action == 0:
        lines[first], lines[second] = lines[second], lines[first]
    elif action == 1:
        lines.insert(second, lines[first])
    elif action == 2:
        del lines[first]
    elif lines[first].startswith("{"):
        name = choose.choice([*json.loads(lines[first])])
        value = choose.choice(["null", "[]", '"x"', "1e999", "9" * 5000, "[" * 5000, "true", "-1"])
        before, _, after = lines[first].partition(f'"{name}": ')
        lines[first] = f'{before}"{name}": {value}, {after}'
    else:
        name = lines[first].partition(":")[0]
        lines[first] = f"{name}: {choose.choice(VALUES)}"
    return "\n".join(lines).encode()


def members_of(content, choose):
    """Changes the list of members of an archive, or the content of one, with right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    place, other = (choose.randrange(len(members)) for _ in range(2))
    (name, inner), action = members[place], choose.randrange(12)
    method = zipfile.ZIP_STORED
    if action == 0:
        members[place], members[other] = (name, members[other][1]), (members[other][0], inner)
    elif action == 1:
        members.append((name, inner))
    elif action == 2:
        foreign = choose.choice(["/tmp/x", "../x", f"../{name}", "a/b", "x" * 60_000, "C:\\x"])
        members[place] = (foreign, inner)
    elif action == 3:
        del members[place]
    elif action == 4:
        members.append((choose.choice(["evil.py", "weights.99999.npy", "../../evil"]), b"x" * 999))
    elif action == 5:
        members[place], method = (name, bytes(10**8)), zipfile.ZIP_DEFLATED
    elif action == 6 and name.endswith(".npy"):
        size = choose.choice([10, 60_000])
        header = f"{{'descr': '<f4', 'shape': ({_numbers(choose)},), }}".ljust(size).encode()
        members[place] = (name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    elif action == 7 and name.endswith(".npy"):
        array, file = np.load(io.BytesIO(inner)), io.BytesIO()
        dtype = choose.choice(["f2", "f8", "f16", "i8", "b1", "U3", "c8"])
        np.save(file, np.ones(array.shape, dtype))
        members[place] = (name, file.getvalue())
    else:
        if choose.random() < 0.7:  # the member of the weights
            place = max(range(len(members)), key=lambda index: len(members[index][1]))
        name, inner = members[place]
        for _ in range(choose.choice([1, 1, 3])):
            inner = choose.choice(ANY_FILE)(inner or b"x", choose)
        members[place] = (name, inner)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for member in members:
            archive.writestr(*member)
    return file.getvalue()


def in_place_of(path, choose):
    """Puts a link, a pipe or a folder where the file was."""
    path.unlink()
    kind = choose.randrange(5)
    if kind == 0:
        path.symlink_to(choose.choice(["/dev/zero", "/etc/passwd", "/dev/stdin", "../../outside"]))
    elif kind == 1:
        path.symlink_to(path.name)  # to itself
    elif kind == 2:
        os.mkfifo(path)
    elif kind == 3:
        path.mkdir()


def mutate(path, kind, choose):
    if choose.random() < 0.05:
        in_place_of(path, choose)
        return "in place of"
    of_kind = members_of if kind in ("weights", "checkpoint") else lines_of
    mutation = of_kind if choose.random() < 0.5 else choose.choice(ANY_FILE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of members with one name
        path.write_bytes(mutation(path.read_bytes(), choose))
    return mutation.__name__


# What a load does


class Watch:
    """Notes files opened outside a folder, sockets and processes, through audit events."""

    def __init__(self):
        self.folder, self.seen = None, []
        sys.addaudithook(self._note)

    def _note(self, event, arguments):
        if self.folder is None:
            return
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if not path.startswith((self.folder + os.sep, *_OPENED_BY_PYTHON)):
                self.seen.append(f"open {path}")
        elif event.startswith(_WATCHED):
            self.seen.append(event)


def memory(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def loader(kind, original):
    """Returns a function that reads a run folder, and returns the shapes of its weights."""
    from keras_transformer.finished_run import read_model, read_settings
    from keras_transformer.model import Transformer
    from training.export import training_facts
    from training.runs.checkpoints import Checkpoint
    from training.runs.compiled_model import compiled_model
    from training.runs.early_stopping import early_end
    from training.runs.folder import Position, RunFolder
    from training.runs.kept_epochs import epochs_to_keep

    settings = original.read_record().settings
    model = compiled_model(settings, jit_compile=False)
    model.optimizer.build(model.trainable_variables)

    def shapes(weights):
        return [tuple(weight.shape) for weight in weights]

    def load(run):
        if kind == "checkpoint":
            run.read_record()
            values = Checkpoint.read(run, model, Position(60, 0)).values
            return shapes(values[: len(model.weights)])
        if kind == "metrics":
            metrics = run.read_metrics()
            early_end(metrics, settings)
            epochs_to_keep(metrics, settings)
            training_facts(run)
            return shapes(model.weights)
        run.read_record()
        read_settings(run.config_path)
        read = read_model(run.model_path)
        assert type(read) is Transformer
        return shapes(read.weights)

    assert load(RunFolder(original.path)) == shapes(model.weights)
    return load, shapes(model.weights)


def attempt(load, expected, run, watch):
    """Loads a run once; returns what was seen."""
    from training.command_line.errors import input_errors
    from training.runs.checkpoints import DamagedCheckpoint

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start, before = time.process_time(), memory("VmRSS")
    watch.seen, watch.folder = [], str(run.path.resolve())
    faulthandler.dump_traceback_later(_MOST_SECONDS, exit=True)
    try:
        outcome = "loaded" if load(run) == expected else "another architecture"
    except (*input_errors(), DamagedCheckpoint, OSError) as error:  # commands print these
        is_line = len(str(error)) < 2000 and "\n" not in str(error).strip()
        outcome = "refused" if is_line else f"not a line: {error!r:.300}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error!r:.300}"
    watch.folder = None
    faulthandler.cancel_dump_traceback_later()
    return {
        "outcome": outcome,
        "seconds": time.process_time() - start,
        "bytes": max(0, memory("VmHWM") - before),
        "seen": watch.seen,
    }


def main():
    kind, folder = sys.argv[1], Path(sys.argv[5])
    import keras

    from training.runs.folder import RunFolder

    load, expected = loader(kind, RunFolder(RUN))
    most = memory("VmSize") + _MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    watch = Watch()
    for index in range(*(int(argument) for argument in (sys.argv[2], sys.argv[4], sys.argv[3]))):
        choose = random.Random(f"{kind} {index}")
        run = RunFolder(folder / str(index))
        shutil.copytree(RUN, run.path, symlinks=True)
        what = mutate(run.path / choose.choice(FILES[kind]), kind, choose)
        print(json.dumps({"trial": index, "mutation": what}), flush=True)
        print(json.dumps(attempt(load, expected, run, watch)), flush=True)
        shutil.rmtree(run.path)
        if index % 50 == 0:
            keras.backend.clear_session()


if __name__ == "__main__":
    main()
