"""How text is split into words for BLEU, and warnings where the split must be wrong."""

import dataclasses
import logging
import re
import shutil
import typing

import pytest
import yaml

import training.evaluate
from tests.training.conftest import WORDS, as_arguments, write_lines
from tests.training.small_run import SMALL
from training.command_line.errors import InputError, UsageError
from training.command_line.running import run_command
from training.runs.bleu_tokenizer import (
    are_unspaced,
    check_bleu_tokenizer,
    chosen_tokenizer,
)
from training.runs.folder import RunFolder
from training.runs.record import RunRecord
from training.runs.scores import score
from training.runs.validation_bleu import ValidationBleu
from training.settings import BleuTokenizer, TrainingSettings
from training.train import main as train_main
from training.tune import main as tune_main

SPACED = ["one two three four", "five six seven eight nine"]
CHINESE = ["我喜欢红色的苹果。", "他昨天去了图书馆。"]
JAPANESE = ["私はりんごが好きです。", "彼は昨日図書館へ行きました。"]
THAI = ["ฉันชอบกินแอปเปิลสีแดง", "เขาไปห้องสมุดเมื่อวานนี้"]
NAMES = typing.get_args(BleuTokenizer)


@pytest.mark.parametrize(
    ("lines", "tokenizer", "bleu"),
    [
        (SPACED, "13a", 100),
        (CHINESE, "13a", 0),  # each line is one word, which has no neighbours
        (CHINESE, "zh", 100),
        (JAPANESE, "char", 100),
        (THAI, "char", 100),
        (SPACED, "none", 100),
        (SPACED, "intl", 100),
    ],
)
def test_equal_text_scores_100_with_a_suitable_tokenizer(lines, tokenizer, bleu):
    scores = score(lines, lines, tokenizer)
    assert scores.bleu == pytest.approx(bleu)
    assert scores.chrf == pytest.approx(100)
    assert f"tok:{tokenizer}|" in scores.bleu_signature


def test_all_tokenizers_on_offer_are_sacrebleus_and_download_nothing():
    from sacrebleu.metrics import BLEU

    assert {*NAMES} == {*BLEU.TOKENIZERS} - {"spm", "flores101", "flores200", "spBLEU-1K"}


@pytest.mark.parametrize(
    ("lines", "is_unspaced"),
    [
        (CHINESE, True),
        (JAPANESE, True),
        (THAI, True),
        (SPACED, False),
        (["눈이 왔다.", "그는 어제 도서관에 갔다."], False),
        ([*CHINESE, "OK 123"], True),
        ([*CHINESE, "one two", "three four"], False),  # half of them is not most
        (["Yes", "No", "one two three"], False),  # single words are no sentences without spaces
        (["Yes", "No"], False),
        (["  \u3000我喜欢红色的苹果 "], True),  # only spaces between characters count
        (["", " "], False),
        ([], False),
    ],
)
def test_text_is_unspaced_if_most_of_its_longer_lines_are(lines, is_unspaced):
    assert are_unspaced(lines) == is_unspaced


@pytest.mark.parametrize(
    ("tokenized", "given", "chosen"),
    [
        (False, None, "zh"),
        (False, "char", "char"),
        (False, "none", "none"),
        (True, None, "none"),
        (True, "none", "none"),
    ],
)
def test_an_option_overrides_the_runs_setting(tokenized, given, chosen):
    assert chosen_tokenizer(tokenized, given, "zh") == chosen


def test_two_tokenizers_at_once_are_refused():
    message = r"--tokenized means --bleu-tokenizer none.* Received: --tokenized, --bleu-tok\S+ zh"
    with pytest.raises(UsageError, match=message):
        chosen_tokenizer(True, "zh", "13a")


@pytest.fixture
def without_mecab(monkeypatch):
    for name in ("ja", "ko"):
        module = pytest.importorskip(f"sacrebleu.tokenizers.tokenizer_{name}_mecab")
        monkeypatch.setattr(module, "MeCab", None)


@pytest.mark.parametrize(("language", "package"), [("ja", "mecab-python3"), ("ko", "mecab-ko")])
def test_a_tokenizer_without_its_packages_names_them(without_mecab, language, package):
    message = rf"needs the packages {package} and .* pip install 'sacrebleu\[{language}\]'"
    with pytest.raises(InputError, match=message):
        check_bleu_tokenizer(f"{language}-mecab")
    check_bleu_tokenizer("zh")


def one_line(capfd):
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_missing_package_is_named_before_any_work_begins(
    without_mecab, text_files, tmp_path, capfd
):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.write_record(RunRecord(TrainingSettings(bleu_tokenizer="ja-mecab"), {}))
    text = ["--source=absent", "--reference=absent"]
    assert run_command(training.evaluate.main, [str(run.path), *text]) == 1
    assert "pip install 'sacrebleu[ja]'" in one_line(capfd)
    options = as_arguments({**text_files, **SMALL, "bleu_tokenizer": "ko-mecab"})
    for main, more in ((train_main, []), (tune_main, ["--objective=val_bleu"])):
        assert run_command(main, [*options, *more, f"--output={tmp_path / 'new'}"]) == 1
        assert "pip install 'sacrebleu[ko]'" in one_line(capfd)
        assert not (tmp_path / "new").exists()


def test_tokenizers_that_download_a_model_are_not_offered(tmp_path, capfd):
    arguments = ["run", "--source=a", "--reference=b", "--bleu-tokenizer=flores200"]
    assert run_command(training.evaluate.main, arguments) == 2
    assert "--bleu-tokenizer must be one of 13a, zh, ja-mecab" in one_line(capfd)


