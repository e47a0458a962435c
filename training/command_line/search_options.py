"""The options of the model and the search."""

from typing import Literal

from training.command_line.parser import CommandParser


def add_search_options(parser: CommandParser) -> None:
    """Adds the options of the model and the search, for which a run has settings of its own."""
    parser.add_option("beam_size", int | None, None, "Beams; the run's setting if not given.")
    parser.add_option(
        "length_penalty", float | None, None, "alpha; the run's setting if not given."
    )
    parser.add_option(
        "length_normalization",
        Literal["gnmt", "length"] | None,
        None,
        "What alpha is the power of; the run's setting if not given.",
    )
    add_model_options(parser)


def add_model_options(parser: CommandParser) -> None:
    """Adds the options of whose weights are taken, and of the number format they are taken in."""
    parser.add_option(
        "epoch",
        int | None,
        None,
        "Takes the weights at the end of this epoch in place of the finished model; those of the"
        " last and the best epochs are kept. The run need not be finished.",
    )
    parser.add_option(
        "precision",
        Literal["float32", "bfloat16", "int8", "int8_bfloat16"],
        "float32",
        "Of the weights and products: int8 is fastest on x86 processors since 2019, bfloat16 on"
        " those that have AMX; int8_bfloat16 has int8 weights, and beams read half as much.",
    )


def search_settings(options) -> dict:
    """What `add_search_options` was given."""
    names = ("beam_size", "length_penalty", "length_normalization", "precision", "epoch")
    return {name: getattr(options, name) for name in names}
