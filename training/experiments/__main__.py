"""Measures the paper's claims: `python -m training.experiments --help`."""

import importlib
import sys
from collections.abc import Sequence

from training.command_line.errors import UsageError
from training.command_line.running import run_command

# For each name, the module of this package, and a description.
EXPERIMENTS = {
    "layers": ("layers", "Table 1 measured: time and memory of one layer by length and width"),
    "parallel": ("parallel", "time of a training step by length, at equal tokens"),
    "path": ("path", "how well stacks recall the token k tokens back"),
    "table3": ("table3", "the rows of Table 3: parameters, perplexity, BLEU"),
    "heads": ("heads", "accuracy with 1, 2, 4 and 8 heads"),
    "positions": ("positions", "no, learned and sinusoidal positions, beyond the trained length"),
    "quality": (
        "quality_and_time",
        "BLEU of the Transformer and the systems it replaced, by seconds of training",
    ),
    "jane": (
        "jane",
        'the attention of "Jane visite l\'Afrique en septembre.", every head and layer',
    ),
    "redraw": ("redraw", "draws the pictures of an experiment again, from its NAME.json"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment that the first argument names."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments in (["--help"], ["-h"]):
        for name, (_, description) in EXPERIMENTS.items():
            print(f"python -m training.experiments {name} --help    {description}")
        raise SystemExit(0)
    if not arguments or arguments[0] not in EXPERIMENTS:
        raise UsageError(
            f"The first argument must name an experiment: {', '.join(EXPERIMENTS)}. Received:"
            f" {arguments[0] if arguments else 'nothing'}. See python -m training.experiments"
            " --help."
        )
    module, _ = EXPERIMENTS[arguments[0]]
    importlib.import_module(f"training.experiments.{module}").run(arguments[1:])


if __name__ == "__main__":
    sys.exit(run_command(main))
