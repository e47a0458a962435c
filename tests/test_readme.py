"""README.md is right: its examples run, all it names exists, and README.ko.md agrees."""

import ast
import configparser
import contextlib
import importlib
import importlib.util
import io
import operator
import random
import re
import tokenize
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest

from training.phrases.grammar import make_pairs

ROOT = Path(__file__).parent.parent
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
KOREAN = (ROOT / "README.ko.md").read_text(encoding="utf-8")

EN_WORDS = "one two three four five six seven eight nine".split()
DE_WORDS = "eins zwei drei vier fünf sechs sieben acht neun".split()


# Reading Markdown


def blocks(text, language=r"\w*"):
    """Returns the contents of the fenced blocks."""
    return re.findall(rf"^```(?:{language})\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def without_blocks(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text):
    """Returns the texts between backquotes."""
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def tables(text):
    """Returns each table as rows of cells, without the line under its head."""
    found = re.findall(r"(?:^\|.*\|\n)+", without_blocks(text), re.MULTILINE)
    lines = [table.splitlines() for table in found]
    return [[cells(line) for line in table if set(line) - set("|-")] for table in lines]


def cells(line):
    return [cell.strip() for cell in line[1:-1].split("|")]


def table_headed(*heads):
    """Returns the rows of the README's only table with these heads."""
    [table] = [table for table in tables(ENGLISH) if table[0] == list(heads)]
    return table[1:]


def heading_levels(text):
    return [len(marks) for marks in re.findall(r"^(#+) ", without_blocks(text), re.MULTILINE)]


def without_python_comments(code):
    """Strips each line's comment and trailing white space."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = dict(token.start for token in tokens if token.type == tokenize.COMMENT)
    lines = enumerate(code.splitlines(), start=1)
    return [line[: comments.get(number)].rstrip() for number, line in lines]


def without_shell_comments(code):
    return [re.sub(r"(^|\s+)#.*", "", line) for line in code.splitlines()]


# Running the examples


def run_as_typed(code, names):
    """Runs a block like Python's prompt; returns the values that the prompt would show."""
    values = []
    statements = ast.Interactive(ast.parse(code).body)
    with mock.patch("sys.displayhook", values.append):
        exec(compile(statements, "README.md", "single"), names)
    return values


def replaced(code, **replacements):
    """Returns the code with each `name=old` replaced by `name=new`; each must occur once."""
    for name, (old, new) in replacements.items():
        assert code.count(f"{name}={old}") == 1
        code = code.replace(f"{name}={old}", f"{name}={new}")
    return code


def write_number_words(folder):
    """Writes number words in two languages with few lengths, which make one small batch."""
    generator = random.Random(3)
    rows = [generator.choices(range(9), k=generator.randint(2, 5)) for _ in range(60)]
    for name, words in (("train.en", EN_WORDS), ("train.de", DE_WORDS)):
        lines = [" ".join(words[number] for number in row) + "\n" for row in rows]
        (folder / name).write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def first_example(tmp_path_factory):
    """The first example, run with two numbers changed: its folder and shown values."""
    folder = tmp_path_factory.mktemp("readme")
    write_number_words(folder)
    code = replaced(
        blocks(ENGLISH, "python")[0], vocabulary_size=("10_000", "300"), epochs=("20", "2")
    )
    with contextlib.chdir(folder):
        return folder, run_as_typed(code, {})


@pytest.mark.slow
def test_the_first_example_translates_and_exports(first_example):
    folder, (_, history, translations, exported) = first_example
    assert history.epoch == [0, 1]
    assert np.isfinite(history.history["perplexity"]).all()
    [translation] = translations
    assert isinstance(translation, str)
    assert Path(exported) == Path("saved_models/en-de/1")
    assert (folder / exported / "saved_model.pb").is_file()


@pytest.mark.slow
def test_the_first_example_learns_to_translate_three_thousand_short_pairs(tmp_path):
    corpus = make_pairs(3000)
    for name, side in (("train.en", "source"), ("train.de", "target")):
        lines = [getattr(pair, side) + "\n" for pair in corpus.train]
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")
    keras.utils.set_random_seed(0)
    training, _ = blocks(ENGLISH, "python")[0].split("translator([")
    names = {}
    with contextlib.chdir(tmp_path):
        run_as_typed(training, names)
    found = names["translator"]([pair.source for pair in corpus.validation])
    right = [pair.target for pair in corpus.validation]
    assert sum(map(operator.eq, found, right)) > len(right) / 3


def test_the_layers_of_the_second_example_classify_each_row_on_its_own():
    names = {}
    run_as_typed(blocks(ENGLISH, "python")[1], names)
    rows = np.array([[5, 6, 7, 8, 9], [7, 4, 0, 0, 0], [7999, 1, 2, 3, 0]])
    classify = names["classifier"].predict
    together = classify(rows, verbose=0)
    alone = np.concatenate([classify(row[np.newaxis], verbose=0) for row in rows])
    assert together.shape == (3, 2)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_serving_example_answers_as_the_live_translator(first_example):
    folder, (_, _, translations, _) = first_example
    with contextlib.chdir(folder):
        [served] = run_as_typed(blocks(ENGLISH, "python")[2], {})
    assert [text.decode("utf-8") for text in served.numpy()] == translations


# Everything that is named exists


def named_paths(row):
    """Returns the paths in a row of the table of sections, from the root."""
    _, _, files, tests = row
    folders = ((files, "keras_transformer/"), (tests, "tests/"))
    return [folder + name for cell, folder in folders for name in spans(cell)]


SECTION_ROWS = table_headed("section", "what", "file", "test")


def test_every_file_of_the_table_of_sections_exists():
    paths = [path for row in SECTION_ROWS for path in named_paths(row)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_row_of_the_table_of_sections_names_a_file_and_its_test():
    for row in SECTION_ROWS:
        paths = named_paths(row)
        assert any(path.startswith("keras_transformer/") for path in paths), row
        assert any(path.startswith("tests/") for path in paths), row


def test_every_layer_is_in_the_readmes_table_of_sections():
    paths = {path for row in SECTION_ROWS for path in named_paths(row)}
    layers = ROOT.glob("keras_transformer/layers/[a-z]*.py")
    assert {path.relative_to(ROOT).as_posix() for path in layers} <= paths


def test_every_link_to_a_file_leads_to_one():
    for text in (ENGLISH, KOREAN):
        targets = re.findall(r"\]\(([^)#]+)", text)
        files = [target for target in targets if not target.startswith("http")]
        assert "LICENSE" in files
        assert [name for name in files if not (ROOT / name).exists()] == []


def test_every_settings_file_of_a_command_line_exists():
    names = re.findall(r"--config (\S+)", "\n".join(blocks(ENGLISH, "sh")))
    assert names
    assert [name for name in names if not (ROOT / name).is_file()] == []


def test_every_command_is_a_module():
    names = set(re.findall(r"\btraining\.(\w+)", ENGLISH))
    assert {"train", "evaluate", "translate", "export", "demo"} <= names
    assert [name for name in names if importlib.util.find_spec(f"training.{name}") is None] == []


def test_every_make_target_is_in_the_makefile():
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(blocks(ENGLISH, "sh") + spans(ENGLISH))))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= named <= set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))


