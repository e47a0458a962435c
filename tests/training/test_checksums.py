"""Runs and exports have checksums, and commands read neither if a byte has changed."""

import json
import random
import shutil
from pathlib import Path

import pytest

import training.export
import training.translate
from keras_transformer.checksums import RUN_FILES, check_run
from keras_transformer.errors import InputError
from keras_transformer.translator import Translator
from tests.training.small_run import once
from training import average
from training.command_line.running import run_command
from training.runs.folder import RunFolder
from training.serving.errors import of_tensorflow
from training.serving.saved_model import load_version
from training.train import main as train_main


@pytest.fixture
def run(finished_run, tmp_path):
    return RunFolder(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def saved(exported, tmp_path):
    """An export of two versions."""
    for number in ("1", "2"):
        shutil.copytree(exported, tmp_path / "saved" / number)
    return tmp_path / "saved"


def flip(path, place, bits=1):
    content = bytearray(path.read_bytes())
    content[place] ^= bits
    path.write_bytes(content)


def one_line(capfd):
    [line] = capfd.readouterr().err.splitlines()
    return line


def test_a_finished_run_has_checksums_of_its_files(finished_run, caplog):
    listed = json.loads((finished_run / "checksums.json").read_text())["sha256"]
    assert [*listed] == [*RUN_FILES]
    Translator.load(finished_run)
    assert not caplog.records


@pytest.mark.parametrize("name", [*RUN_FILES, "checksums.json"])
def test_any_flipped_byte_of_a_run_is_noticed(run, name):
    generator, path = random.Random(name), run.path / name
    content = path.read_bytes()
    for _ in range(8):
        flip(path, generator.randrange(len(content)), generator.randrange(1, 256))
        with pytest.raises(InputError, match=name):
            Translator.load(run.path)
        path.write_bytes(content)
    Translator.load(run.path)


def test_commands_refuse_a_changed_run(run, train_arguments, tmp_path, capfd):
    flip(run.model_path, -1)
    capfd.readouterr()
    more = ["--epochs=4", f"--output={tmp_path / 'new'}", f"--initial-run={run.path}"]
    for command, arguments in (
        (training.translate.main, [str(run.path), f"--input={run.metrics_path}"]),
        (training.translate.main, [str(run.path), f"--input={run.metrics_path}", "--epoch=3"]),
        (training.export.main, [str(run.path), str(tmp_path / "saved")]),
        (average.main, [str(run.path), "--best=1"]),
        (train_main, once([*train_arguments, "--epochs=4", f"--output={run.path}"])),
        (train_main, once([*train_arguments, *more])),
    ):
        assert run_command(command, arguments) == 1
        assert f"{run.model_path}: must be as checksums.json lists it" in one_line(capfd)
    assert not (tmp_path / "new" / "config.yaml").exists()


def test_a_run_of_an_earlier_version_is_read_with_a_warning(run, caplog):
    run.checksums_path.unlink()
    Translator.load(run.path)
    [record] = caplog.records
    assert record.getMessage().startswith(f"{run.path}: has no checksums.json")


def test_every_change_of_a_run_removes_the_checksums_first(run):
    metrics = run.read_metrics()
    for change in (
        lambda: run.write_metrics(metrics),
        lambda: run.write_record(run.read_record()),
    ):
        run.write_checksums()
        check_run(run.path)
        change()
        assert not run.checksums_path.exists()
        read_only = RunFolder(run.path, read_only=True)
        read_only.write_checksums()
        assert not run.checksums_path.exists()
        run.write_checksums()
        read_only.remove_checksums()
        assert run.checksums_path.exists()


def test_averaging_and_training_further_renew_the_checksums(
    run, train_arguments, tmp_path, monkeypatch
):
    before = run.checksums_path.read_bytes()
    assert run_command(average.main, [str(run.path), "--best=1"]) == 0
    check_run(run.path)
    assert run.checksums_path.read_bytes() != before
    further = once([*train_arguments, "--epochs=4", f"--output={run.path}"])

    def stop(*_):
        # What a kill at this moment leaves: no checksums, rather than wrong ones.
        assert not run.checksums_path.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_checksums", stop)
        assert run_command(train_main, further) == 130
    assert run.is_finished
    Translator.load(run.path)
    (run.path / "model.keras").unlink()
    assert run_command(train_main, further) == 0
    check_run(run.path)
    assert run.checksums_path.exists()


def test_a_changed_export_is_refused(saved, capfd):
    version = saved / "2"
    flip(version / "variables" / "variables.data-00000-of-00001", 1000)
    message = f"{version}/variables/variables.data-00000-of-00001: must be as checksums.json"
    with pytest.raises(InputError, match=message) as error:
        load_version(version, 2)
    assert of_tensorflow(error.value).message.startswith(message)
    text = str(version / "README.md")
    assert run_command(training.translate.main, [str(saved), f"--input={text}"]) == 1
    assert message in one_line(capfd)


def verify(*arguments):
    return run_command(training.export.main, ["--verify", *map(str, arguments)])


def test_an_unchanged_export_is_verified(saved, capfd):
    assert verify(saved) == 0
    assert capfd.readouterr().out == (
        f"{saved}/1: every file is as it was exported\n"
        f"{saved}/2: every file is as it was exported\n"
    )
    assert verify(saved / "2") == 0
    assert capfd.readouterr().out == f"{saved}/2: every file is as it was exported\n"


def test_a_changed_export_is_named(saved, capfd):
    flip(saved / "2" / "model.json", 5)
    (saved / "2" / "saved_model.pb").unlink()
    assert verify(saved) == 1
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == f"{saved}/1: every file is as it was exported"
    assert out.splitlines()[1].startswith(f"{saved}/2/saved_model.pb: must be a file of the folder")
    assert f"{saved}: every file must be as it was exported. Received: 1 of 2 versions" in err
    assert verify(saved / "2") == 1


def test_an_export_without_checksums_cannot_be_verified(saved, capfd):
    (saved / "1" / "checksums.json").unlink()
    assert verify(saved / "1") == 1
    out, err = capfd.readouterr()
    assert out == f"{saved}/1: cannot be checked without checksums.json\n"
    assert f"{saved}/1: every file must be as it was exported" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--verify", "/absent"], 1, "/absent: must be an export"),
        (["--verify", "/absent", "run"], 2, "--verify must be given without a run"),
        ([], 2, "the following arguments are required: run, directory"),
        (["run"], 2, "the following arguments are required: directory"),
    ],
)
def test_what_to_verify_must_be_given(arguments, code, message, capfd):
    assert run_command(training.export.main, arguments) == code
    assert message in one_line(capfd)


def test_the_written_files_are_listed_in_the_runs_documentation():
    documentation = Path(training.runs.folder.__file__).read_text()
    assert all(name in documentation for name in [*RUN_FILES, "checksums.json"])
