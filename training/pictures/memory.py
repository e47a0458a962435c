"""Draws the memory of a search by length: `python -m training.benchmark memory --help`."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from training.benchmarks.speed_lines import Speeds, read_memory
from training.command_line.parser import CommandParser
from training.command_line.running import import_keras
from training.pictures.benchmark_lines import draw_picture, lines_of
from training.pictures.style import INK, clear_axes, line_style, new_figure

INCHES = (8.6, 4.6)
CAPTION = (
    "Memory beyond the loaded model, {batch} sentences at once, {preset} model. Solid lines: the"
    " process's peak. Broken lines: the keys and values of the tokens. Memory rises with the number"
    " of tokens. What int8 needs in addition does not depend on it."
)
DASHES = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))


def draw_memory(arguments: Sequence[str]) -> None:
    """Writes the picture to a PNG file."""
    parser = CommandParser(
        "benchmark memory",
        "Draws the memory that a search needs beyond the loaded model, by the length of the"
        " translations, and the memory of their tokens' keys and values.",
    )

    def figure_of(options):
        return memory_figure(read_memory(options.files), options.preset, options.batch)

    draw_picture(parser, arguments, figure_of)


def memory_figure(memory: Speeds, preset: str, batch: int) -> Figure:
    """Draws a line for each precision and beam size, and for the caches that each should need.

    Raises:
        InputError: If `memory`, from `read_memory`, has nothing of this preset and batch.
    """

    def name(program, work):
        return work.beam_size, program.dtype

    lines = lines_of(memory, name, preset, batch)
    figure = new_figure(*INCHES, CAPTION.format(batch=batch, preset=preset))
    axes = figure.subplots()
    for number, ((beam_size, dtype), points) in enumerate(sorted(lines.items())):
        label = f"{_search(beam_size)}, {dtype}"
        axes.plot(*zip(*points, strict=True), label=label, **line_style(number))
    lengths = sorted({length for points in lines.values() for length, _ in points})
    caches = sorted({(beam_size, _cache_dtype(dtype)) for beam_size, dtype in lines})
    for number, (beam_size, dtype) in enumerate(caches):
        held = [cache_mib(preset, batch * beam_size, length, dtype) for length in lengths]
        label = f"keys and values, {_search(beam_size)}, {dtype}"
        dashes = DASHES[number % len(DASHES)]
        axes.plot(lengths, held, linestyle=dashes, color=INK, linewidth=1.5, label=label)
    axes.set_xlabel("target tokens of each sentence")
    axes.set_ylabel("MiB beyond the loaded model")
    axes.set_xticks(lengths)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    clear_axes(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _search(beam_size: int) -> str:
    return "greedy" if beam_size == 1 else f"{beam_size} beams"


def _cache_dtype(precision: str) -> str:
    """Returns the dtype of the keys and values in a model of this precision."""
    return "bfloat16" if precision.endswith("bfloat16") else "float32"


def cache_mib(preset: str, rows: int, length: int, dtype: str = "float32") -> float:
    """Returns the MiB of the decoder's keys and values for `rows` sequences of `length` tokens.

    Keys and values have model_dim floats each, for each token in each layer.
    """
    import_keras()
    from keras_transformer.config import TransformerConfig

    config = getattr(TransformerConfig, preset)(vocabulary_size=5)
    num_bytes = {"float32": 4, "bfloat16": 2}[dtype]
    return rows * length * config.num_layers * 2 * config.model_dim * num_bytes / 2**20
