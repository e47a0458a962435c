"""Writes an experiment's results: a table, the measured numbers, and a picture."""

import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from training.runs.files import write_text
from training.runs.record import package_version


def write_report(
    folder: str | Path,
    name: str,
    *,
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    measured: dict,
    notes: str = "",
) -> None:
    """Writes NAME.md, NAME.json and the experiment's pictures, and prints the table.

    Args:
        folder: The folder, which is made if absent; existing files with these names are replaced.
        name: The experiment's name.
        caption: The contents of the table and how they were measured, for NAME.md.
        columns: The table's head.
        rows: The table's cells, row by row.
        measured: All settings and numbers, for NAME.json and the pictures. The machine, the
            versions and the date are added.
        notes: Markdown to print and write after the table.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = "\n\n".join(filter(None, [markdown_table(columns, rows), notes]))
    print(table)
    write_text(folder / f"{name}.md", f"{caption}\n\n{table}\n")
    numbers = json.dumps({**measured, **circumstances()}, indent=1, ensure_ascii=False)
    write_text(folder / f"{name}.json", f"{numbers}\n")
    from training.experiments.figures import FIGURES, save_figures

    if name in FIGURES:
        save_figures(name, json.loads(numbers), folder)  # the same numbers as `redraw` reads


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table with all columns except the first aligned right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def rounded(number: float | None) -> str:
    """Formats a number as an integer or with three significant digits, and None as a dash."""
    if number is None:
        return "-"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def circumstances() -> dict:
    """Returns the date, the machine and the versions of a measurement."""
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
    """Returns an imported module's version; its package may have another name (tensorflow-cpu)."""
    return getattr(sys.modules.get(module), "__version__", None)


def _processor() -> str:
    """Returns the processor's name on Linux, and its architecture elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
