"""Compares decoding speed with other programs: `python -m training.benchmark compare --help`."""

from collections.abc import Sequence

from training.benchmarks.speed_lines import US, Program, Speeds, Work, read_speeds
from training.command_line.errors import InputError
from training.command_line.parser import CommandParser, parse


def print_table(arguments: Sequence[str]) -> None:
    """Prints a Markdown table."""
    parser = CommandParser(
        "benchmark compare",
        "Prints a Markdown table of target tokens per second: ours / theirs / the ratio, which is"
        " above 1 where ours is faster. Of lines with equal work, the median is used.",
    )
    files_help = "Files of JSON lines, from this project and other programs."
    parser.add_positional("files", files_help, nargs="+")
    parser.add_option(
        "peer_dtype", str | None, None, "Precision of the other programs (default: same as ours)."
    )
    options = parse(parser, arguments)
    print(comparison(read_speeds(options.files), options.peer_dtype))


def comparison(speeds: Speeds, peer_dtype: str | None = None) -> str:
    """Returns a table with a row per pair of programs, preset, batch and search.

    Args:
        speeds: Target tokens per second.
        peer_dtype: The precision of the other programs; None for the same as ours.

    Raises:
        InputError: If no work was measured with both this project and another program.
    """
    pairs = [
        (ours, peer)
        for ours in speeds
        for peer in speeds
        if ours.name == US and peer.name != US and peer.dtype == (peer_dtype or ours.dtype)
    ]
    cells = {
        (work._replace(length=0), ours, peer, work.length): _cell(speeds, ours, peer, work)
        for ours, peer in pairs
        for work in speeds[ours].keys() & speeds[peer].keys()
    }
    if not cells:
        raise InputError(
            "The files must have equal work of this project and another program: preset, batch,"
            " beams, lengths, threads and precision. Received: no equal work. Add files, or use"
            " --peer-dtype."
        )
    lengths = sorted({length for *_, length in cells})
    head = ["preset", "batch", "search", "ours", "theirs", *(f"length {n}" for n in lengths)]
    rows = [
        [
            work.preset,
            str(work.batch),
            work.search,
            ours.dtype,
            f"{peer.name} {peer.dtype}",
            *(cells.get((work, ours, peer, length), "") for length in lengths),
        ]
        for work, ours, peer in sorted({key[:3] for key in cells}, key=_order)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _order(row: tuple[Work, Program, Program]):
    """Returns a sort key: small models first, and similar work in neighboring rows."""
    work, ours, peer = row
    return work.preset != "tiny", work, ours.dtype, peer


def _cell(speeds: Speeds, ours: Program, peer: Program, work: Work) -> str:
    our_speed, peer_speed = speeds[ours][work], speeds[peer][work]
    return f"{our_speed:,.0f} / {peer_speed:,.0f} / {our_speed / peer_speed:.2f}"
