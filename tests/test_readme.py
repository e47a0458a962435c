"""The README and the guides are right: examples run, all they name exists, the Korean agrees."""

import ast
import configparser
import contextlib
import functools
import gzip
import importlib
import importlib.util
import io
import operator
import platform
import random
import re
import tokenize
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest

from keras_transformer.export.model_card import _PURPOSES as SIGNATURES
from keras_transformer.search.scoring import score
from tests.documented_commands import MODEL, TINY, documents, tiny
from training.phrases.grammar import make_pairs
from training.settings import SETTING_NAMES, make_settings, read_settings_file

ROOT = Path(__file__).parent.parent
PAGES = documents()
ENGLISH, KOREAN = PAGES["README.md"], PAGES["README.ko.md"]
IN_PYTHON = PAGES["docs/python.md"]
OWN_TEXT = PAGES["docs/your_own_text.md"]
# The English page of each Korean one.
TRANSLATED = {
    "README.ko.md": "README.md",
    "docs/quick_start.ko.md": "docs/quick_start.md",
}
# The pages whose options and settings are checked one by one.
GUIDES = (
    "README.md",
    "docs/quick_start.md",
    "docs/your_own_text.md",
    "docs/python.md",
)

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


def table_headed(text, *heads):
    """Returns the rows of the text's only table with these heads."""
    [table] = [table for table in tables(text) if table[0] == list(heads)]
    return table[1:]


def links(text):
    """Returns the files that a text links to, without anchors."""
    found = re.findall(r"\]\(([^)#]+)|<img src=\"([^\"]+)\"", without_blocks(text))
    files = [markdown or html for markdown, html in found]
    return [file for file in files if not file.startswith("http")]


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
    """The first example, run with two numbers changed: its folder, shown values and names."""
    folder = tmp_path_factory.mktemp("readme")
    write_number_words(folder)
    code = replaced(
        blocks(ENGLISH, "python")[0], vocabulary_size=("10_000", "300"), epochs=("20", "2")
    )
    with contextlib.chdir(folder):
        names = {}
        return folder, run_as_typed(code, names), names


@pytest.mark.slow
def test_the_first_example_translates_and_exports(first_example):
    folder, (_, history, translations, exported), _ = first_example
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


def test_the_python_page_begins_with_the_readmes_example():
    assert blocks(IN_PYTHON, "python")[0] == blocks(ENGLISH, "python")[0]


def block_with(words, text=IN_PYTHON):
    """Returns the only Python block with these words."""
    [block] = [block for block in blocks(text, "python") if words in block]
    return block


def test_the_layers_of_the_python_page_classify_each_row_on_its_own():
    names = {}
    run_as_typed(block_with("classifier ="), names)
    rows = np.array([[5, 6, 7, 8, 9], [7, 4, 0, 0, 0], [7999, 1, 2, 3, 0]])
    classify = names["classifier"].predict
    together = classify(rows, verbose=0)
    alone = np.concatenate([classify(row[np.newaxis], verbose=0) for row in rows])
    assert together.shape == (3, 2)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def with_a_run(first_example):
    """The folder of the first example, with a run and the files that the guides name."""
    folder, _, names = first_example
    pairs = zip(EN_WORDS, DE_WORDS, strict=True)
    subtitles = "".join(f"{source}\t{target}\n" for source, target in pairs)
    (folder / "subtitles-1.tsv.gz").write_bytes(gzip.compress(subtitles.encode("utf-8")))
    for name in ("val.en", "test.en", "val.de", "test.de"):
        lines = (folder / f"train.{name[-2:]}").read_text(encoding="utf-8").splitlines()
        (folder / name).write_text("\n".join(lines[:5]) + "\n", encoding="utf-8")
    command = "train --config training/configs/multi30k_tiny.yaml"
    [command] = [line for line in TINY if line.startswith(command) and line.endswith(" runs/en-de")]
    words = tiny(command.replace("training/configs", str(ROOT / "training/configs")), MODEL)
    with contextlib.chdir(folder):
        importlib.import_module("training.train").main(words[1:])
    return folder, names


