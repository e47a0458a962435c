"""Trains a Transformer on pairs of sentences: `python -m training.train --help`."""

import sys
from collections.abc import Sequence
from typing import Literal

from training.command_line.backend import BACKENDS, OPTION, backend_name
from training.command_line.errors import InputError, UsageError
from training.command_line.parser import CommandParser, option_name, parse
from training.command_line.running import run_command
from training.devices.opening import Strategy
from training.runs.training import train
from training.settings import (
    SETTING_NAMES,
    make_settings,
    make_settings_parser,
    read_settings_file,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = _parser()
    options = parse(parser, arguments)
    _check_backend(options.backend)
    from_file = None if options.config is None else read_settings_file(options.config)
    options = parse(parser, arguments, from_file)
    settings = make_settings({name: options[name] for name in SETTING_NAMES}, from_file)
    for name in ("wait_minutes", "log_seconds"):
        if not options[name] > 0:
            raise UsageError(
                f"{option_name(name)} must be above 0. Received: {options[name]}. Leave it out, or"
                " give a number such as 1."
            )
    train(
        settings,
        options.output,
        overwrite=options.overwrite,
        strategy=options.strategy,
        wait_minutes=options.wait_minutes,
        log_seconds=options.log_seconds,
    )


def _parser() -> CommandParser:
    parser = make_settings_parser(
        "train", "Trains a Transformer on pairs of sentences; run it again to resume."
    )
    parser.add_output_folder("output", None, "The run folder to write.", required=True)
    parser.add_flag("overwrite", "Replace an existing run once this one is finished.")
    # Not settings, because a run may be resumed on another machine.
    parser.add_option(
        "strategy",
        Strategy,
        "one_device",
        "Where to train: one_device; mirrored, on all GPUs of this machine; or multi_worker, on the"
        " GPUs of all machines that run this command. multi_worker needs TF_CONFIG or, with"
        " --backend jax, KERAS_DISTRIBUTION_JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID, and all"
        " machines must see the same --output and text. See docs/several_machines.md.",
    )
    parser.add_option(
        "wait_minutes", float, 10.0, "Minutes that multi_worker waits for missing workers."
    )
    parser.add_option(
        OPTION.lstrip("-"),
        Literal[BACKENDS] | None,
        None,
        "Keras backend (default: KERAS_BACKEND, else keras.json, else tensorflow).",
    )
    parser.add_option(
        "log_seconds", float, 30.0, "Seconds between progress lines if stdout is not a terminal."
    )
    parser.add_threads()
    return parser


def _check_backend(wanted: str | None) -> None:
    backend = backend_name()
    if wanted is not None and wanted != backend:
        raise UsageError(
            f"--backend must be given before Keras is imported. Received: --backend {wanted}, but"
            f" {backend} is loaded. Run `python -m training.train`, or set KERAS_BACKEND."
        )
    if backend not in BACKENDS:
        raise InputError(
            f"KERAS_BACKEND must be {' or '.join(BACKENDS)}. Received: {backend}. Give --backend."
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
