"""What an experiment leaves: a table, the numbers behind it, a picture."""

import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from training.files import write_text
from training.pictures.style import save_picture
from training.runs.record import package_version


def write_report(
    folder: str | Path,
    name: str,
    *,
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    measured: dict,
    figure: Figure | None = None,
    notes: str = "",
) -> None:
    """Writes NAME.md, NAME.json and, of a figure, NAME.png, and prints the table.

    Args:
        folder: Made if it is not there; files of these names are replaced.
        name: The experiment's.
        caption: What the table shows and how it was measured, for NAME.md.
        columns: The table's head.
        rows: Its cells, line by line, as `str` spells them.
        measured: All settings and numbers, as JSON can hold them; the machine, the versions and
            the time are added.
        figure: The picture.
        notes: Markdown that is printed and written behind the table.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = markdown_table(columns, rows)
    if notes:
        table = f"{table}\n\n{notes}"
    print(table)
    write_text(folder / f"{name}.md", f"{caption}\n\n{table}\n")
    numbers = json.dumps({**measured, **circumstances()}, indent=1, ensure_ascii=False)
    write_text(folder / f"{name}.json", f"{numbers}\n")
    if figure is not None:
        save_picture(figure, folder / f"{name}.png")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown, the first column to the left and the others to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def circumstances() -> dict:
    """Where and when something was measured, and with which versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "keras": _imported_version("keras"),
        "tensorflow": _imported_version("tensorflow"),
        "keras_transformer": package_version(),
    }


def _imported_version(module: str) -> str | None:
    """The version of a module; None if it is not imported, or has none.

    The installed package may have another name, as tensorflow-cpu has.
    """
    return getattr(sys.modules.get(module), "__version__", None)


def _processor() -> str:
    """The processor's name, as Linux tells it; elsewhere its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
