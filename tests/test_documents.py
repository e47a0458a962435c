"""The documents' site: it builds without warnings, and leaves nothing public out."""

import html
import html.parser
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_transformer as kt
from training.settings import FIELDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
needs_site = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="the extra `docs` is not installed"
)


# Docstrings


def own_methods(name):
    """Returns what a public class adds to the interface of its base classes, by name."""
    kind = getattr(kt, name)
    if not inspect.isclass(kind):
        return {}
    inherited = {member for base in kind.__mro__[1:] for member in vars(base)}
    return {
        f"{name}.{member}": value
        for member, value in vars(kind).items()
        if not member.startswith("_")
        and member not in inherited
        # The fields of records are described by their class.
        and isinstance(value, property | classmethod | staticmethod | type(own_methods))
    }


METHODS = {name: value for public in kt.__all__ for name, value in own_methods(public).items()}


@pytest.mark.parametrize("name", kt.__all__)
def test_every_public_name_has_a_docstring(name):
    assert getattr(kt, name).__doc__.partition("\n")[0].strip()


@pytest.mark.parametrize("name", METHODS)
def test_every_public_method_has_a_docstring(name):
    assert (METHODS[name].__doc__ or "").partition("\n")[0].strip()


# The sources of the pages


def test_the_reference_has_one_entry_for_each_public_name():
    pages = [path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")]
    entries = re.findall(r"^::: keras_transformer\.(\w+)$", "\n".join(pages), re.MULTILINE)
    assert sorted(entries) == sorted(kt.__all__)


def named_files(page):
    """Returns the paths of files and folders in backquotes."""
    text = (DOCS / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return {
        name
        for name in re.findall(r"`([^`\s]+)`", text)
        if re.search(r"\w\.(py|yaml|yml|txt|cfg|lock|ipynb)$|^[\w/]+/$", name)
    } - {"config.yaml"}  # of a run folder


@pytest.mark.parametrize("page", ["paper.md", "architecture.md"])
def test_the_files_that_a_page_names_exist(page):
    names = named_files(page)
    assert len(names) > 30
    folders = (ROOT, ROOT / "keras_transformer", ROOT / "tests")
    missing = {
        name
        for name in names - {"saved_models/NAME/VERSION/"}
        if not any((folder / name).exists() for folder in folders)
    }
    assert missing == set()


def test_the_architecture_page_has_a_row_for_each_folder():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    _, _, rooms = text.partition("## The folders")
    rooms, _, _ = rooms.partition("\n## ")
    folders = {
        f"{path.relative_to(ROOT).as_posix()}/"
        for package in ("keras_transformer", "training")
        for path in (ROOT / package).iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert {*re.findall(r"^\| `([\w/]+)`", rooms, re.MULTILINE)} == folders


def test_the_architecture_page_answers_at_least_25_questions():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    questions, _, _ = text.partition("## The folders")
    assert questions.count("\n| ") >= 25 + questions.count("| to change | open |")


# The built site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stderr[-5000:]
    assert "WARNING" not in process.stderr
    return folder


def plain(text):
    """Returns text without tags, and with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def sections(site, page):
    """Returns the HTML of a page's sections, by the id of their headings."""
    text = (site / page).read_text(encoding="utf-8")
    parts = re.split(r'<h[1-6] id="([^"]+)"', text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@needs_site
def test_every_public_name_and_method_is_in_the_built_reference(site):
    pages = (site / "reference").glob("*.html")
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    anchors = {*re.findall(r'id="keras_transformer\.([\w.]+)"', text)}
    assert {*kt.__all__} | METHODS.keys() <= anchors


@needs_site
def test_the_list_of_names_gives_each_its_first_sentence(site):
    text = plain((site / "reference" / "index.html").read_text(encoding="utf-8"))
    for name in kt.__all__:
        paragraph, _, _ = inspect.getdoc(getattr(kt, name)).partition("\n\n")
        assert f"kt.{name} {' '.join(paragraph.replace('`', '').split())}" in text


@needs_site
def test_docstrings_leave_no_markup_of_their_own_on_the_page(site):
    for path in (site / "reference").glob("*.html"):
        text = re.sub(r"<details.*?</details>", "", path.read_text("utf-8"), flags=re.DOTALL)
        assert not re.findall(r"<p>(?:Source|Deviation|Args|Call arguments|Returns):", text), path


def command_modules():
    commands = [path for path in (ROOT / "training").glob("*.py") if path.stem != "__init__"]
    return {path.stem for path in commands if '__name__ == "__main__"' in path.read_text("utf-8")}


@needs_site
def test_every_command_has_a_section(site):
    found = sections(site, "reference/commands.html")
    assert command_modules() | {"experiments"} <= found.keys()


@needs_site
def test_every_option_of_every_command_is_explained(site):
    from docs.hooks.commands import COMMANDS, GROUPS, described, options_of, parser_of

    assert {*COMMANDS, *GROUPS} == command_modules() | {"experiments"}
    tasks = [f"{command} {task}" for command, tasks in GROUPS.items() for task in tasks]
    found = sections(site, "reference/commands.html")
    for command in [*COMMANDS, *tasks]:
        section = found[command.replace(" ", "-")]
        parser = parser_of(command)
        assert plain(parser.description) in plain(section)
        for action in options_of(parser):
            meaning, _ = described(action)
            assert meaning.strip(), (command, action.dest)
            name = action.option_strings[0] if action.option_strings else action.dest.upper()
            if f'settings.html#{action.dest}"' not in section:
                explained = re.search(rf"<dt><code>{name}</code>.*?</dd>", section, re.DOTALL)
                assert explained, (command, name)
                assert " ".join(meaning.replace("`", "").split()) in plain(explained[0])


@needs_site
def test_the_commands_page_names_no_folder_of_this_machine(site):
    assert str(ROOT) not in (site / "reference" / "commands.html").read_text(encoding="utf-8")


@needs_site
def test_every_setting_is_explained_with_its_default(site):
    found = sections(site, "reference/settings.html")
    for name, field in FIELDS.items():
        text = plain(found[name])
        assert " ".join(field.metadata["help"].replace("`", "").split()) in text, name
        default = "null" if field.default is None else str(field.default)
        assert f"default: {default.lower() if field.type is bool else default};" in text, name


@needs_site
def test_the_notebook_is_a_page_with_its_pictures(site):
    text = (site / "notebook.html").read_text(encoding="utf-8")
    pictures = re.findall(r'<img alt="([^"]*)" src="([^"]+)"', text)
    assert len(pictures) >= 11
    for description, source in pictures:
        assert description
        assert (site / source).stat().st_size > 1000


@needs_site
@pytest.mark.parametrize("name", ["CHANGELOG.md", "SECURITY.md"])
def test_a_file_of_the_root_has_a_page(site, name):
    text = (site / f"{name.removesuffix('.md').lower()}.html").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    page_headings = [plain(heading) for heading in re.findall(r"<h2 .*?</h2>", text, re.DOTALL)]
    assert len(page_headings) == len(headings)


class Loaded(html.parser.HTMLParser):
    """Collects the addresses that a browser loads with a page."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        if tag in ("a", "form"):
            return
        for name, value in attributes:
            if name in ("src", "srcset", "href", "data", "poster") and value:
                self.addresses.append(value)


@needs_site
def test_no_page_loads_anything_from_another_host(site):
    pages = [*site.rglob("*.html")]
    assert len(pages) > 20
    for path in pages:
        loaded = Loaded()
        loaded.feed(path.read_text(encoding="utf-8"))
        assert loaded.addresses
        elsewhere = [name for name in loaded.addresses if re.match(r"(https?:)?//", name)]
        assert elsewhere == [], path
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"""(url\(|@import)\s*["']?(https?:)?//""", text), path


@needs_site
@pytest.mark.parametrize("words", ["beam", "label smoothing", "padding", "length penalty"])
def test_the_search_finds(site, words):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = [entry for entry in index["docs"] if words in plain(entry["text"]).lower()]
    assert len({entry["location"].partition("#")[0] for entry in found}) >= 2
    # The same index for pages that are opened without a server.
    assert words in (site / "search" / "search_index.js").read_text(encoding="utf-8")
