"""Folders of a stranger: each fault is one line that names the file; nothing crashes."""

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from keras_transformer.errors import InputError
from keras_transformer.marian.import_marian import import_marian
from tests.marian.folders import (
    arrays_in,
    safetensors,
    settings_in,
    tensors_in,
    with_settings,
    write_npz,
)
from tests.marian.torch_files import archive, name, state_dict, text
from tests.mutated_bytes import KINDS, mutants

KERNEL = "encoder_l1_self_Wq"
THEIR_KERNEL = "model.encoder.layers.0.self_attn.q_proj.weight"


def changed_arrays(change):
    """Changes the tensors of a Marian model."""

    def apply(folder):
        arrays = arrays_in(folder / "model.npz")
        changed = change(arrays)
        write_npz(folder / "model.npz", arrays if changed is None else changed)

    return apply


def setting(key, value):
    """Changes a setting in a Marian model."""

    def change(arrays):
        lines = settings_in(arrays).splitlines()
        [place] = [n for n, line in enumerate(lines) if line.startswith(f"{key}:")]
        # Items of a list follow on lines of their own.
        end = place + 1
        while end < len(lines) and lines[end].startswith(" "):
            end += 1
        return with_settings(arrays, "\n".join([*lines[:place], f"{key}: {value}", *lines[end:]]))

    return changed_arrays(change)


def changed_text(file, old, new):
    def apply(folder):
        path = folder / file
        content = path.read_text(encoding="utf-8")
        assert old in content
        path.write_text(content.replace(old, new, 1), encoding="utf-8")

    return apply


def replaced(file, content):
    def apply(folder):
        (folder / file).unlink(missing_ok=True)
        (folder / file).write_bytes(content)

    return apply


def link(file, target):
    def apply(folder):
        (folder / file).unlink()
        (folder / file).symlink_to(target)

    return apply


def pipe(file):
    def apply(folder):
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return apply


def removed(key):
    def change(arrays):
        del arrays[key]

    return changed_arrays(change)


def put(key, array):
    def change(arrays):
        arrays[key] = array

    return changed_arrays(change)


def declared_npz(shape):
    """A model that declares a tensor of a size that it does not have."""

    def apply(folder):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        with zipfile.ZipFile(folder / "model.npz", "w") as file:
            file.writestr("Wemb.npy", data)

    return apply


def compressed(folder):
    np.savez_compressed(folder / "model.npz", **arrays_in(folder / "model.npz"))


BOMB = b"a0: &a0 [x, x]\n" + b"".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n".encode() for n in range(1, 40)
)
NAN = np.full((64, 64), np.nan, "float32")

