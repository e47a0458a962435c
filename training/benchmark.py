"""Measures speed, one JSON line per measurement: `python -m training.benchmark --help`."""

import importlib
import sys
from collections.abc import Sequence

from training.command_line.errors import UsageError
from training.command_line.running import run_command

# The function and the description of each task.
TASKS = {
    "train": ("benchmarks.training_speed:measure_training", "how fast a model trains"),
    "data": ("benchmarks.data_speed:measure_data", "whether training waits for its text"),
    "decode": ("benchmarks.decoding_speed:measure_decoding", "how fast an export translates"),
    "text": ("benchmarks.text_speed:measure_text", "how fast exports translate a text, and BLEU"),
    "serve": ("benchmarks.serving_load:measure_serving", "how many requests a server answers"),
    "compare": (
        "benchmarks.speed_table:print_table",
        "a table of decoding speed, ours and others'",
    ),
    "curve": ("pictures.speed:draw_curve", "a plot of the time per token by length"),
    "memory": ("pictures.memory:draw_memory", "a plot of a search's memory by length"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the task that the first argument names."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments in (["--help"], ["-h"]):
        for task, (_, description) in TASKS.items():
            print(f"python -m training.benchmark {task} --help    {description}")
        raise SystemExit(0)
    if not arguments or arguments[0] not in TASKS:
        raise UsageError(
            f"The first argument must name what to measure: {', '.join(TASKS)}. Received:"
            f" {arguments[0] if arguments else 'nothing'}. See python -m training.benchmark --help."
        )
    module, _, function = TASKS[arguments[0]][0].partition(":")
    getattr(importlib.import_module(f"training.{module}"), function)(arguments[1:])


if __name__ == "__main__":
    sys.exit(run_command(main))
