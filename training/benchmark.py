"""Measures speed: `python -m training.benchmark --help`. One JSON line per measurement."""

import importlib
import sys
from collections.abc import Sequence

from training.command_line.errors import UsageError
from training.command_line.running import run_command

# Each task with its function and its description.
TASKS = {
    "train": ("benchmarks.training_speed:measure_training", "how fast a model trains"),
    "data": ("benchmarks.data_speed:measure_data", "whether training waits for its text"),
    "decode": ("benchmarks.decoding_speed:measure_decoding", "how fast an export translates"),
    "serve": ("benchmarks.serving_load:measure_serving", "how many requests a server answers"),
    "compare": ("benchmarks.speed_table:print_table", "a table of our decoding speed and others'"),
    "curve": ("pictures.speed:draw_curve", "a picture of the time per token, by length"),
    "memory": ("pictures.memory:draw_memory", "a picture of a search's memory, by length"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: the first argument names the task."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments in (["--help"], ["-h"]):
        for task, (_, description) in TASKS.items():
            print(f"python -m training.benchmark {task} --help    {description}")
        raise SystemExit(0)
    if not arguments or arguments[0] not in TASKS:
        raise UsageError(
            f"The first argument must say what to measure: {', '.join(TASKS)}. Received:"
            f" {arguments[0] if arguments else 'nothing'}. See python -m training.benchmark --help."
        )
    module, _, function = TASKS[arguments[0]][0].partition(":")
    getattr(importlib.import_module(f"training.{module}"), function)(arguments[1:])


if __name__ == "__main__":
    sys.exit(run_command(main))
