import gzip
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

import training.evaluate
import training.export
import training.translate
from keras_transformer.data import read_lines
from keras_transformer.export.verification import HARD_TEXTS
from tests.training.small_run import once
from training.command_line.arriving_lines import batches
from training.command_line.lines import read_text_lines, translated
from training.command_line.running import run_command
from training.export import read_evaluation
from training.runs.folder import RunFolder
from training.runs.record import RunRecord
from training.runs.scores import score
from training.runs.translator import load_translator
from training.settings import TrainingSettings


class Shouting:
    """A fake translator that writes upper case, with marks on the next best translations."""

    beam_size = 3
    length_penalty = 0.6
    length_normalization = "length"
    precision = "int8"

    def translate(self, texts):
        return [text.upper() for text in texts]

    def n_best(self, texts, n):
        return [[(text.upper() + "!" * rank, -0.5 * rank) for rank in range(n)] for text in texts]

    def sample(self, texts, n, *, first_place, **options):
        return [
            [(f"{text.upper()}{place}{options}", -1.0)] * n
            for place, text in enumerate(texts, start=first_place)
        ]


@pytest.fixture
def shouting(monkeypatch):
    for module in (training.translate, training.evaluate):
        monkeypatch.setattr(module, "load_translator", lambda *_, **__: Shouting())


@pytest.fixture
def translate(monkeypatch, capfdbinary):
    """Runs `training.translate` over bytes; returns its exit code, stdout and stderr."""

    def run(stdin, *arguments):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run_command(training.translate.main, list(arguments))
        out, err = capfdbinary.readouterr()
        return code, out, err.decode("utf-8")

    return run


def one_line(capfd):
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("stdin", "stdout"),
    [
        (b"", b""),
        (b"a\n", b"A\n"),
        (b"a\nb", b"A\nB\n"),
        (b"\na\n\n", b"\nA\n\n"),
        (b"a\r\nb\r\n", b"A\nB\n"),
        ("a\u2028b\x0cc\rd\n".encode(), "A\u2028B\x0cC\rD\n".encode()),
    ],
)
def test_each_input_line_gives_one_output_line(shouting, translate, stdin, stdout):
    assert translate(stdin, "run") == (0, stdout, "")


def test_several_translations_share_the_line_of_their_source(shouting, translate):
    code, out, _ = translate(b"a\nb\n", "run", "--n-best", "2")
    assert (code, out) == (0, b"A\tA!\nB\tB!\n")


def test_each_score_precedes_its_translation(shouting, translate):
    code, out, _ = translate(b"a\n", "run", "--n-best=2", "--scores")
    assert (code, out) == (0, b"-0.000000\tA\t-0.500000\tA!\n")


def test_samples_depend_on_the_lines_number_in_the_whole_text(shouting, translate, monkeypatch):
    monkeypatch.setattr(training.translate, "LINES_AT_ONCE", 2)
    code, out, _ = translate(
        b"a\nb\nc\n", "run", "--samples=2", "--top-k=5", "--seed=3", "--temperature=0.5"
    )
    options = "{'temperature': 0.5, 'top_k': 5, 'top_p': None, 'seed': 3}"
    lines = [f"{text}{place}{options}" for place, text in enumerate("ABC")]
    assert code == 0
    assert out.decode().splitlines() == [f"{line}\t{line}" for line in lines]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--samples=0", "--samples must be at least 1. Received: 0"),
        ("--seed=-1", "--seed must be at least 0. Received: -1"),
        ("--temperature=0", "--temperature must be more than 0, and finite. Received"),
        ("--top-k=0", "--top-k must be at least 1. Received"),
        ("--top-p=2", "--top-p must be more than 0 and at most 1. Received"),
    ],
)
def test_wrong_sampling_options_are_reported_in_one_line(shouting, translate, option, message):
    code, out, err = translate(b"a\n", *once(["run", "--samples=1", option]))
    assert (code, out) == (1, b"")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1


