import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import training.evaluate
import training.runs.files
import training.train
from tests.training.conftest import as_arguments
from tests.training.small_run import SMALL, once
from training.command_line.errors import InputError
from training.command_line.outputs import check_output_files, check_output_folder
from training.command_line.running import run_command
from training.experiments.__main__ import main as experiments
from training.runs.files import write_or_keep, write_text
from training.runs.folder import RunFolder

NOT_UTF_8 = os.fsdecode(b"caf\xe9")


@pytest.fixture
def files(tmp_path):
    """A folder with a file and an empty folder in it."""
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "--out must be the name of a file. Received: an empty name"),
        ("folder", "folder: --out must be the name of a file. Received: a folder"),
        ("absent/", "absent/: --out must be the name of a file. Received: a folder"),
        ("/dev/null", "/dev/null: --out must be the name of a file. Received: a device"),
        ("file", "file: the output must not exist. Received: an existing file"),
        ("file/out", "file/out: --out must be where .* a file in place of its folder"),
        ("x" * 300, "--out must be where this user can write. Received: File name too long"),
    ],
)
def test_an_unwritable_file_is_refused(files, monkeypatch, path, message):
    monkeypatch.chdir(files)
    with pytest.raises(InputError, match=message):
        check_output_files({"--out": path}, overwrite=False)
    assert (files / "file").read_text() == "old"


def test_only_the_folder_of_an_output_file_is_created(files):
    check_output_files(
        {"--out": str(files / "new" / "deep" / "out"), "--no": None}, overwrite=False
    )
    check_output_files({"--out": str(files / "file")}, overwrite=True)
    assert os.listdir(files / "new" / "deep") == []
    assert (files / "file").read_text() == "old"


@pytest.mark.parametrize("other", ["file", "folder/../file", "link", "hard link"])
def test_an_output_must_differ_from_all_other_files_of_the_command(files, other):
    os.symlink(files / "file", files / "link")
    os.link(files / "file", files / "hard link")
    path, other = str(files / "file"), str(files / other)
    with pytest.raises(InputError, match="--out and --in must be different files"):
        check_output_files({"--out": path}, {"--in": other}, overwrite=True)
    with pytest.raises(InputError, match="--other and --out must be different files"):
        check_output_files({"--out": path, "--other": other}, overwrite=True)
    with pytest.raises(InputError, match="--other and --out must be different files"):
        new = str(files / "folder" / ".." / "new")
        check_output_files({"--out": str(files / "new"), "--other": new}, overwrite=False)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "--output must name a folder. Received: an empty name"),
        ("file", "--output must be a folder. Received: .*file: Not a directory"),
        ("file/deep/run", "--output must be a folder. Received: .*file: Not a directory"),
        (NOT_UTF_8, r"must be UTF-8, or TensorFlow cannot use it. Received: b'.*caf\\xe9'"),
        (f"{NOT_UTF_8}/run", "must be UTF-8, or TensorFlow cannot use it"),
    ],
)
def test_an_unwritable_folder_is_refused(files, path, message):
    with pytest.raises(InputError, match=message):
        check_output_folder("--output", str(files / path) if path else path)


def test_checking_an_output_folder_does_not_create_it(files):
    check_output_folder("--output", str(files / "new" / "run"))
    check_output_folder("--output", str(files / "folder"))
    assert not (files / "new").exists()


@pytest.mark.parametrize("command", ["train", "tune", "demo", "heads", "table3", "jane"])
def test_commands_refuse_their_folder_before_any_work(files, capfd, command):
    is_experiment = command in ("heads", "table3", "jane")
    main = experiments if is_experiment else training.train.main
    if command in ("tune", "demo"):
        main = __import__(f"training.{command}", fromlist=["main"]).main
    arguments = [command] * is_experiment
    assert run_command(main, [*arguments, f"--output={files / 'file' / 'run'}"]) == 1
    assert "--output must be a folder" in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--hypotheses"])
def test_an_unwritable_output_is_refused_before_an_evaluation(files, capfd, monkeypatch, option):
    monkeypatch.setattr(training.evaluate, "load_translator", None)
    arguments = ["run", "--source", str(files / "file"), "--reference", str(files / "file")]
    assert run_command(training.evaluate.main, [*arguments, f"{option}={files / 'folder'}"]) == 1
    assert f"{option} must be the name of a file" in capfd.readouterr().err


def test_a_result_that_cannot_be_written_in_place_is_saved_elsewhere(tmp_path, monkeypatch):
    def fail(path, text):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(training.runs.files, "write_text", fail)
    with pytest.raises(InputError, match="the result must be written there.*No space") as error:
        write_or_keep(tmp_path / "out", "long\nsought\n")
    kept = Path(re.search(r"kept in (\S+): move", str(error.value))[1])
    assert kept.read_text() == "long\nsought\n"
    kept.unlink()


def test_writing_to_a_link_replaces_its_target(files):
    (files / "link").symlink_to("file")
    write_text(files / "link", "new")
    assert (files / "link").readlink() == Path("file")
    assert (files / "file").read_text() == "new"


def test_names_that_are_not_utf_8_are_written_as_json_escapes_them(tmp_path):
    write_text(tmp_path / "out", f'"{NOT_UTF_8}, \u00e9"')
    assert (tmp_path / "out").read_text(encoding="utf-8") == '"caf\\udce9, \u00e9"'


def test_a_name_that_the_locale_cannot_encode_is_refused_with_advice():
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    process = subprocess.run(
        [sys.executable, "-m", "training.train", "--output", "caf\u00e9"],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.returncode == 1
    assert b"must be UTF-8" in process.stderr
    assert b"Set PYTHONUTF8=1, since" in process.stderr


def test_texts_and_finished_runs_may_have_names_that_are_not_utf_8(tmp_path, text_files):
    names = {}
    for name, path in text_files.items():
        names[name] = str(tmp_path / f"{NOT_UTF_8}.{name}")
        shutil.copy(path, names[name])
    arguments = as_arguments({**names, **SMALL})
    arguments = once([*arguments, "--epochs=1", f"--output={tmp_path / 'run'}"])
    assert run_command(training.train.main, arguments) == 0
    run = tmp_path / NOT_UTF_8
    (tmp_path / "run").rename(run)
    assert RunFolder(run).read_record().settings.train_source == names["train_source"]
    files = ["--source", names["validation_source"], "--reference", names["validation_target"]]
    outputs = [f"--json={run}.json", f"--hypotheses={run}.txt", "--beam-size=1"]
    assert run_command(training.evaluate.main, [str(run), *files, *outputs]) == 0
    assert len(Path(f"{run}.txt").read_text().splitlines()) == 20