@pytest.mark.slow
def test_the_examples_of_the_python_page_run_in_order(with_a_run):
    folder, names = with_a_run
    shown = {}
    with contextlib.chdir(folder):
        for block in blocks(IN_PYTHON, "python")[1:]:
            if 'precision="int8"' in block and platform.machine() not in ("x86_64", "AMD64"):
                continue
            if "epochs=" in block:
                block = replaced(block, epochs=("20", "1"))
            shown[block] = run_as_typed(block, names)
    [score_of_given] = names["translator"].score(
        ["A man rides a bicycle."], ["Ein Mann fährt Fahrrad."]
    )
    assert score_of_given == (names["log_probability"], names["num_tokens"])
    [drawn] = shown[block_with("translator.sample(")]
    assert len(drawn[0]) == 3
    [prefixed] = shown[block_with("prefixes=")]
    assert prefixed[0].startswith("Ein Herr")
    tokens = names["attention"].source_tokens, names["attention"].target_tokens
    assert names["attention"].weights.shape[1:] == (len(tokens[1]), len(tokens[0]))


@pytest.mark.slow
def test_a_score_is_the_log_probability_divided_by_the_length_penalty(with_a_run):
    folder, names = with_a_run
    with contextlib.chdir(folder):
        translator = names["kt"].Translator.load("runs/en-de", length_penalty=0.6)
    tokenizer = translator.tokenizer
    source_ids = np.array([[*tokenizer.encode("one two three"), tokenizer.end_id]])
    found = translator.search(source_ids, beam_size=2, length_penalty=0.6)
    target_ids, start_id = found.token_ids[:, 0], tokenizer.start_id
    log_probability, length = score(
        translator.fast_model, source_ids, target_ids, start_id=start_id
    )
    assert "((5 + length) / 6) ** alpha" in IN_PYTHON
    assert "((5 + length) / 6) ** alpha" in OWN_TEXT
    expected = float(log_probability[0]) / ((5 + int(length[0])) / 6) ** 0.6
    np.testing.assert_allclose(found.scores[0, 0], expected, rtol=1e-4)


@pytest.mark.slow
def test_the_example_of_the_sites_home_exports(with_a_run):
    folder, _ = with_a_run
    with contextlib.chdir(folder):
        [_, exported] = run_as_typed(block_with("kt", PAGES["docs/index.md"]), {})
    assert (folder / exported / "saved_model.pb").is_file()


@pytest.mark.slow
def test_the_example_of_an_export_answers_as_the_live_translator(first_example):
    folder, (_, _, translations, _), _ = first_example
    with contextlib.chdir(folder):
        [served] = run_as_typed(block_with("served ="), {})
    assert [text.decode("utf-8") for text in served.numpy()] == translations


# Everything that is named exists


def rows_of_paths(text):
    """Returns the rows of the table of sections: all that name files of code."""
    rows = [row for table in tables(text) for row in table[1:]]
    return [row for row in rows if any(".py" in cell for cell in row)]


def paths_in(row):
    """Returns the paths between backquotes in a row, from the root."""
    found = []
    for name in spans(" ".join(row)):
        if not re.fullmatch(r"[\w./]+(\.py|/)", name):
            continue
        folder = "tests/" if Path(name).name.startswith("test_") else "keras_transformer/"
        found.append(name if name.startswith(folder) else folder + name)
    return found


def test_the_paper_page_names_files_that_exist_and_every_layer():
    paths = {path for row in rows_of_paths(PAGES["docs/paper.md"]) for path in paths_in(row)}
    assert [path for path in paths if not (ROOT / path).exists()] == []
    layers = ROOT.glob("keras_transformer/layers/[a-z]*.py")
    assert {path.relative_to(ROOT).as_posix() for path in layers} <= paths