def test_a_tab_in_a_translation_does_not_start_a_column(shouting, translate):
    assert translate(b"a\tb\n", "run", "--n-best=2")[1] == b"A B\tA B!\n"
    assert translate(b"a\tb\n", "run")[1] == b"A\tB\n"


def test_bytes_that_are_not_utf_8_are_named_with_their_line(shouting, translate):
    code, _, err = translate(b"a\nb\nc\xff\n", "run")
    assert code == 1
    assert err == (
        "error: <stdin>:3: the text must be UTF-8. Received: the byte 0xff at position 1. Convert"
        " it to UTF-8.\n"
    )


@pytest.mark.parametrize("n_best", ["0", "4"])
def test_n_best_must_fit_the_beam(shouting, translate, n_best):
    code, _, err = translate(b"a\n", "run", "--n-best", n_best)
    assert code == 1
    assert f"--n-best must be 1 to the beam size. Received: --n-best {n_best}, beam size 3" in err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--beam-size=0", "--beam-size must be at least 1. Received: 0"),
        ("--length-penalty=-1", "--length-penalty must be at least 0 and finite. Received: -1.0"),
    ],
)
def test_search_options_out_of_range_are_reported_in_one_line(
    finished_run, translate, option, message
):
    code, _, err = translate(b"a\n", str(finished_run), option)
    assert code == 1
    assert message in err


def test_lines_of_a_stream_equal_those_of_a_file(tmp_path):
    for mark in (b"", b"\xef\xbb\xbf"):
        text = mark + b"a\rb\r\r\n\nc\r"
        (tmp_path / "text").write_bytes(text)
        found = list(read_text_lines(io.BytesIO(text)))
        assert found == read_lines(tmp_path / "text") == ["a\rb\r", "", "c\r"]


def test_a_byte_order_mark_is_not_translated(shouting, translate):
    assert translate(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", "run") == (0, b"A\n\xef\xbb\xbfB\n", "")
    assert translate(b"\xef\xbb\xbf", "run") == (0, b"", "")


def test_compressed_input_in_a_stream_is_recognized(shouting, translate):
    code, _, err = translate(gzip.compress(b"text\n"), "run")
    assert code == 1
    assert "<stdin>:1: the text must be UTF-8. Received: a file in gzip format. Unpack it" in err


def test_a_byte_order_mark_does_not_change_scores(finished_run, shouting, tmp_path):
    for name, mark in (("plain", b""), ("marked", b"\xef\xbb\xbf")):
        (tmp_path / name).write_bytes(mark + b"A B C D E\n")
    for source, reference in itertools.product(("plain", "marked"), repeat=2):
        scores = tmp_path / f"{source}_{reference}.json"
        texts = [f"--source={tmp_path / source}", f"--reference={tmp_path / reference}"]
        arguments = [str(finished_run), *texts, f"--json={scores}"]
        assert run_command(training.evaluate.main, arguments) == 0
        assert json.loads(scores.read_text())["bleu"] == pytest.approx(100)


def test_lines_are_read_only_when_needed():
    def endless():
        number = 0
        while True:
            yield str(number)
            number += 1

    sizes = []

    def translate(texts):
        sizes.append(len(texts))
        return texts

    parts = translated(translate, batches(endless(), 5))
    assert [next(parts) for _ in range(2)] == [list("01234"), list("56789")]
    assert sizes == [5, 5]


def test_equal_text_scores_100():
    scores = score(["a b c d e"], ["a b c d e"])
    assert scores.bleu == pytest.approx(100)
    assert scores.chrf == pytest.approx(100)
    assert scores.num_sentences == 1


def test_bleu_is_the_geometric_mean_of_four_precisions():
    # Of the n-grams, 4 of 5, 3 of 4, 2 of 3 and 1 of 2 are right; the length is right.
    scores = score(["a b c d e"], ["a b c d f"])
    assert scores.bleu == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4))