class Echo:
    """A fake translator: a text is its own translation."""

    beam_size = 1
    length_penalty = 0.6
    length_normalization = "gnmt"
    precision = "float32"

    def translate(self, texts):
        return [*texts]

    def __call__(self, texts):
        return [*texts]


@pytest.fixture
def evaluate(monkeypatch, tmp_path, caplog, capfd):
    """Evaluates text against itself with a run; returns BLEU's line and the warnings."""
    monkeypatch.setattr(training.evaluate, "load_translator", lambda *_, **__: Echo())

    def run(lines, *options, **settings):
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir(exist_ok=True)
        folder.write_record(RunRecord(TrainingSettings(**settings), {}))
        write_lines(tmp_path / "text", lines)
        text = [f"--source={tmp_path / 'text'}", f"--reference={tmp_path / 'text'}"]
        with caplog.at_level(logging.WARNING):
            assert run_command(training.evaluate.main, [str(folder.path), *text, *options]) == 0
        bleu = re.search(r"BLEU (\S+)  \(.*tok:([^|]+)\|", capfd.readouterr().out)
        return (float(bleu[1]), bleu[2]), [record.getMessage() for record in caplog.records]

    return run


def test_a_run_is_evaluated_by_its_own_tokenizer(evaluate):
    assert evaluate(CHINESE, bleu_tokenizer="zh") == ((100.0, "zh"), [])
    assert evaluate(CHINESE, "--bleu-tokenizer=char", bleu_tokenizer="zh") == ((100.0, "char"), [])
    assert evaluate(SPACED, "--tokenized", bleu_tokenizer="zh") == ((100.0, "none"), [])


@pytest.mark.parametrize("options", [[], ["--tokenized"], ["--bleu-tokenizer=intl"]])
def test_references_without_spaces_cause_one_warning(evaluate, options):
    (bleu, _), [warning] = evaluate(JAPANESE, *options)
    assert bleu == 0
    assert warning.startswith("warning: most references contain no spaces")
    assert "choose --bleu-tokenizer zh, ja-mecab, ko-mecab or" in warning


def test_a_run_of_an_earlier_version_has_the_default(finished_run, tmp_path):
    shutil.copyfile(finished_run / "config.yaml", tmp_path / "config.yaml")
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del content["bleu_tokenizer"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    earlier, now = RunFolder(tmp_path).read_record(), RunFolder(finished_run).read_record()
    assert earlier.settings.bleu_tokenizer == "13a"
    assert now.differences(earlier) == []
    other = dataclasses.replace(now, settings=TrainingSettings(bleu_tokenizer="zh"))
    assert "bleu_tokenizer: 13a there, zh now" in other.differences(earlier)


def warnings_of_epochs(translations, references, tokenizer, caplog):
    callback = ValidationBleu(translations.pop, references, references, tokenizer)
    callback.translator = lambda texts: translations.pop(0)
    caplog.clear()
    logs = []
    with caplog.at_level(logging.WARNING):
        while translations:
            logs.append({})
            callback.on_epoch_end(len(logs) - 1, logs[-1])
    return logs, [record.getMessage() for record in caplog.records]


def test_bleu_that_stays_0_causes_one_warning(caplog):
    logs, [warning] = warnings_of_epochs([CHINESE] * 5, CHINESE, "13a", caplog)
    assert [line["val_bleu"] for line in logs] == [0] * 5
    assert [line["val_chrf"] for line in logs] == pytest.approx([100] * 5)
    assert "validation BLEU is still 0 after 3 epochs" in warning
    assert "bleu_tokenizer=13a" in warning
    assert "val_chrf" in warning


def test_bleu_above_0_causes_no_warning(caplog):
    nothing = ["", ""]
    epochs = [nothing, nothing, CHINESE, nothing, nothing, nothing]
    logs, warnings = warnings_of_epochs(epochs, CHINESE, "zh", caplog)
    assert [round(line["val_bleu"]) for line in logs] == [0, 0, 100, 0, 0, 0]
    assert warnings == []


LETTERS = dict(zip(WORDS, "一二三四五六七八九十", strict=True))


@pytest.fixture(scope="module")
def unspaced_arguments(text_files, tmp_path_factory):
    """The text of all tests, with targets in characters without spaces."""
    folder = tmp_path_factory.mktemp("unspaced")
    files = dict(text_files)
    for split in ("train", "validation"):
        with open(text_files[f"{split}_target"], encoding="utf-8") as file:
            lines = ["".join(LETTERS[word] for word in line.split()) + "。" for line in file]
        write_lines(folder / split, lines)
        files[f"{split}_target"] = str(folder / split)
    settings = {**SMALL, "validation_bleu": "true", "average_checkpoints": 1, "epochs": 4}
    return as_arguments({**files, **settings, "average_epochs": "best"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("monitor", "tokenizer"), [("val_bleu", "13a"), ("val_bleu", "char"), ("val_chrf", "13a")]
)
def test_the_first_epoch_is_not_kept_for_text_without_spaces(
    unspaced_arguments, tmp_path, caplog, monitor, tokenizer
):
    more = [f"--monitor={monitor}", f"--bleu-tokenizer={tokenizer}"]
    with caplog.at_level(logging.WARNING):
        output = f"--output={tmp_path / 'run'}"
        assert run_command(train_main, [*unspaced_arguments, *more, output]) == 0
    *epochs, final = RunFolder(tmp_path / "run").read_metrics()
    best = min(epochs, key=lambda line: (-line[monitor], line["val_perplexity"]))
    assert final["epochs"] == [best["epoch"]]
    assert best["epoch"] > 1
    assert {"val_bleu", "val_chrf"} <= final.keys()
    about_spaces = [record for record in caplog.records if "no spaces" in record.getMessage()]
    assert len(about_spaces) == (tokenizer == "13a")
