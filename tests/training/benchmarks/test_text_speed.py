"""The printed lines of `benchmark text`; the speed itself is not tested."""

import json

import pytest

from tests.random_models import TEXTS
from training.benchmark import main
from training.command_line.running import run_command

BY_LETTERS = ["--bleu-tokenizer", "char"]  # the nonsense has few words
LINES = [text for text in TEXTS if text]


@pytest.fixture(scope="module")
def text(served_translator, tmp_path_factory):
    """A text, and as its reference the translations by the exported model."""
    folder = tmp_path_factory.mktemp("text")
    for name, lines in (("source", LINES), ("reference", served_translator(LINES))):
        content = "".join(f"{line}\n" for line in lines)
        (folder / name).write_text(content, encoding="utf-8")
    return ["--source", str(folder / "source"), "--reference", str(folder / "reference")]


def measured(arguments, capfd):
    assert run_command(main, ["text", *arguments]) == 0
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_each_export_and_batch_size_prints_a_line(exported, text, capfd):
    lines = measured([exported, *text, "--batch", "2", "9", "--repeats", "2", *BY_LETTERS], capfd)
    assert [line["batch"] for line in lines] == [2, 9]
    for line in lines:
        assert (line["export"], line["sentences"]) == (exported, len(LINES))
        assert line["bleu"] == 100
        low, high = sorted(line["seconds"])
        rate = len(LINES) / line["sentences_per_second"]
        assert low * 0.98 <= rate <= high * 1.02


def test_exports_for_ctranslate2_are_measured_too(served_translator, text, tmp_path, capfd):
    pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is absent")
    from keras_transformer.export.ctranslate2 import export_ctranslate2
    from tests.export.test_other_programs import translator_of

    folder = str(tmp_path / "x")
    export_ctranslate2(translator_of(served_translator.tokenizer), folder)
    [line] = measured([folder, *text, "--repeats", "1"], capfd)
    assert line["export"] == folder
    assert line["sentences_per_second"] > 0


def test_other_folders_and_texts_are_refused(exported, text, tmp_path, capfd):
    assert run_command(main, ["text", str(tmp_path), *text]) == 1
    assert f"{tmp_path}: must be an export" in capfd.readouterr().err
    (tmp_path / "short").write_text("one line\n")
    assert run_command(main, ["text", exported, *text[:3], str(tmp_path / "short")]) == 1
    assert f"Received: 1 and {len(LINES)} lines" in capfd.readouterr().err


def test_the_error_of_the_other_process_is_reported(text, tmp_path, capfd):
    (tmp_path / "options.json").write_text("{}")
    assert run_command(main, ["text", str(tmp_path), *text]) == 1
    assert "an export must load and translate" in capfd.readouterr().err.splitlines()[-1]
