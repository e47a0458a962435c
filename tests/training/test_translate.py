import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import training.score
import training.translate
from training.command_line.arriving_lines import ArrivingLines, batches
from training.command_line.errors import InputError
from training.command_line.running import run_command
from training.runs.exported_translator import ExportedTranslator, find_version
from training.serving.saved_model import load_version

# A command whose translator writes upper case, the number of lines in its batch, and each line's
# number in the whole text.
CHILD = """
import sys
import training.translate
from training.command_line.running import run_command

class Shouting:
    beam_size = 3
    def translate(self, texts):
        return [f"{text.upper()} {len(texts)}" for text in texts]
    def n_best(self, texts, n):
        return [[(text.upper(), -1.0)] * n for text in texts]
    def sample(self, texts, n, *, first_place, **options):
        return [[(f"{text} {place}", -1.0)] * n for place, text in enumerate(texts, first_place)]

training.translate.load_translator = lambda *_, **__: Shouting()
training.translate._check_numbers = lambda options: None
sys.exit(run_command(training.translate.main, ["run", *sys.argv[1:]]))
"""


@contextlib.contextmanager
def child(*options):
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process, lines):
    process.stdin.write("".join(f"{line}\n" for line in lines).encode())
    process.stdin.flush()
    return [process.stdout.readline().decode().rstrip("\n") for _ in lines]


@pytest.mark.parametrize(
    ("options", "answers"),
    [
        ([], ["A 1", "B 1", "C 1"]),
        (["--scores"], ["-1.000000\tA", "-1.000000\tB", "-1.000000\tC"]),
        (["--n-best=2"], ["A\tA", "B\tB", "C\tC"]),
        (["--samples=1"], ["a 0", "b 1", "c 2"]),
    ],
)
def test_a_child_process_answers_each_line_while_its_input_stays_open(options, answers):
    with child(*options) as process:
        assert [ask(process, [line])[0] for line in "abc"] == answers


def test_lines_that_arrive_together_keep_their_order_and_share_large_batches():
    lines = [str(number) for number in range(5000)]
    with child("--batch-lines=700") as process:
        assert ask(process, ["a"]) == ["A 1"]
        answers, sizes = zip(*(line.split(" ") for line in ask(process, lines)), strict=True)
        process.stdin.write(b"the last one has no end")
        process.stdin.close()
        assert process.stdout.read().decode() == "THE LAST ONE HAS NO END 1\n"
        assert process.wait(60) == 0
    assert list(answers) == lines
    assert max(map(int, sizes)) <= 700


@pytest.mark.parametrize(
    ("closed", "options", "code", "written"),
    [
        ("2>&-", [], 0, b"A 1\n"),
        ("2>&-", ["--batch-lines=0"], 2, b""),
        (">&-", [], 1, b"error: stdout must be open. Received: closed. Give --output FILE.\n"),
        ("<&-", [], 1, b"error: stdin must be open. Received: closed. Give --input FILE.\n"),
    ],
)
def test_a_standard_stream_may_be_closed(closed, options, code, written):
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", CHILD, *options]
    root = Path(__file__).parents[2]
    process = subprocess.run(command, input=b"a\n", capture_output=True, cwd=root, check=False)
    assert (process.returncode, process.stdout + process.stderr) == (code, written)


@pytest.fixture
def pipe():
    """An ArrivingLines on a pipe, and the descriptor to write to."""
    reader, writer = os.pipe()
    yield ArrivingLines(reader), writer
    os.close(reader)
    with contextlib.suppress(OSError):
        os.close(writer)


def test_the_reader_knows_whether_a_pipe_has_another_line(pipe):
    lines, writer = pipe
    assert not lines.has_more()
    os.write(writer, b"a\nb\nc")
    assert lines.has_more()
    assert [next(lines), next(lines)] == [b"a\n", b"b\n"]
    assert not lines.has_more()  # the end of the third line has not come
    os.write(writer, b"d\r\n\xff")
    os.close(writer)
    assert lines.has_more()
    assert list(lines) == [b"cd\r\n", b"\xff"]
    assert not lines.has_more()


def test_batches_end_where_no_further_line_has_arrived(pipe):
    lines, writer = pipe
    in_turns = batches(lines, 3, lines.has_more)
    os.write(writer, b"1\n2\n3\n4\n")
    assert next(in_turns) == [b"1\n", b"2\n", b"3\n"]
    assert next(in_turns) == [b"4\n"]
    os.write(writer, b"5\n")
    os.close(writer)
    assert list(in_turns) == [[b"5\n"]]


