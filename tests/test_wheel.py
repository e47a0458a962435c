"""The wheel and the source distribution hold what they must, and the wheel works on its own."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.test_readme import ENGLISH, blocks, replaced, write_number_words

ROOT = Path(__file__).parent.parent
FILES = ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg")
FOLDERS = ("keras_transformer", "tests", "training")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("build") is None, reason="build is not installed"),
]


def run(*command, returncode=0, **options):
    """Runs a command that does not see the checkout; returns what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, **options
    )
    assert process.returncode == returncode, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout without earlier build output."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def distributions(checkout, tmp_path_factory):
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, checkout)
    [source], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


def names_in_wheel(path):
    with zipfile.ZipFile(path) as wheel:
        return sorted(name for name in wheel.namelist() if not name.endswith("/"))


def library_files():
    """Returns the files of the library that users need."""
    files = [path for path in (ROOT / "keras_transformer").rglob("*") if path.is_file()]
    names = [path.relative_to(ROOT).as_posix() for path in files]
    return sorted(name for name in names if "__pycache__" not in name)


def test_the_wheel_holds_the_library_and_its_license_alone(distributions):
    _, wheel = distributions
    names = names_in_wheel(wheel)
    assert [name for name in names if ".dist-info/" not in name] == library_files()
    assert "keras_transformer/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_source_distribution_holds_what_building_needs(distributions):
    source, _ = distributions
    with tarfile.open(source) as archive:
        members = [member.name for member in archive.getmembers() if member.isfile()]
    names = {name.partition("/")[2] for name in members}
    generated = {name for name in names if name == "PKG-INFO" or ".egg-info/" in name}
    assert names - generated == {*FILES, *library_files()}


def test_a_wheel_from_the_checkout_holds_the_same_files(checkout, distributions, tmp_path):
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, checkout)
    [wheel] = tmp_path.glob("*.whl")
    assert names_in_wheel(wheel) == names_in_wheel(distributions[1])


@pytest.fixture(scope="module")
def python(distributions, tmp_path_factory):
    """Python in an environment with the wheel, where this one's packages can be imported, too."""
    _, wheel = distributions
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", "--no-compile", wheel)
    # Python reads no .pth files in folders that a .pth file names, so the checkout, installed as
    # editable, stays invisible.
    site_packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    paths = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (Path(site_packages.strip()) / "tests.pth").write_text("\n".join(paths) + "\n")
    return python


def test_the_first_example_of_the_readme_runs_with_the_wheel(python, tmp_path):
    write_number_words(tmp_path)
    code = replaced(
        blocks(ENGLISH, "python")[0], vocabulary_size=("10_000", "300"), epochs=("20", "2")
    )
    (tmp_path / "example.py").write_text(code + "\nprint(kt.__file__)\n", encoding="utf-8")
    output = run(python, "example.py", cwd=tmp_path)
    assert Path(output.splitlines()[-1]).is_relative_to(python.parents[1])
    assert (tmp_path / "saved_models/en-de/1/saved_model.pb").is_file()


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_type_checkers_find_the_hints_of_the_installed_wheel(python, tmp_path):
    program = "import keras_transformer as kt\nkt.Translator.load(3)\n"
    (tmp_path / "program.py").write_text(program)
    options = ["--config-file=", "--cache-dir=cache", f"--python-executable={python}"]
    output = run(sys.executable, "-m", "mypy", *options, "program.py", cwd=tmp_path, returncode=1)
    assert 'Argument 1 to "load" of "Translator" has incompatible type "int"' in output
    assert "Found 1 error in 1 file" in output
