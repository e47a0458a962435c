"""Writes an experiment's results: a table, the measured numbers, and a picture."""

import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from training.pictures.style import clear_axes, save_picture
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
    figure: Figure | None = None,
    notes: str = "",
) -> None:
    """Writes NAME.md, NAME.json and, given a figure, NAME.png, and prints the table.

    Args:
        folder: The folder, which is made if absent; existing files with these names are replaced.
        name: The experiment's name.
        caption: The contents of the table and how they were measured, for NAME.md.
        columns: The table's head.
        rows: The table's cells, row by row.
        measured: All settings and numbers, for NAME.json. The machine, the versions and the date
            are added.
        figure: The picture.
        notes: Markdown to print and write after the table.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = "\n\n".join(filter(None, [markdown_table(columns, rows), notes]))
    print(table)
    write_text(folder / f"{name}.md", f"{caption}\n\n{table}\n")
    numbers = json.dumps({**measured, **circumstances()}, indent=1, ensure_ascii=False)
    write_text(folder / f"{name}.json", f"{numbers}\n")
    if figure is not None:
        save_picture(figure, folder / f"{name}.png")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table with all columns except the first aligned right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def rounded(number: float | None) -> str:
    """Formats a number as an integer or with three significant digits, and None as a dash."""
    if number is None:
        return "-"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def length_axis(panel: Axes, lengths: Sequence[int], labels: Sequence[str] | None = None) -> None:
    """Makes the horizontal axis logarithmic, with a tick at each length."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(lengths, labels or [f"{length:,}" for length in lengths])
    panel.xaxis.set_minor_locator(NullLocator())
    clear_axes(panel)


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
