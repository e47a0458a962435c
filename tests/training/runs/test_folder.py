import dataclasses
import errno
import json
import os
import resource
import subprocess
import sys

import pytest

from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from training.command_line.errors import InputError
from training.runs.claim import claim
from training.runs.files import file_sha256, replacing, write_text
from training.runs.folder import Position, RunFolder
from training.runs.record import RunRecord
from training.settings import DATA_SETTINGS, make_settings, read_settings_file


@pytest.fixture
def record(tmp_path):
    return make_record(tmp_path / "data")


def make_record(folder, text="a\n", **settings):
    folder.mkdir(exist_ok=True)
    files = {name: str(folder / name) for name in DATA_SETTINGS if name != "train_corpora"}
    for path in files.values():
        write_text(type(folder)(path), text)
    return RunRecord.of(make_settings({**files, **settings}))


def finish(folder, text="model"):
    folder.model_path.write_text(text)


def make_run(path, record, *, finished):
    run = RunFolder(path)
    path.mkdir()
    run.write_record(record)
    if finished:
        finish(run, "old model")
    return run


def test_a_saved_record_is_read_unchanged(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=False)
    assert run.read_record() == record


def test_a_records_file_can_be_given_as_settings(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=False)
    assert make_settings(read_settings_file(run.config_path)) == record.settings


def test_the_tokenizers_values_are_recorded_and_the_requested_ones_resume(tmp_path, record):
    tokenizer = SubwordTokenizer.train_from_lines(["ab"], 10_000, normalization="nfkc")
    asked = dataclasses.replace(record.settings, vocabulary_size=10_000)
    run = make_run(
        tmp_path / "run",
        dataclasses.replace(record, settings=asked).with_tokenizer(tokenizer),
        finished=False,
    )
    found = run.read_record()
    assert found.settings.vocabulary_size == tokenizer.vocabulary_size < 10_000
    assert found.settings.normalization == "nfkc"
    assert found.asked_for == {"vocabulary_size": 10_000, "normalization": "none"}
    for size, same in ((10_000, True), (tokenizer.vocabulary_size, True), (9_999, False)):
        for normalization in ("none", "nfkc"):
            now = make_record(tmp_path / "data", vocabulary_size=size, normalization=normalization)
            assert (now.differences(found) == []) == same
    assert make_settings(read_settings_file(run.config_path)) == found.settings


def test_a_run_of_a_version_without_normalization_has_none(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=False)
    config = run.config_path.read_text()
    run.config_path.write_text(config.replace("normalization: none\n", ""))
    assert run.config_path.read_text() != config
    assert record.differences(run.read_record()) == []


def test_sha256_is_computed_over_the_bytes_of_the_file(tmp_path):
    # FIPS 180-2, example B.1.
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_a_failed_start_leaves_no_folder(tmp_path, record):
    with pytest.raises(RuntimeError), claim(tmp_path / "run", record, overwrite=False):
        raise RuntimeError
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_resumes_in_place(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=False)
    with claim(run.path, record, overwrite=False) as folder:
        assert folder.path == run.path


def test_a_run_resumes_after_its_data_has_moved(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=False)
    with claim(run.path, make_record(tmp_path / "moved"), overwrite=False) as folder:
        assert folder.path == run.path


def test_resuming_with_other_settings_names_old_and_new(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=False)
    other = make_record(tmp_path / "data", epochs=7, dropout=0.2)
    with (
        pytest.raises(InputError, match=r"dropout: 0\.1 there, 0\.2 now; epochs: 20 there, 7 now"),
        claim(run.path, other, overwrite=False),
    ):
        pass


@pytest.mark.parametrize(
    ("earlier", "now", "names"),
    [
        ({"epochs": 5}, {"epochs": 6}, ["epochs"]),
        ({"epochs": 5}, {"epochs": 5}, []),
        ({"epochs": 5}, {"epochs": 4}, []),
        ({"max_minutes": 5}, {"max_minutes": 5.5}, ["max_minutes"]),
        ({"max_minutes": 5}, {}, ["max_minutes"]),  # no limit any more
        ({}, {"max_minutes": 5}, []),
        ({"early_stopping_epochs": 1}, {"early_stopping_epochs": 2}, ["early_stopping_epochs"]),
        ({"early_stopping_epochs": 1}, {}, ["early_stopping_epochs"]),
        ({"seed": 1}, {"seed": 2}, []),
    ],
)
def test_the_limits_of_a_training_may_be_raised(tmp_path, earlier, now, names):
    earlier, now = (make_record(tmp_path / "data", **settings) for settings in (earlier, now))
    assert now.raised_limits(earlier) == names
    run = make_run(tmp_path / "run", earlier, finished=False)
    if now != earlier and not names:
        limits = "epochs, max_minutes and early_stopping_epochs may be raised"
        with (
            pytest.raises(InputError, match=f"must be resumed with the settings.*{limits}"),
            claim(run.path, now, overwrite=False),
        ):
            pass
    else:
        with claim(run.path, now, overwrite=False) as folder:
            assert folder.path == run.path


