"""The project's packages: which may import which, read from the sources."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("keras_transformer", "training")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
COMMANDS = {
    f"training.{path.stem}"
    for path in (ROOT / "training").glob("*.py")
    if path.stem not in ("__init__", "settings")
} | {"training.experiments.__main__"}


@functools.cache
def imports_of(name, *, with_types=False):
    """Returns the project's modules that a module imports, at its top or in a function."""
    found = set()
    nodes = [SOURCES[name]]
    while nodes:
        node = nodes.pop()
        if not with_types and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {part if part in SOURCES else node.module for part in whole}
        nodes.extend(ast.iter_child_nodes(node))
    return (found & SOURCES.keys()) - {name}


def cycle_from(start):
    """Returns a cycle of imports from a module back to itself; None if there is none."""
    ways, seen = [[start]], set()
    while ways:
        way = ways.pop()
        for following in sorted(imports_of(way[-1])):
            if following == start:
                return [*way, start]
            if following not in seen:
                seen.add(following)
                ways.append([*way, following])
    return None


def room_of(name):
    return name.rpartition(".")[0]


def test_the_sources_are_found():
    assert len(SOURCES) > 100
    assert {"training.train", "training.serve", "training.experiments.__main__"} <= COMMANDS
    assert imports_of("keras_transformer.layers.encoder") >= {"keras_transformer.layers.attention"}


@pytest.mark.parametrize("name", SOURCES)
def test_no_module_imports_itself_through_others(name):
    assert cycle_from(name) is None


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_imports_a_command(name):
    assert not imports_of(name, with_types=True) & COMMANDS


@pytest.mark.parametrize(
    "name", [name for name in SOURCES if room_of(name) == "keras_transformer.layers"]
)
def test_the_layers_know_neither_decoding_nor_search(name):
    others = {room_of(other) for other in imports_of(name, with_types=True)}
    assert not others & {"keras_transformer.decoding", "keras_transformer.search"}


@pytest.mark.parametrize(
    "name", [name for name in SOURCES if room_of(name) == "keras_transformer.search"]
)
def test_the_searches_know_no_model(name):
    allowed = {f"keras_transformer.{name}" for name in ("masks", "gathering", "tensors")}
    others = imports_of(name, with_types=True)
    assert {other for other in others if room_of(other) != "keras_transformer.search"} <= allowed


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("keras_")])
def test_the_library_imports_no_command_and_never_its_own_root(name):
    others = imports_of(name, with_types=True)
    assert not {other for other in others if other.startswith("training")}
    assert "keras_transformer" not in others


def test_the_top_of_training_has_only_commands_and_settings():
    for path in (ROOT / "training").glob("*.py"):
        is_command = 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
        assert is_command or path.stem in ("__init__", "settings"), path


@pytest.mark.parametrize("name", [name for name in SOURCES if room_of(name) in PACKAGES])
def test_every_package_says_what_is_in_it(name):
    is_room = (ROOT / name.replace(".", "/") / "__init__.py").is_file()
    if is_room:
        assert ast.get_docstring(SOURCES[name])


def lines_of_code(function, text):
    """Counts the lines of code, without docstrings, comments and blank lines."""
    body = function.body
    if ast.get_docstring(function):
        body = body[1:]
    last_lines = range(body[0].lineno, function.end_lineno + 1) if body else ()
    first_lines = range(function.lineno, (function.body[0].lineno))
    lines = [text[number - 1].strip() for number in (*first_lines, *last_lines)]
    return sum(1 for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_fit_on_a_screen(package):
    lengths = {}
    for name, tree in SOURCES.items():
        if name.split(".")[0] != package:
            continue
        path = ROOT / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        text = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                lengths[f"{name}.{node.name}:{node.lineno}"] = lines_of_code(node, text)
    longest_first = sorted(lengths.values(), reverse=True)
    assert longest_first[len(longest_first) // 10] <= 20
    assert {name: length for name, length in lengths.items() if length > 45} == {}
