"""A changed file of a finished run or an export is noticed, and named."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from keras_transformer import checksums
from keras_transformer.checksums import check_export, check_run
from keras_transformer.errors import InputError

CONTENT = {"config.yaml": "a: 1\n", "metrics.jsonl": "", "model.keras": "m" * 999}
CONTENT |= {"tokenizer.model": "t\0"}


@pytest.fixture
def run(tmp_path):
    for name, text in CONTENT.items():
        (tmp_path / name).write_text(text)
    text = checksums.checksums_of(tmp_path, checksums.RUN_FILES)
    (tmp_path / "checksums.json").write_text(text)
    return tmp_path


@pytest.fixture
def version(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "assets").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables" / "variables.data-00000-of-00001").write_bytes(b"data")
    checksums.write_export_checksums(tmp_path)
    return tmp_path


def assert_refused(check, folder, name):
    message = rf"^{folder / name}: .*must .*\. Received: .*\.$"
    with pytest.raises(InputError, match=message) as error:
        check(folder)
    assert "\n" not in str(error.value)


def test_unchanged_files_are_accepted(run, caplog):
    (run / "notes.txt").touch()  # not a file of the run
    check_run(run)
    assert not caplog.records


def test_the_file_is_json_with_every_name(run, version):
    assert json.loads((run / "checksums.json").read_text())["format_version"] == 1
    listed = json.loads((version / "checksums.json").read_text())["sha256"]
    assert [*listed][-1] == "variables/variables.data-00000-of-00001"
    assert check_export(version)


@pytest.mark.parametrize("check", [check_run, check_export])
def test_a_folder_without_checksums_gives_one_warning(tmp_path, caplog, check):
    assert not check(tmp_path)
    [record] = caplog.records
    assert record.getMessage().startswith(f"{tmp_path}: has no checksums.json, so changes")


@pytest.mark.parametrize("name", CONTENT)
def test_a_missing_or_changed_file_of_a_run_is_named(run, name):
    path = run / name
    path.write_text(CONTENT[name] + "\n")
    assert_refused(check_run, run, name)
    path.unlink()
    assert_refused(check_run, run, name)
    path.mkdir()
    assert_refused(check_run, run, name)


def test_a_missing_changed_or_added_file_of_an_export_is_named(version):
    added = version / "variables" / "more\n"
    added.touch()
    with pytest.raises(InputError, match=r"variables/more\\n': must be listed in checksums.json"):
        check_export(version)
    added.unlink()
    (version / "saved_model.pb").write_bytes(b"Graph")
    assert_refused(check_export, version, "saved_model.pb")
    (version / "saved_model.pb").unlink()
    assert_refused(check_export, version, "saved_model.pb")


def test_links_and_pipes_in_an_export_are_refused(version):
    (version / "link").symlink_to(version / "saved_model.pb")
    assert_refused(check_export, version, "link")
    (version / "link").unlink()
    os.mkfifo(version / "a\npipe")
    with pytest.raises(InputError, match=r"a\\npipe': an export must have only files and folders"):
        check_export(version)


@pytest.mark.parametrize("name", [*CONTENT, "checksums.json"])
def test_links_that_leave_a_run_are_refused(run, tmp_path_factory, name):
    shutil.move(run / name, run / "inside")
    (run / name).symlink_to("inside")
    check_run(run)
    outside = shutil.move(run / "inside", tmp_path_factory.mktemp("outside"))
    (run / name).unlink()
    (run / name).symlink_to(outside)
    assert_refused(check_run, run, name)


def test_a_pipe_in_a_run_does_not_hang(run):
    (run / "model.keras").unlink()
    os.mkfifo(run / "model.keras")
    assert_refused(check_run, run, "model.keras")
    (run / "checksums.json").unlink()
    os.mkfifo(run / "checksums.json")
    assert_refused(check_run, run, "checksums.json")


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[" * 9999, '{"sha256": []}', '{"sha256": {"a": 1}}', "1" * 9999, "\0", '"sha256"'],
)
def test_other_content_is_refused(run, content):
    (run / "checksums.json").write_text(content)
    assert_refused(check_run, run, "checksums.json")


def test_a_list_of_more_than_the_runs_files_is_refused(run):
    (run / "logs").symlink_to("/")
    for name in ("notes.txt", "logs/etc/passwd"):
        text = (run / "checksums.json").read_text()
        listed = json.loads(text)["sha256"] | {name: "0" * 64}
        (run / "checksums.json").write_text(checksums._as_text(listed))
        assert_refused(check_run, run, name)
        (run / "checksums.json").write_text(text)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other", "a/../../b", "config.yaml\n", ""])
def test_names_outside_the_folder_are_refused(run, name):
    listed = json.loads((run / "checksums.json").read_text())["sha256"]
    (run / "checksums.json").write_text(checksums._as_text({**listed, name: "0" * 64}))
    assert_refused(check_run, run, "checksums.json")


def test_a_name_twice_and_a_large_file_are_refused(run):
    file, text = run / "checksums.json", (run / "checksums.json").read_text()
    file.write_text(text.replace('{\n    "config', '{\n    "config.yaml": "", "config'))
    assert_refused(check_run, run, "checksums.json")
    with open(file, "w") as opened:
        opened.truncate(2**40)
    assert_refused(check_run, run, "checksums.json")


def test_a_run_that_is_written_anew_meanwhile_is_checked_again(run, monkeypatch):
    def sha256(path):
        monkeypatch.undo()
        (run / "model.keras").write_text("new")
        text = checksums.checksums_of(run, checksums.RUN_FILES)
        (run / "checksums.json").write_text(text)
        return "an earlier one"

    monkeypatch.setattr(checksums, "_sha256", sha256)
    check_run(run)


def flip_each(folder, check, places=6, seed=11):
    """Changes one byte of each file at a time, and asserts that the error names the file."""
    generator = random.Random(seed)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        content = path.read_bytes()
        for place in {0, len(content) - 1, *generator.choices(range(len(content)), k=places)}:
            changed = bytearray(content)
            changed[place] ^= generator.randrange(1, 256)
            path.write_bytes(changed)
            with pytest.raises(InputError) as error:
                check(folder)
            name = path.relative_to(folder).as_posix()
            assert name in str(error.value) or "checksums.json" in str(error.value)
            assert name in str(error.value) or name == "checksums.json"
            assert "\n" not in str(error.value)
        path.write_bytes(content)
    check(folder)
    return len(files)


def test_any_flipped_byte_of_an_export_is_noticed(exported, tmp_path):
    version = shutil.copytree(exported, tmp_path / "1")
    assert flip_each(version, check_export) == 8


def test_any_flipped_byte_of_the_list_is_noticed(run):
    """A flip in a sum makes the file that it belongs to a wrong one."""
    file = run / "checksums.json"
    content = file.read_bytes()
    for place in range(len(content)):
        for bit in (1, 4, 32, 128):
            changed = bytearray(content)
            changed[place] ^= bit
            file.write_bytes(changed)
            with pytest.raises(InputError, match="checksums.json"):
                check_run(run)


def test_an_export_lists_all_of_its_files(exported):
    version = Path(exported)
    files = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()}
    listed = json.loads((version / "checksums.json").read_text())["sha256"]
    assert files == {*listed, "checksums.json"}
    assert {"model.json", "README.md", "assets.extra/tf_serving_warmup_requests"} < files