def test_tokenized_text_is_scored_unchanged():
    hypotheses, references = ["a b c d e ."], ["a b c d e."]
    cased = score(hypotheses, references)
    tokenized = score(hypotheses, references, "none")
    assert cased.bleu == pytest.approx(100)  # sacreBLEU splits off the full stop
    # Against the five words "a b c d e." 4 of 6, 3 of 5, 2 of 4 and 1 of 3 are right.
    assert tokenized.bleu == pytest.approx(100 * (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4))
    assert "tok:13a" in cased.bleu_signature
    assert "tok:none" in tokenized.bleu_signature


@pytest.fixture
def evaluate_arguments(tmp_path):
    (tmp_path / "source").write_text("a b c d e\nx y z v w\n")
    (tmp_path / "reference").write_text("A B C D E\nX Y Z V U\n")
    run = RunFolder(tmp_path / "run of the defaults")
    run.path.mkdir()
    run.write_record(RunRecord(TrainingSettings(), {}))
    text = [f"--source={tmp_path / 'source'}", f"--reference={tmp_path / 'reference'}"]
    return [str(run.path), *text]


def test_the_json_has_the_documented_keys(shouting, evaluate_arguments, tmp_path, capfd):
    out = tmp_path / "scores.json"
    assert run_command(training.evaluate.main, [*evaluate_arguments, f"--json={out}"]) == 0
    content = json.loads(out.read_text())
    # 9 of 10 words, 7 of 8 pairs, 5 of 6 triples, 3 of 4 quadruples.
    bleu = 100 * (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** (1 / 4)
    assert content["bleu"] == pytest.approx(bleu)
    assert content["bleu_signature"].startswith("nrefs:1|case:mixed|")
    assert 0 < content["chrf"] < 100
    assert content["num_sentences"] == 2
    assert content["beam_size"] == 3
    assert content["length_penalty"] == 0.6
    assert (content["length_normalization"], content["precision"]) == ("length", "int8")
    assert content["seconds"] >= 0
    assert capfd.readouterr().out.startswith(f"BLEU {bleu:.2f}")


def test_the_translations_can_be_kept(shouting, evaluate_arguments, tmp_path):
    out = tmp_path / "hypotheses"
    assert run_command(training.evaluate.main, [*evaluate_arguments, f"--hypotheses={out}"]) == 0
    assert out.read_text() == "A B C D E\nX Y Z V W\n"


@pytest.mark.parametrize("name", ["#s.json", "&x", "~", "1e3", " s ", "a=b", "[a]", "yes"])
def test_results_are_written_to_the_given_files(
    shouting, evaluate_arguments, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    options = ["--json", name, f"--hypotheses={name}.txt"]
    assert run_command(training.evaluate.main, [*evaluate_arguments, *options]) == 0
    assert json.loads((tmp_path / name).read_text())["num_sentences"] == 2
    assert (tmp_path / f"{name}.txt").read_text() == "A B C D E\nX Y Z V W\n"


@pytest.mark.parametrize("option", ["--json", "--hypotheses"])
def test_a_result_is_not_overwritten_without_the_option(
    shouting, evaluate_arguments, tmp_path, capfd, option
):
    out = tmp_path / "out"
    out.write_text("old")
    arguments = [*evaluate_arguments, f"{option}={out}"]
    assert run_command(training.evaluate.main, arguments) == 1
    assert "out: the output must not exist. Received: an existing file." in one_line(capfd)
    assert out.read_text() == "old"
    assert run_command(training.evaluate.main, [*arguments, "--overwrite"]) == 0
    assert out.read_text() != "old"


def test_files_of_different_length_are_reported_in_one_line(
    shouting, evaluate_arguments, tmp_path, capfd
):
    (tmp_path / "reference").write_text("one\n")
    assert run_command(training.evaluate.main, evaluate_arguments) == 1
    assert "must have the same number of lines. Received: 2 and 1 lines" in one_line(capfd)


def damaged(finished_run, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    if damage == "no run":
        shutil.rmtree(run)
    elif damage == "no model":
        (run / "model.keras").unlink()
    elif damage == "other version":
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("format_version: 2", "format_version: 9"))
    else:
        os.truncate(run / damage, (run / damage).stat().st_size // 2)
    return str(run)


DAMAGES = [
    ("no run", r"a run folder must hold config.yaml"),
    ("no model", r"a finished run must hold model.keras. Received: no such file"),
    ("other version", r"must be version 2. Received: format_version=9"),
    ("config.yaml", r"config.yaml"),
    ("tokenizer.model", r"tokenizer.model: "),
    ("model.keras", r"model.keras: must be as checksums.json lists it"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_run_is_reported_in_one_line(
    finished_run, tmp_path, evaluate_arguments, capfd, damage, message
):
    run = damaged(finished_run, tmp_path, damage)
    for main, more in (
        (training.translate.main, []),
        (training.evaluate.main, evaluate_arguments[1:]),
        (training.export.main, [str(tmp_path / "saved")]),
    ):
        assert run_command(main, [run, *more]) == 1
        assert message in one_line(capfd)
    assert not (tmp_path / "saved").exists()


@pytest.fixture(scope="module")
def translator(finished_run):
    return load_translator(str(finished_run))


@pytest.fixture
def loaded(monkeypatch, translator):
    for module in (training.translate, training.evaluate, training.export):
        monkeypatch.setattr(module, "load_translator", lambda *_, **__: translator)


def test_the_runs_own_search_is_used_unless_another_is_given(finished_run, translator):
    assert (translator.beam_size, translator.length_penalty) == (3, 0.6)
    other = load_translator(str(finished_run), beam_size=2, length_penalty=0.0)
    assert (other.beam_size, other.length_penalty) == (2, 0.0)


def test_a_run_translates_in_a_given_precision_and_normalization(finished_run):
    other = load_translator(str(finished_run), precision="int8", length_normalization="length")
    assert (other.precision, other.length_normalization) == ("int8", "length")
    assert len(other(["one two", "three"])) == 2


def test_a_trained_run_translates_line_by_line(loaded, translate):
    code, out, _ = translate(b"one two\n\nthree", "run")
    lines = out.decode("utf-8").split("\n")
    assert code == 0
    assert len(lines) == 4
    assert lines[0]
    assert lines[1] == lines[3] == ""


def test_a_trained_run_is_evaluated(loaded, finished_run, text_files, tmp_path):
    arguments = [str(finished_run), f"--source={text_files['validation_source']}"]
    arguments += [f"--reference={text_files['validation_target']}", f"--json={tmp_path / 'json'}"]
    assert run_command(training.evaluate.main, arguments) == 0
    content = json.loads((tmp_path / "json").read_text())
    assert content["num_sentences"] == 20
    assert 0 <= content["bleu"] <= 100


@pytest.mark.slow
def test_exporting_a_trained_run_prints_the_folder_and_writes_a_model_card(
    loaded, finished_run, text_files, evaluate_arguments, tmp_path, capfd
):
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text(json.dumps(EVALUATION))
    arguments = [str(finished_run), str(tmp_path / "saved"), f"--evaluation={evaluation}"]
    assert run_command(training.export.main, [*arguments, "--description=Words, reversed"]) == 0
    version = tmp_path / "saved" / "1"
    num_texts = len(HARD_TEXTS) + 20
    assert capfd.readouterr().out == (
        "writing the export and comparing it with the run: a minute or two\n"
        f"verified: {num_texts} texts, the same answers as before the export\nexported: {version}\n"
    )
    assert (version / "saved_model.pb").exists()
    card = json.loads((version / "model.json").read_text())
    assert card["description"] == "Words, reversed"
    assert card["evaluation"] == EVALUATION
    trained = card["training"]
    assert trained["num_pairs"] == 150
    assert trained["settings"]["model_dim"] == 12
    assert trained["epochs"] == 3
    assert trained["steps"] > 3
    assert trained["val_perplexity"] > 1
    sha256 = hashlib.sha256(Path(text_files["train_source"]).read_bytes()).hexdigest()
    assert trained["data_sha256"]["train_source"] == sha256
    readme = (version / "README.md").read_text()
    assert "150 sentence pairs" in readme
    assert "12.35 on 7 sentences (`nrefs:1`)" in readme


EVALUATION = {"bleu": 12.345678, "bleu_signature": "nrefs:1", "num_sentences": 7}


@pytest.fixture
def exports(monkeypatch, loaded):
    """Records the arguments of `export_saved_model`, which exports nothing."""
    calls = []

    def export(translator, directory, **options):
        calls.append(options)
        return f"{directory}/1"

    monkeypatch.setattr("keras_transformer.export.saved_model.export_saved_model", export)
    return calls


def test_an_export_is_verified_with_the_given_text(exports, finished_run, tmp_path):
    (tmp_path / "texts").write_text("".join(f"text {number}\n" for number in range(30)))
    arguments = [str(finished_run), str(tmp_path), f"--verify-texts={tmp_path / 'texts'}"]
    assert run_command(training.export.main, arguments) == 0
    [options] = exports
    texts = [f"text {number}" for number in range(20)]
    assert options["verify_texts"] == [*HARD_TEXTS, *texts]


def test_without_the_validation_text_an_export_is_verified_with_hard_texts(
    exports, finished_run, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    config, metrics = run / "config.yaml", run / "metrics.jsonl"
    config.write_text(
        re.sub("validation_source: .*/", f"validation_source: {tmp_path}/", config.read_text())
    )
    # Like runs of earlier versions, which did not count their pairs.
    metrics.write_text(re.sub(', "num_pairs": 150', "", metrics.read_text()))
    assert run_command(training.export.main, [str(run), str(tmp_path / "saved")]) == 0
    [options] = exports
    assert options["verify_texts"] == list(HARD_TEXTS)
    assert "num_pairs" not in options["about"]["training"]
    assert options["about"]["training"]["averaged_epochs"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"bleu": "high", "num_sentences": 3, "bleu_signature": ""}']
)
def test_a_file_that_is_not_an_evaluation_is_refused(
    exports, finished_run, tmp_path, capfd, content
):
    (tmp_path / "json").write_text(content)
    arguments = [str(finished_run), str(tmp_path), f"--evaluation={tmp_path / 'json'}"]
    assert run_command(training.export.main, arguments) == 1
    assert "json: an evaluation must be the JSON that `training.evaluate" in one_line(capfd)
    assert exports == []


def test_an_evaluation_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "json").write_text(json.dumps(EVALUATION), encoding="utf-8-sig")
    assert read_evaluation(str(tmp_path / "json")) == EVALUATION


@pytest.mark.parametrize("option", ["--evaluation", "--verify-texts"])
def test_a_pipe_is_refused_without_waiting(exports, finished_run, tmp_path, capfd, option):
    os.mkfifo(tmp_path / "fifo")
    arguments = [str(finished_run), str(tmp_path), f"{option}={tmp_path / 'fifo'}"]
    assert run_command(training.export.main, arguments) == 1
    assert "fifo: must be a regular file, " in one_line(capfd)
    assert exports == []


def test_a_file_without_text_verifies_nothing(exports, finished_run, tmp_path, capfd):
    (tmp_path / "empty").write_text("")
    arguments = [str(finished_run), str(tmp_path), f"--verify-texts={tmp_path / 'empty'}"]
    assert run_command(training.export.main, arguments) == 1
    assert "empty: must hold at least one line of text. Received: an empty file." in one_line(capfd)
    assert exports == []