def test_the_serving_page_has_a_row_for_each_signature():
    rows = [row for table in tables(PAGES["docs/serving.md"]) for row in table[1:]]
    assert {*SIGNATURES} <= {name for row in rows for name in spans(row[0])}


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_a_readme_is_short(name):
    assert len(PAGES[name].splitlines()) <= 180


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_every_link_of_a_readme_to_a_file_leads_to_one(name):
    assert "LICENSE" in links(PAGES[name])
    assert [file for file in links(PAGES[name]) if not (ROOT / file).exists()] == []


RESULTS = table_headed(ENGLISH, "what", "result", "details")


@pytest.mark.parametrize("row", RESULTS, ids=range(len(RESULTS)))
def test_every_result_links_to_a_page_with_its_figures(row):
    [page] = links(row[2])
    assert page.startswith("docs/")
    assert (ROOT / page).is_file()
    figures = re.findall(r"\d+\.\d+|\d{3,}", row[1])
    assert figures
    assert [figure for figure in figures if figure not in PAGES[page]] == []


def test_every_page_of_the_guide_is_in_the_readmes_list():
    rows = table_headed(ENGLISH, "page", "what it covers")
    listed = {name for row in rows for name in links(row[0])}
    # The README links to their counterparts outside docs/, or in its table of results.
    elsewhere = ("index", "changelog", "notebook", "security", "quality")
    guides = {name for name in PAGES if re.fullmatch(r"docs/\w+\.md", name)}
    assert guides - {f"docs/{name}.md" for name in elsewhere} <= listed


def test_every_settings_file_of_a_command_line_exists():
    for text in (PAGES[page] for page in GUIDES):
        named = re.findall(r"\btraining/configs/\w+\.yaml", text)
        assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_settings_file_that_a_guide_shows_is_valid(tmp_path):
    shown = blocks(OWN_TEXT, "yaml")
    assert shown
    for block in shown:
        (tmp_path / "settings.yaml").write_text(block, encoding="utf-8")
        make_settings(read_settings_file(tmp_path / "settings.yaml"))


def test_every_setting_in_a_table_exists():
    settings = [name for row in table_headed_first(OWN_TEXT, "setting") for name in spans(row[0])]
    assert len(settings) > 5
    assert [name for name in settings if name not in SETTING_NAMES] == []


def table_headed_first(text, head):
    """Returns the rows of all tables whose first column has this head."""
    return [row for table in tables(text) if table[0][0] == head for row in table[1:]]


COMMANDS = [
    spans(row[0])[0].removeprefix("training.") for row in table_headed_first(OWN_TEXT, "command")
]


def test_every_command_is_in_the_table_of_commands():
    modules = {path.stem for path in ROOT.glob("training/*.py")} - {"__init__", "settings"}
    assert {command.split()[0] for command in COMMANDS} == modules | {"experiments"}


def test_every_command_that_a_document_names_is_a_module():
    for text in PAGES.values():
        for name in {*re.findall(r"`(?:python -m )?training\.([a-z]\w*)", text)}:
            assert importlib.util.find_spec(f"training.{name}") is not None


def test_every_make_target_is_in_the_makefile():
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(blocks(ENGLISH, "sh") + spans(ENGLISH))))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= named <= set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))


def options_of(command_line):
    """Returns the options in a part of a command line, or in a cell of code."""
    return set(re.findall(r"(?<!\S)--[a-z-]+", command_line))


def main_of(command):
    """Returns the function of a command, and the name of its part, if it has parts."""
    name, *part = command.split()
    package = {"experiments": "experiments.__main__"}
    return importlib.import_module(f"training.{package.get(name, name)}").main, part


@functools.cache
def help_of(command):
    main, part = main_of(command)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit, match="0"):
        main([*part, "--help"])
    return set(re.findall(r"--[a-z][a-z0-9-]*", printed.getvalue()))


