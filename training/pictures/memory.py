"""The memory that a search takes, by length: `python -m training.benchmark memory --help`."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from keras_transformer.config import TransformerConfig
from training.benchmarks.speed_lines import Speeds, read_memory
from training.command_line.errors import InputError, UsageError
from training.command_line.outputs import check_output_files
from training.command_line.parser import CommandParser, parse
from training.pictures.style import INK, clear_axes, line_style, new_figure, save_picture

INCHES = (8.6, 4.6)
CAPTION = (
    "Memory beyond the loaded model, {batch} sentences at once, {preset} model. Lines: what the"
    " process took at most. Broken lines: what the keys and values of the tokens fill. Memory rises"
    " with the tokens held. What int8 takes besides does not depend on them."
)


def draw_memory(arguments: Sequence[str]) -> None:
    """Writes a PNG."""
    parser = CommandParser(
        "benchmark memory",
        "Draws the memory that a search takes beyond the loaded model, by the length of the"
        " translations, beside what the keys and values of that many tokens fill.",
    )
    parser.add_positional("files", "JSON lines of `benchmark decode`.", nargs="+")
    parser.add_option("output", str | None, None, "The PNG; it is replaced if it is there.")
    parser.add_option("preset", str, "base", "The model's size: tiny, base or big.")
    parser.add_option("batch", int, 32, "Sentences at once.")
    options = parse(parser, arguments)
    if options.output is None:
        raise UsageError(
            "--output must name the picture. Received: none. Give for example --output memory.png."
        )
    files = {file: file for file in options.files}
    check_output_files({"--output": options.output}, files, overwrite=True)
    figure = memory_figure(read_memory(options.files), options.preset, options.batch)
    save_picture(figure, options.output)
    print(f"written: {options.output}")


def memory_figure(memory: Speeds, preset: str, batch: int) -> Figure:
    """A line for each precision and beam size, and one for each kind of caches that they hold.

    Args:
        memory: MiB, from `read_memory`.
        preset: The size of the model.
        batch: Sentences at once.

    Raises:
        InputError: If nothing of it was measured.
    """
    lines = {}
    for program, works in memory.items():
        for work in sorted(works):
            if (work.preset, work.batch) == (preset, batch):
                line = lines.setdefault((work.beam_size, program.dtype), [])
                line.append((work.length, works[work]))
    if not lines:
        raise InputError(
            f"The files must hold what is drawn: {preset}, batch {batch}. Received: nothing of it."
            " Choose --preset or --batch, or add files."
        )
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
        dashes = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))[number % 4]
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
    """What a model of that precision keeps its keys and values in."""
    return "bfloat16" if precision.endswith("bfloat16") else "float32"


def cache_mib(preset: str, rows: int, length: int, dtype: str = "float32") -> float:
    """What the decoder's self-attention keeps of `rows` sequences of `length` tokens, in MiB.

    A key and a value for each token in each layer, model_dim floats each, of 4 bytes in float32 and
    of 2 in bfloat16.
    """
    config = getattr(TransformerConfig, preset)(vocabulary_size=5)
    num_bytes = {"float32": 4, "bfloat16": 2}[dtype]
    return rows * length * config.num_layers * 2 * config.model_dim * num_bytes / 2**20
