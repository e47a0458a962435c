"""The options that choose the weights and control the search."""

from typing import Literal

from training.command_line.parser import CommandParser


def add_search_options(parser: CommandParser) -> None:
    """Adds the options of the search, which override the run's settings, and of the model."""
    parser.add_option(
        "beam_size", int | None, None, "Beams of the search (default: the run's setting)."
    )
    parser.add_option(
        "length_penalty",
        float | None,
        None,
        "alpha: higher is longer (default: the run's setting).",
    )
    parser.add_option(
        "length_normalization",
        Literal["gnmt", "length"] | None,
        None,
        "The base that alpha is the exponent of (default: the run's setting).",
    )
    add_model_options(parser)


def add_model_options(parser: CommandParser) -> None:
    """Adds the options that choose the weights and their number format."""
    parser.add_option(
        "epoch",
        int | None,
        None,
        "Use the weights at the end of this epoch instead of the finished model, even of an"
        " unfinished run. The latest and the best epochs are kept.",
    )
    parser.add_option(
        "precision",
        Literal["float32", "bfloat16", "int8", "int8_bfloat16"],
        "float32",
        "Number format of weights and products. int8 is faster than float32 on most x86 processors"
        " (Intel since 2019, AMD since 2022); int8_bfloat16 is faster still with beams, if the"
        " processor has bfloat16 instructions.",
    )


def search_settings(options) -> dict:
    """Returns the values of the options that `add_search_options` adds."""
    names = ("beam_size", "length_penalty", "length_normalization", "precision", "epoch")
    return {name: getattr(options, name) for name in names}
