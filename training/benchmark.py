"""Measures speed: `python -m training.benchmark --help`. One JSON line a measurement."""

import sys
from collections.abc import Sequence

from training.command_line.errors import UsageError
from training.command_line.running import run_command

# What can be asked for, and what it does.
TASKS = {
    "train": "how fast a model is trained on random tokens",
    "data": "whether training waits for its text",
    "decode": "how fast an export translates",
    "serve": "how many requests a server answers",
    "compare": "a table of decoding speeds beside those of others",
    "curve": "a picture of the time that a token takes, by length",
    "memory": "a picture of the memory that a search takes, by length",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: the first argument says what to do."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments in (["--help"], ["-h"]):
        for task, description in TASKS.items():
            print(f"python -m training.benchmark {task} --help    {description}")
        raise SystemExit(0)
    if arguments[:1] == ["train"]:
        from training.benchmarks.training_speed import measure_training as command
    elif arguments[:1] == ["data"]:
        from training.benchmarks.data_speed import measure_data as command
    elif arguments[:1] == ["decode"]:
        from training.benchmarks.decoding_speed import measure_decoding as command
    elif arguments[:1] == ["serve"]:
        from training.benchmarks.serving_load import measure_serving as command
    elif arguments[:1] == ["compare"]:
        from training.benchmarks.speed_table import print_table as command
    elif arguments[:1] == ["curve"]:
        from training.pictures.speed import draw_curve as command
    elif arguments[:1] == ["memory"]:
        from training.pictures.memory import draw_memory as command
    else:
        raise UsageError(
            f"The first argument must say what to measure: {', '.join(TASKS)}. Received:"
            f" {arguments[0] if arguments else 'nothing'}. See python -m training.benchmark --help."
        )
    command(arguments[1:])


if __name__ == "__main__":
    sys.exit(run_command(main))