def test_a_run_that_is_trained_further_is_unfinished_until_its_last_line(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=True)
    assert run.is_finished
    run.write_metrics([{"epoch": 1}, {"final": True}])
    assert run.is_finished
    run.write_metrics([{"epoch": 1}])
    assert not run.is_finished
    with claim(run.path, record, overwrite=False) as folder:
        assert folder.path == run.path


DAMAGED_LINES = [
    b"\xff\xfe",
    b"[1",
    b"3\n",
    b'[["epoch", 2]]',
    b"[" * 5000,
    b'{"epoch": "2"}',
    b'{"epoch": 2.0}',
    b'{"epoch": 2, "val_perplexity": null}',
    b'{"epoch": 2, "loss": [1]}',
    b'{"final": true, "epochs": ["2"]}',
    b'{"epoch": 2, "loss": ' + b"9" * 5000 + b"}",
    b'{"epoch": 2' + b" " * 2**17 + b"}",
]


@pytest.mark.parametrize("damage", DAMAGED_LINES)
def test_metrics_end_where_they_are_damaged(tmp_path, record, damage):
    run = make_run(tmp_path / "run", record, finished=False)
    run.metrics_path.write_bytes(b'{"epoch": 1}\n' + damage + b'\n{"epoch": 2}\n')
    assert run.read_metrics() == [{"epoch": 1}]


@pytest.mark.parametrize("content", [b'{"epoch": 1}\n' * 2**21, b"{}\n" * 100_001])
def test_metrics_larger_than_those_of_any_run_are_refused(tmp_path, record, content):
    run = make_run(tmp_path / "run", record, finished=False)
    run.metrics_path.write_bytes(content)
    with pytest.raises(InputError, match=r"must have at most 16,777,216 bytes and 100,000 lines"):
        run.read_metrics()


@pytest.mark.parametrize(
    ("position", "num_parts", "words"),
    [
        (Position(1, 0), 1, "1 epoch"),
        (Position(0, 0), 4, "0 epochs"),
        (Position(2, 1), 1, "2 epochs and 1 batch of the next"),
        (Position(1, 1200), 1, "1 epoch and 1,200 batches of the next"),
        (Position(1, 8), 4, "1 epoch and 2 batches of the next"),
        (Position(1, 7), 4, "1 epoch and 1 batch of the next, and 3 of the 4 parts of a batch"),
        (Position(1, 3), 4, "1 epoch, and 3 of the 4 parts of a batch"),
    ],
)
def test_a_position_is_reported_in_batches(position, num_parts, words):
    assert position.in_words(num_parts) == words


def test_resuming_with_other_data_names_the_file(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=False)
    other = make_record(tmp_path / "data", text="b\n")
    with (
        # printf 'a\n' | sha256sum, and of 'b\n'
        pytest.raises(InputError, match="train_target: sha256 87428fc52280 there, 0263829989b6"),
        claim(run.path, other, overwrite=False),
    ):
        pass


def test_a_finished_run_is_not_overwritten_without_the_option(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=True)
    with (
        pytest.raises(InputError, match="must not hold a finished run"),
        claim(run.path, record, overwrite=False),
    ):
        pass
    assert run.model_path.read_text() == "old model"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_not_a_run_is_never_touched(tmp_path, record, overwrite):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "config.yaml").write_text("theme: dark\n")
    with (
        pytest.raises(InputError, match="photos: a run needs a folder of its own"),
        claim(tmp_path / "photos", record, overwrite=overwrite),
    ):
        pass
    assert os.listdir(tmp_path / "photos") == ["config.yaml"]


def test_a_file_cannot_be_a_run_folder(tmp_path, record):
    (tmp_path / "file").write_text("text")
    with (
        pytest.raises(InputError, match=r"file: a run needs a folder\. Received: a file"),
        claim(tmp_path / "file", record, overwrite=True),
    ):
        pass


def test_overwriting_keeps_the_old_run_until_the_new_one_is_complete(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=True)
    with claim(run.path, record, overwrite=True) as staging:
        finish(staging, "new model")
        assert run.model_path.read_text() == "old model"
    assert run.model_path.read_text() == "new model"
    assert sorted(os.listdir(tmp_path)) == ["data", "run"]


def test_a_folder_in_the_way_is_named_before_training(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=True)
    (tmp_path / ".run.old").mkdir()
    (tmp_path / ".run.old" / "photo").touch()
    with (
        pytest.raises(InputError, match=r"\.run\.old: a run needs a folder of its own"),
        claim(run.path, record, overwrite=True),
    ):
        pass
    assert run.model_path.read_text() == "old model"


