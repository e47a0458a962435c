"""Draws the memory of a search by length: `python -m training.benchmark memory --help`."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from training.benchmarks.speed_lines import Speeds, read_memory
from training.command_line.parser import CommandParser
from training.command_line.running import import_keras
from training.pictures.benchmark_lines import draw_picture, lines_of
from training.pictures.style import clear_axes, label_ends, line_style, new_figure


def draw_memory(arguments: Sequence[str]) -> None:
    """Writes the picture to a PNG file."""
    parser = CommandParser(
        "benchmark memory",
        "Draws the memory that a search needs beyond the loaded model, by the length of the"
        " translations, and as broken lines the memory of their tokens' keys and values.",
    )

    def figure_of(options):
        return memory_figure(read_memory(options.files), options.preset, options.batch)

    draw_picture(parser, arguments, figure_of)


def memory_figure(memory: Speeds, preset: str, batch: int) -> Figure:
    """Draws a line for each precision and beam size, and a broken one for the caches of each.

    Raises:
        InputError: If `memory`, from `read_memory`, has nothing of this preset and batch.
    """

    def name(program, work):
        return work.beam_size, program.dtype

    lines = lines_of(memory, name, preset, batch)
    figure = new_figure(4.6, f"Memory of decoding: {preset} model, {batch} sentences")
    axes = figure.subplots()
    lengths = sorted({length for points in lines.values() for length, _ in points})
    are_drawn = set()
    for number, ((beam_size, dtype), points) in enumerate(sorted(lines.items())):
        style = line_style(number)
        axes.plot(*zip(*points, strict=True), label=f"{_search(beam_size)}, {dtype}", **style)
        cache_dtype = _cache_dtype(dtype)
        if (beam_size, cache_dtype) not in are_drawn:  # precisions may have equal caches
            are_drawn.add((beam_size, cache_dtype))
            held = [cache_mib(preset, batch * beam_size, n, cache_dtype) for n in lengths]
            label = f"keys and values,\n{_search(beam_size)}, {cache_dtype}"
            axes.plot(lengths, held, "--", color=style["color"], linewidth=1.5, label=label)
    axes.set_xlabel("target tokens of each sentence")
    axes.set_ylabel("MiB beyond the loaded model")
    axes.set_xticks(lengths)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    clear_axes(axes)
    label_ends(axes)
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
