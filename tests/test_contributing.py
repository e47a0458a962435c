"""What CONTRIBUTING.md says of the code is true of it."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_transformer"


def test_it_names_the_files_of_the_core_that_ask_for_the_backend():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [core] = re.findall(r"^`(.+)` use `keras` and `keras.ops` only", text, re.MULTILINE)
    [sentence] = re.findall(r"\w+ files of them ask for the backend.*?\)\.", text)
    named = re.findall(r"`(\S+\.py)`", sentence)
    files = [
        path
        for name in core.split(", ")
        for path in [PACKAGE / f"{name}.py", *sorted((PACKAGE / name).glob("*.py"))]
        if path.exists()
    ]
    asking = [
        str(path.relative_to(PACKAGE))
        for path in files
        if re.search(r"backend\.backend\(\)|shapes_are_dynamic", path.read_text(encoding="utf-8"))
    ]
    assert sorted(named) == sorted(asking)
    assert sentence.startswith("Nine ")
    assert len(named) == 9