def test_the_remains_of_an_interrupted_removal_do_not_matter(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=True)
    (tmp_path / ".run.old").mkdir()
    (tmp_path / ".run.old" / ".lock").touch()
    with claim(run.path, record, overwrite=True) as staging:
        finish(staging, "new model")
    assert run.model_path.read_text() == "new model"
    assert sorted(os.listdir(tmp_path)) == ["data", "run"]


def test_an_interrupted_overwrite_keeps_both_and_resumes(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=True)
    with pytest.raises(KeyboardInterrupt), claim(run.path, record, overwrite=True) as staging:
        staging.write_record(record)
        raise KeyboardInterrupt
    assert run.model_path.read_text() == "old model"
    with claim(run.path, record, overwrite=True) as staging:
        assert staging.read_record() == record
        finish(staging, "new model")
    assert run.model_path.read_text() == "new model"


def test_an_interrupted_overwrite_with_different_settings_starts_again(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=True)
    with pytest.raises(KeyboardInterrupt), claim(run.path, record, overwrite=True) as staging:
        staging.write_record(record)
        raise KeyboardInterrupt
    other = make_record(tmp_path / "data", epochs=7)
    with (
        pytest.raises(KeyboardInterrupt),
        claim(run.path, other, overwrite=True) as staging,
    ):
        assert staging.is_blank
        raise KeyboardInterrupt


def test_overwriting_an_unfinished_run_with_different_settings_replaces_it(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=False)
    other = make_record(tmp_path / "data", epochs=7)
    with claim(run.path, other, overwrite=True) as staging:
        assert staging.path != run.path
        staging.write_record(other)
        finish(staging)
    assert run.read_record() == other


@pytest.mark.parametrize("renamed", [1, 2])
def test_an_interrupted_swap_is_completed(tmp_path, record, renamed):
    old = make_run(tmp_path / "run", record, finished=True)
    new = make_run(tmp_path / ".run.new", record, finished=False)
    finish(new, "new model")
    os.rename(old.path, tmp_path / ".run.old")
    if renamed == 2:
        os.rename(new.path, old.path)
    with (
        pytest.raises(InputError, match="must not hold a finished run"),
        claim(old.path, record, overwrite=False),
    ):
        pass
    assert old.model_path.read_text() == "new model"
    assert sorted(os.listdir(tmp_path)) == ["data", "run"]


def test_one_process_at_a_time_owns_a_run(tmp_path, record):
    run = tmp_path / "run"
    with claim(run, record, overwrite=False) as folder:
        folder.write_record(record)
        with (
            pytest.raises(InputError, match=f"process {os.getpid()} trains there"),
            claim(run, record, overwrite=False),
        ):
            pass


def test_another_process_is_kept_out_too(tmp_path, record):
    script = (
        "import filelock, sys\n"
        "try:\n    filelock.FileLock(sys.argv[1]).acquire(timeout=0)\n    print('free')\n"
        "except filelock.Timeout:\n    print('held')"
    )
    with claim(tmp_path / "run", record, overwrite=False) as folder:
        folder.write_record(record)
        command = [sys.executable, "-c", script, str(folder.lock_path)]
        assert subprocess.check_output(command, text=True) == "held\n"
    assert subprocess.check_output(command, text=True) == "free\n"


def test_an_unknown_format_version_is_named(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=True)
    text = run.config_path.read_text().replace("format_version: 2", "format_version: 1")
    run.config_path.write_text(text)
    with pytest.raises(InputError, match=r"config\.yaml: .* must be version 2\. Received: .*=1"):
        run.read_record()


def test_a_truncated_config_names_the_file(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=True)
    text = run.config_path.read_text()
    for length in (text.index("dropout"), text.index("data_sha256"), text.index("epochs") + 9):
        run.config_path.write_text(text[:length])
        with pytest.raises(InputError, match=r"run/config\.yaml.* must "):
            run.read_record()


def test_a_folder_without_a_config_is_not_a_run(tmp_path):
    with pytest.raises(InputError, match=r"must hold config\.yaml\. Received: no such file"):
        RunFolder(tmp_path).read_record()


def test_a_run_without_model_is_not_finished(tmp_path, record):
    run = make_run(tmp_path / "run", record, finished=False)
    run.tokenizer_path.write_text("")
    with pytest.raises(InputError, match=r"a finished run must hold model\.keras"):
        run.check_finished()


def test_metrics_end_at_a_damaged_line(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics_path.write_text(json.dumps({"epoch": 1}) + '\n{"epoch": 2, "lo')
    assert run.read_metrics() == [{"epoch": 1}]


def test_a_failed_write_keeps_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(OSError) as caught, replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_file_above_the_systems_size_limit_keeps_the_old_one(tmp_path):
    """Not simulated: the kernel refuses the write."""
    path = tmp_path / "file.txt"
    write_text(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError) as caught:
            write_text(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]