def options_of(command_line):
    """Returns the options in a part of a command line, or in a cell of code."""
    return set(re.findall(r"(?<!\S)--[a-z-]+", command_line))


def options_by_command():
    """Returns the options that the README uses with each command, in blocks and the table."""
    shell = "\n".join(blocks(ENGLISH, "sh")).replace("\\\n", " ")
    uses = re.findall(r"python -m training\.((?:benchmark|experiments) \w+|\w+)([^\n|]*)", shell)
    for command, what in table_headed("command", "what it does"):
        uses.append((spans(command)[0].removeprefix("training."), " ".join(spans(what))))
    found = {}
    for command, text in uses:
        found.setdefault(command, set()).update(options_of(text))
    return found


@pytest.mark.parametrize(("command", "options"), sorted(options_by_command().items()))
def test_every_option_of_a_command_is_in_its_help(command, options, capsys):
    name, *first_arguments = command.split()
    package = {"experiments": "experiments.__main__"}
    module = importlib.import_module(f"training.{package.get(name, name)}")
    with pytest.raises(SystemExit, match="0"):
        module.main([*first_arguments, "--help"])
    known = set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))
    assert options <= known


def test_every_dependency_has_a_line():
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = metadata["options.extras_require"]
    used = [extras[name] for name in ("training", "tuner", "notebook", "serve", "grpc", "dev")]
    needed = [metadata["options"]["install_requires"], *used]
    lines = [line.strip() for text in needed for line in text.splitlines()]
    packages = {re.match(r"[\w-]+", line)[0] for line in lines if line and line[0] != "#"}
    packages = packages - {metadata["metadata"]["name"]} | {
        "jax"
    }  # dev includes this project's other extras
    assert {spans(row[0])[0] for row in table_headed("package", "for", "why")} == packages
    assert set(re.findall(r"^- `(\w+)`:", ENGLISH, re.MULTILINE)) == set(extras)


# The Korean README


def test_the_korean_code_differs_in_comments_only():
    english, korean = (blocks(text, "python") for text in (ENGLISH, KOREAN))
    assert [*map(without_python_comments, english)] == [*map(without_python_comments, korean)]
    english, korean = (blocks(text, "sh") for text in (ENGLISH, KOREAN))
    assert [*map(without_shell_comments, english)] == [*map(without_shell_comments, korean)]
    assert len(blocks(ENGLISH)) == len(blocks(KOREAN))


def test_the_korean_headings_match_in_number_and_level():
    assert heading_levels(ENGLISH) == heading_levels(KOREAN)


def numbers_and_code(table):
    return [[(spans(cell), re.findall(r"\d[\d.,]*", cell)) for cell in row] for row in table]


def test_the_korean_tables_have_the_same_code_and_numbers():
    english, korean = tables(ENGLISH), tables(KOREAN)
    assert len(english) == len(korean)
    for table, translated in zip(english, korean, strict=True):
        assert numbers_and_code(table) == numbers_and_code(translated)


def test_the_two_readmes_link_to_each_other():
    assert "(README.ko.md)" in ENGLISH
    assert "(README.md)" in KOREAN