def options_by_command():
    """Returns the options that the guides use with each command, in blocks and tables."""
    uses = []
    for page in GUIDES:
        shell = "\n".join(blocks(PAGES[page], "sh")).replace("\\\n", " ")
        uses += re.findall(
            r"python -m training\.((?:benchmark|experiments) \w+|\w+)([^\n|]*)", shell
        )
    for command, what in table_headed(OWN_TEXT, "command", "what it does"):
        uses.append((spans(command)[0].removeprefix("training."), " ".join(spans(what))))
    for option, _ in table_headed(OWN_TEXT, "option of `training.translate`", "what it does"):
        uses.append(("translate", option.replace("`", " ").replace(",", " ")))
    found = {}
    for command, text in uses:
        found.setdefault(command, set()).update(options_of(text))
    return found


@pytest.mark.parametrize(("command", "options"), sorted(options_by_command().items()))
def test_every_option_of_a_command_is_in_its_help(command, options):
    assert options <= help_of(command)


@pytest.mark.parametrize("page", GUIDES)
def test_every_option_that_a_guide_names_is_an_option_of_a_command(page):
    known = set().union(*map(help_of, COMMANDS))
    named = {option for code in spans(PAGES[page]) for option in options_of(code)}
    assert named - {"--editable"} <= known


def test_every_dependency_has_a_line():
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = metadata["options.extras_require"]
    own = metadata["metadata"]["name"]
    lists = [metadata["options"]["install_requires"], *(extras[name] for name in extras)]
    lines = [line.strip() for text in lists for line in text.splitlines()]
    packages = {re.match(r"[\w-]+", line)[0] for line in lines if line and line[0] != "#"}
    page = PAGES["docs/dependencies.md"]
    assert {spans(row[0])[0] for row in table_headed(page, "package", "for", "why")} == (
        packages - {own}  # some extras include others of this project
    )
    assert set(re.findall(r"^- `(\w+)`:", page, re.MULTILINE)) == set(extras)


# The Korean pages

PAIRS = [(PAGES[english], PAGES[korean]) for korean, english in TRANSLATED.items()]
both = pytest.mark.parametrize(("english", "korean"), PAIRS, ids=TRANSLATED)


@both
def test_the_korean_code_differs_in_comments_only(english, korean):
    pair = [blocks(text, "python") for text in (english, korean)]
    assert [*map(without_python_comments, pair[0])] == [*map(without_python_comments, pair[1])]
    pair = [blocks(text, "sh") for text in (english, korean)]
    assert [*map(without_shell_comments, pair[0])] == [*map(without_shell_comments, pair[1])]
    assert len(blocks(english)) == len(blocks(korean))


@both
def test_the_korean_headings_match_in_number_and_level(english, korean):
    assert heading_levels(english) == heading_levels(korean)


def numbers_and_code(table):
    """Returns the code and numbers of each cell, and the files it links to, in English."""
    return [
        [(spans(cell), sorted(re.findall(r"\d[\d.,]*\d|\d", without_links(cell)))) for cell in row]
        for row in table
    ]


def without_links(text):
    return re.sub(r"\]\([^)]*\)", "]", text)


@both
def test_the_korean_tables_have_the_same_code_and_numbers(english, korean):
    pair = tables(english), tables(korean)
    assert len(pair[0]) == len(pair[1])
    for table, translated in zip(*pair, strict=True):
        assert numbers_and_code(table) == numbers_and_code(translated)


@both
def test_the_korean_page_links_to_the_same_files(english, korean):
    assert without_language(english) == without_language(korean)


def without_language(text):
    """Returns the files that a text links to, the same for a page in English and in Korean."""
    return {file.replace(".ko.md", ".md") for file in links(text)}


def test_the_two_readmes_link_to_each_other():
    assert "(README.ko.md)" in ENGLISH
    assert "(README.md)" in KOREAN