MARIAN_FAULTS = {
    "no tensor": (removed(KERNEL), f"model.npz.*no tensor {KERNEL}"),
    "a tensor that no model has": (put("x", NAN), "the tensor 'x'"),
    "a tensor of another shape": (put(KERNEL, NAN[:, :3]), r"of shape \(64, 3\)"),
    "a tensor of whole numbers": (put(KERNEL, NAN.astype("i4")), "dtype int32"),
    "weights that are not numbers": (put(KERNEL, NAN), f"not finite numbers, in {KERNEL}"),
    "infinite weights": (put(KERNEL, NAN * 0 + np.inf), "not finite"),
    "a huge tensor": (declared_npz(f"({2**31}, {2**31})"), r"Wemb\.npy of shape"),
    "a size of 2**62": (declared_npz(f"({2**62},)"), r"Wemb\.npy of shape"),
    "text instead of a model": (replaced("model.npz", b"text" * 100), "zip archive"),
    "no model": (replaced("model.npz", b""), "zip archive|cut off"),
    "a compressed model": (compressed, "compressed"),
    "a pickle in a model": (
        put("decoder_l1_self_bq", np.array([print], dtype=object)),
        "a header that is not one of numbers",
    ),
    "no settings in the model": (removed("special:model.yml"), "no special:model.yml"),
    "settings that are not YAML": (
        changed_arrays(lambda arrays: with_settings(arrays, "a: [")),
        "model.npz",
    ),
    "huge sizes": (setting("dim-emb", 2**62), "dim-emb: 4611686018427387904"),
    "a billion layers": (setting("enc-depth", 999_999_999), "num_layers 999,999,999"),
    "no layers": (setting("dec-depth", 0), "num_decoder_layers 0"),
    "a negative width": (setting("dim-emb", -64), "dim-emb: -64"),
    "more heads than channels": (setting("transformer-heads", 7), "num_heads=7"),
    "more layers than tensors": (setting("enc-depth", 3), "no tensor encoder_l3"),
    "another vocabulary size": (setting("dim-vocabs", "[106, 107]"), "dim-vocabs 107"),
    "one vocabulary size": (setting("dim-vocabs", "[106]"), "dim-vocabs: "),
    "a YAML bomb": (replaced("decoder.yml", BOMB), "decoder.yml.*an anchor"),
    "a bomb of nested lists": (replaced("decoder.yml", b"[" * 200_000), "levels"),
    "a class in YAML": (
        replaced("decoder.yml", b"models: !!python/object/apply:os.system [id]\n"),
        "the type",
    ),
    "no decoder.yml that is text": (replaced("decoder.yml", b"\xff\xfe\xff"), "decoder.yml"),
    "three models": (
        changed_text("decoder.yml", "  - model.npz", "  - a.npz\n  - b.npz\n  - c.npz"),
        "models: ",
    ),
    "a path in place of a name": (
        changed_text("decoder.yml", "  - model.npz", "  - ../../../etc/passwd"),
        "passwd.*No such file",
    ),
    "a vocabulary with a piece twice": (
        changed_text("vocab.yml", "\nat: 12", "\nthe: 12"),
        "vocab.yml.*the key 'the' twice",
    ),
    "a vocabulary with an id twice": (
        changed_text("vocab.yml", "\nat: 12", "\nat: 11"),
        "not 0 to",
    ),
    "a vocabulary with a huge id": (
        changed_text("vocab.yml", "\nat: 12", f"\nat: {2**62}"),
        "the id '4611686018427387904'",
    ),
    "a vocabulary with a negative id": (changed_text("vocab.yml", "\nat: 12", "\nat: -1"), "'-1'"),
    "a sub-word that is too long": (
        changed_text("vocab.yml", "\nat: 12", f"\n{'x' * 1001}: 12"),
        "vocab.yml: a vocabulary must",
    ),
    "no unknown sub-word": (changed_text("vocab.yml", "<unk>", "<other>"), "no sub-word <unk>"),
    "a link out of the folder": (link("vocab.yml", "/etc/passwd"), "a link that leaves"),
    "a link to itself": (link("vocab.yml", "vocab.yml"), "vocab.yml"),
    "a pipe": (pipe("source.spm"), "source.spm.*a pipe"),
    "a pipe as model": (pipe("model.npz"), "model.npz.*a pipe"),
    "a SentencePiece model that is none": (replaced("source.spm", b"\x00" * 99), "source.spm"),
    "a huge SentencePiece model": (replaced("source.spm", b"\n" * 2**24), "source.spm.*more than"),
    "no SentencePiece model": (lambda folder: (folder / "target.spm").unlink(), "target.spm"),
}


def changed_json(file, **changes):
    def apply(folder):
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        for key, value in changes.items():
            content[key] = value
        (folder / file).write_text(json.dumps(content), encoding="utf-8")

    return apply


def changed_tensors(change, **of_header):
    def apply(folder):
        path = folder / "model.safetensors"
        tensors = tensors_in(path)
        change(tensors)
        path.write_bytes(safetensors(tensors, **of_header))

    return apply


def hostile_pickle(folder):
    (folder / "model.safetensors").unlink()
    call = name("os", "system") + text(f"touch {folder / 'marker'}") + b"\x85R"
    archive(folder / "pytorch_model.bin", state_dict({"model.shared.weight": call}), [])


def without_weights(folder):
    (folder / "model.safetensors").unlink()