def test_batches_of_lines_that_need_no_waiting_are_full():
    assert list(batches("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(batches([], 2)) == []


class Noting:
    """A fake translator that writes the prefix before the text."""

    beam_size = 3
    max_source_tokens, most_target_tokens = 4, 5

    def translate(self, texts, prefixes=None):
        return [
            (prefix or "") + text for text, prefix in zip(texts, prefixes or texts, strict=True)
        ]

    def n_best(self, texts, n, prefixes):
        return [[(text, -0.5)] * n for text in self.translate(texts, prefixes)]

    @property
    def tokenizer(self):
        return self

    source = target = tokenizer

    def encode(self, texts):
        return [text.split() for text in texts]

    def score(self, sources, targets):
        pairs = zip(sources, targets, strict=True)
        return [(-0.25 * len(source), len(target.split()) + 1) for source, target in pairs]


@pytest.fixture
def noting(monkeypatch):
    for module in (training.translate, training.score):
        monkeypatch.setattr(module, "load_translator", lambda *_, **__: Noting())


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def complaint(capfd):
    [line] = capfd.readouterr().err.splitlines()
    return line


def test_files_are_translated_with_prefixes_into_a_file(noting, write, tmp_path):
    out = tmp_path / "new" / "out"
    arguments = ["run", "--input", write("in", "a\n\nc\n"), "--output", str(out)]
    arguments += ["--prefixes", write("prefixes", "x\n\nz \n"), "--batch-lines=2"]
    assert run_command(training.translate.main, arguments) == 0
    assert out.read_text() == "xa\n\nz c\n"
    assert run_command(training.translate.main, [*arguments, "--n-best=2"]) == 1  # it is there
    assert run_command(training.translate.main, [*arguments, "--n-best=2", "--overwrite"]) == 0
    assert out.read_text() == "xa\txa\n\t\nz c\tz c\n"
    assert os.listdir(out.parent) == ["out"]


def test_a_file_of_blank_prefixes_has_no_effect(noting, write, tmp_path):
    arguments = ["run", "--input", write("in", "a\n"), "--prefixes", write("prefixes", "\n")]
    assert run_command(training.translate.main, [*arguments, f"--output={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out").read_text() == "a\n"


@pytest.mark.parametrize(
    ("prefixes", "received"),
    [("x\n", "1 prefixes and more lines"), ("x\n" * 3, "2 lines and more")],
)
def test_there_must_be_as_many_prefixes_as_lines(
    monkeypatch, write, tmp_path, capfd, prefixes, received
):
    monkeypatch.setattr(training.translate, "load_translator", None)  # it is not even loaded
    out = tmp_path / "out"
    arguments = ["run", "--input", write("in", "a\nb\n"), "--prefixes", write("p", prefixes)]
    assert run_command(training.translate.main, [*arguments, "--output", str(out)]) == 1
    assert f"there must be as many prefixes as lines. Received: {received}" in complaint(capfd)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input=absent"], "absent: must be a file that can be read"),
        (["--prefixes=absent"], "absent: must be a file that can be read"),
        (["--input=latin"], "latin:2: a line must be valid UTF-8"),
    ],
)
def test_an_unreadable_file_is_named_before_any_work(
    tmp_path, monkeypatch, capfd, options, message
):
    (tmp_path / "latin").write_bytes(b"a\ncaf\xe9\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training.translate, "load_translator", None)
    assert run_command(training.translate.main, ["run", *options]) == 1
    assert message in complaint(capfd)


def test_an_interrupted_translation_leaves_no_output_file(noting, tmp_path, write, monkeypatch):
    def fail(self, texts):
        raise InputError("no")

    monkeypatch.setattr(Noting, "translate", fail)
    arguments = ["run", "--input", write("in", "a\n"), "--output", str(tmp_path / "out")]
    assert run_command(training.translate.main, arguments) == 1
    assert os.listdir(tmp_path) == ["in"]


def test_an_input_file_is_not_overwritten(noting, write, capfd):
    path = write("in", "a\n")
    arguments = ["run", "--input", path, "--output", path, "--overwrite"]
    assert run_command(training.translate.main, arguments) == 1
    assert "--output and --input must be different files" in complaint(capfd)


def test_lines_at_once_must_be_one_or_more(capfd):
    assert run_command(training.translate.main, ["run", "--batch-lines=0"]) == 2
    assert "--batch-lines must be at least 1. Received: 0" in complaint(capfd)


def test_pairs_are_scored_line_by_line(noting, write, tmp_path, capfd):
    arguments = ["run", "--source", write("source", "a b\nccc\n"), "--batch-lines=1"]
    arguments += ["--target", write("target", "one two\nthree\n")]
    assert run_command(training.score.main, arguments) == 0
    assert capfd.readouterr().out == "-0.750000\t3\n-0.750000\t2\n"
    assert run_command(training.score.main, [*arguments, f"--output={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out").read_text() == "-0.750000\t3\n-0.750000\t2\n"


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a\nb\nc c c c\n", "a\nb\nc\n", "source:3: a line .* at most 4 tokens.* Received: 5"),
        ("a\nb\n", "a\n1 2 3 4 5\n", "target:2: a line .* at most 5 tokens.* Received: 6"),
        ("a\nb\n", "a\n", "must have the same number of lines"),
    ],
)
def test_pairs_that_cannot_be_scored_are_named(noting, write, capfd, source, target, message):
    arguments = ["--source", write("source", source), "--target", write("target", target)]
    assert run_command(training.score.main, ["run", *arguments, "--batch-lines=2"]) == 1
    assert re.search(message, complaint(capfd))


def test_a_run_gives_the_same_scores_as_its_translator(finished_run, write, capfd):
    from keras_transformer.translator import Translator

    files = ["--source", write("source", "one two\nthree\n"), "--target", write("t", "two\none\n")]
    assert run_command(training.score.main, [str(finished_run), *files]) == 0
    lines = [line.split("\t") for line in capfd.readouterr().out.splitlines()]
    expected = Translator.load(finished_run).score(["one two", "three"], ["two", "one"])
    assert [int(num_tokens) for _, num_tokens in lines] == [num for _, num in expected]
    found = [float(log_probability) for log_probability, _ in lines]
    assert found == pytest.approx([log_probability for log_probability, _ in expected], abs=1e-5)


def test_the_latest_version_of_an_export_is_found(tmp_path):
    for version in ("2", "10", "9.unfinished", "old"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    (tmp_path / "11").mkdir()  # which has no model yet
    assert find_version(str(tmp_path)) == tmp_path / "10"
    assert find_version(str(tmp_path / "2")) == tmp_path / "2"
    assert find_version(str(tmp_path / "11")) is None
    assert find_version(str(tmp_path / "absent")) is None


TEXTS = ["one two", "", "three four five six"]


def test_an_export_translates_like_its_translator(exported, served_translator):
    translator = ExportedTranslator(Path(exported))
    assert translator.beam_size == served_translator.beam_size
    assert translator.translate(TEXTS) == served_translator.translate(TEXTS)
    found, expected = translator.n_best(TEXTS, 2), served_translator.n_best(TEXTS, 2)
    assert [[text for text, _ in row] for row in found] == [
        [text for text, _ in row] for row in expected
    ]
    assert found[1] == [("", 0.0)]
    greedy = ExportedTranslator(Path(exported), greedy=True)
    assert greedy.translate(TEXTS) == served_translator.translate(TEXTS, beam_size=1)


def test_loading_and_using_an_export_prints_nothing(exported, capfd):
    ExportedTranslator(Path(exported)).translate(["one"])
    load_version(exported, 1)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("depth", ["folder", "version"])
def test_the_command_line_can_translate_with_an_export(
    exported, served_translator, write, tmp_path, depth
):
    path = Path(exported).parent if depth == "folder" else exported
    arguments = [str(path), "--input", write("in", "\n".join(TEXTS) + "\n")]
    arguments += ["--output", str(tmp_path / "out")]
    assert run_command(training.translate.main, arguments) == 0
    assert (tmp_path / "out").read_text().splitlines() == served_translator.translate(TEXTS)


@pytest.mark.parametrize(
    "options",
    [
        ["--beam-size=2"],
        ["--samples=2"],
        ["--precision=int8"],
        ["--length-penalty=1"],
        ["--beam-size=1", "--prefixes=prefixes"],
    ],
)
def test_options_that_an_export_does_not_support_are_refused(
    exported, write, tmp_path, monkeypatch, capfd, options
):
    write("prefixes", "a\n")
    monkeypatch.chdir(tmp_path)
    assert run_command(training.translate.main, [exported, *options, "--threads=null"]) == 1
    line = complaint(capfd)
    assert "an export supports only its own beam search" in line
    assert f"Received: {options[0].split('=')[0]}. Leave that out" in line


PREFIXES = ["the ", "", "a dog sees"]


def test_an_export_uses_prefixes_like_its_run(exported, served_translator, write, tmp_path):
    arguments = [exported, "--input", write("in", "\n".join(TEXTS) + "\n"), "--output"]
    prefixes = ["--prefixes", write("prefixes", "\n".join(PREFIXES) + "\n")]
    for name, options in (("one", []), ("two", ["--n-best=2", "--batch-lines=2"])):
        assert (
            run_command(
                training.translate.main, [*arguments, str(tmp_path / name), *prefixes, *options]
            )
            == 0
        )
    expected = served_translator.translate(TEXTS, prefixes=PREFIXES)
    assert (tmp_path / "one").read_text().splitlines() == expected
    assert expected[0].startswith("the ")
    pairs = served_translator.n_best(TEXTS, 2, prefixes=PREFIXES)
    expected = ["\t".join(text.replace("\t", " ") for text, _ in row) for row in pairs]
    assert (tmp_path / "two").read_text().splitlines() == expected


def test_a_prefix_that_an_export_refuses_gives_a_clear_error(exported, write, capfd):
    files = ["--input", write("in", "a\n"), "--prefixes", write("prefixes", "x" * 89 + "\n")]
    assert run_command(training.translate.main, [exported, *files]) == 1
    message = r"error: A prefix must have at most 88 tokens\. Received: 89\. Shorten it, .*[^\]]$"
    assert re.search(message, complaint(capfd))


def test_an_export_of_an_earlier_version_refuses_prefixes_with_a_reason(write, capfd):
    earlier = str(Path(__file__).parents[1] / "earlier_files" / "float32_export")
    files = ["--input", write("in", "a\n"), "--prefixes", write("prefixes", "a\n")]
    assert run_command(training.translate.main, [earlier, *files]) == 1
    message = r"must have the signature n_best_from_prefix\. Received: .*Export the run again with"
    assert re.search(message, complaint(capfd))