FOUR_NUMBERS = np.zeros(4, "float32")
HUGGING_FACE_FAULTS = {
    "no weights": (without_weights, r"model\.safetensors or pytorch_model\.bin"),
    "a pickle that calls": (hostile_pickle, r"pytorch_model\.bin.*names 'os\.system'"),
    "no tensor": (changed_tensors(lambda t: t.pop(THEIR_KERNEL)), f"no tensor {KERNEL}"),
    "a tensor that no model has": (
        changed_tensors(lambda t: t.update(x=FOUR_NUMBERS)),
        "the tensor 'x'",
    ),
    "a tensor of another shape": (
        changed_tensors(lambda t: t.update({THEIR_KERNEL: FOUR_NUMBERS})),
        f"{KERNEL} of shape",
    ),
    "weights that are not numbers": (
        changed_tensors(lambda t: t.update({THEIR_KERNEL: NAN})),
        "not finite",
    ),
    "a size of 2**62": (
        changed_tensors(lambda t: None, **{THEIR_KERNEL: {"shape": [2**62, 2**62]}}),
        "of shape",
    ),
    "an output of its own": (
        changed_tensors(lambda t: t.update({"lm_head.weight": NAN})),
        r"lm_head\.weight, which differs",
    ),
    "positions of another kind": (
        changed_tensors(
            lambda t: t.update(
                {"model.encoder.embed_positions.weight": np.zeros((512, 64), "float32")}
            )
        ),
        "neither the paper's nor Marian's",
    ),
    "settings that are not JSON": (replaced("config.json", b"{"), "config.json.*not JSON"),
    "a bomb of nested lists": (replaced("vocab.json", b"[" * 200_000), "vocab.json.*not JSON"),
    "settings that are a list": (replaced("config.json", b"[]"), "not a mapping"),
    "settings that are too large": (replaced("config.json", b" " * 2**21), "more than"),
    "a vocabulary with an id twice": (changed_json("vocab.json", **{"au": 3}), "not 0 to"),
    "a vocabulary with a text as id": (changed_json("vocab.json", **{"au": "2"}), "the id 2 of"),
    "a vocabulary that is too large": (changed_json("vocab.json", new=118), "119 sub-words"),
    "another padding": (changed_json("config.json", pad_token_id=3), "<pad>"),
    "a start outside the vocabulary": (
        changed_json("config.json", decoder_start_token_id=2**62),
        "config.json|vocab.json",
    ),
    "a billion layers": (changed_json("config.json", encoder_layers=10**9), "num_layers 1,000,000"),
    "a width of 2**62": (changed_json("config.json", d_model=2**62), "model_dim|embed"),
    "a width that is true": (changed_json("config.json", d_model=True), "d_model: True"),
    "more beams than any search": (
        changed_json("generation_config.json", num_beams=10**9),
        "num_beams: 1000000000",
    ),
    "a penalty that is infinite": (
        changed_json("generation_config.json", length_penalty=float("inf")),
        "length_penalty: inf",
    ),
    "a link out of the folder": (link("target.spm", "/etc/passwd"), "a link that leaves"),
    "a pipe": (pipe("config.json"), "config.json.*a pipe"),
}


def check_refused(folder, message):
    with pytest.raises(InputError, match=message) as caught:
        import_marian(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(folder))
    assert not (folder / "marker").exists()


@pytest.mark.parametrize("fault", MARIAN_FAULTS)
def test_a_hostile_folder_of_marian_is_refused(fault, marian_folder):
    change, message = MARIAN_FAULTS[fault]
    change(marian_folder)
    check_refused(marian_folder, message)


@pytest.mark.parametrize("fault", HUGGING_FACE_FAULTS)
def test_a_hostile_folder_of_hugging_face_is_refused(fault, hugging_face_folder):
    change, message = HUGGING_FACE_FAULTS[fault]
    change(hugging_face_folder)
    check_refused(hugging_face_folder, message)


def test_a_folder_of_something_else_is_refused(tmp_path):
    check_refused(tmp_path, r"with decoder\.yml, or of a Hugging Face model, with config\.json")
    check_refused(tmp_path / "nothing", "neither file")


SIZES = [("dim-emb", 999_999_999), ("transformer-dim-ffn", 999_999_999), ("dec-depth", 100)]


@pytest.mark.parametrize(("key", "value"), SIZES)
def test_sizes_in_the_settings_take_no_memory(key, value, marian_folder):
    """In a process of its own, whose memory is limited once everything is imported."""
    setting(key, value)(marian_folder)
    code = (
        "import resource, sys\n"
        "from keras_transformer.marian.import_marian import import_marian\n"
        f"import_marian({str(marian_folder.parent / 'sound')!r})\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + 200 * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try:\n"
        f"    import_marian({str(marian_folder)!r})\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    (marian_folder.parent / "sound").symlink_to(Path(__file__).parent / "models" / "post")
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=Path(__file__).parents[2],
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert "model.npz" in process.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["decoder.yml", "vocab.yml", "model.npz", "source.spm"])
def test_damage_to_a_file_of_marian_is_refused_or_read(file, kind, marian_folder):
    path = marian_folder / file
    content = path.read_bytes()
    for mutant in list(mutants(content, kind))[:40]:
        path.write_bytes(mutant)
        try:
            import_marian(marian_folder)
        except InputError as error:
            assert "\n" not in str(error)
