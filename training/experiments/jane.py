"""Draws the attention of every head and layer for "Jane visite l'Afrique en septembre.".

Run `python -m training.experiments jane --help`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from training.command_line.errors import InputError
from training.command_line.parser import CommandParser, parse
from training.command_line.running import import_tensorflow
from training.command_line.wording import shortened
from training.experiments.names import ATTENTION
from training.experiments.report import write_report
from training.phrases.text import SHOWN_SENTENCES
from training.runs.folder import RunFolder

SOURCE, TARGET = SHOWN_SENTENCES[0]
# A head is called spread if no pattern has this share of its weight.
MOST = 0.5
MAX_TOKENS = 40  # on either side; a larger picture is illegible


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = CommandParser(
        "experiments jane",
        "Draws the attention of every head and layer for a sentence and its translation, and"
        " describes where most of each head's weight goes.",
    )
    parser.add_option(
        "run", str, "runs/demo", "A finished run. If absent, the demo's run is trained."
    )
    parser.add_option(
        "epoch", int | None, None, "Use the weights after this epoch instead of the final model."
    )
    parser.add_option("source", str, SOURCE, "The sentence.")
    parser.add_option("target", str | None, None, "The translation; by default, the run's own.")
    parser.add_output_folder("output", "runs/jane", "The folder for the results.")
    parser.add_threads()
    options = parse(parser, arguments)
    import_tensorflow()
    draw(
        _translator(options.run, options.epoch),
        options.source,
        options.target,
        Path(options.output),
    )


def _translator(run_folder: str, epoch: int | None = None):
    """Loads the run's translator; trains the demo's run first if it is absent."""
    from training.runs.translator import load_translator

    if run_folder == "runs/demo" and not RunFolder(run_folder).is_finished:
        from training.phrases.text import CONFIG, DemoText, train_run
        from training.settings import make_settings, read_settings_file

        text = DemoText(Path("runs/demo-text"))
        text.write(24_000)
        settings = make_settings(read_settings_file(CONFIG) | text.data_settings())
        train_run(settings, Path(run_folder), overwrite=False)
    return load_translator(run_folder, epoch=epoch)


def draw(translator, source: str, target: str | None, output: Path) -> None:
    """Writes a picture for each kind of attention, and a table of all heads.

    Args:
        translator: A Transformer's translator.
        source: The sentence.
        target: The translation; None for the translator's own.
        output: The folder to write to.

    Raises:
        InputError: If a sentence is too long for a picture.
    """
    if target is None:
        [target] = translator([source])
    print(f"{source}\n{shortened(target)}\n", flush=True)
    attention = translator.attention_by_layer(source, target)
    longest = max(len(attention.source_tokens), len(attention.target_tokens))
    if longest > MAX_TOKENS:
        raise InputError(
            f"A picture must have at most {MAX_TOKENS} tokens on a side. Received: {longest}."
            " Give a shorter --source or --target."
        )
    weights = {kind: getattr(attention, kind) for kind in ATTENTION}
    rows = [
        (ATTENTION[kind].name, layer + 1, head + 1, *describe(kind, of_kind[layer, head]))
        for kind, of_kind in weights.items()
        for layer, head in np.ndindex(*of_kind.shape[:2])
    ]
    write_report(
        output,
        "jane",
        caption=f'The heads on "{source}" -> "{target}": the pattern with most of the weight, its'
        " share, and the number of tokens that a row is spread over (the exponential of its"
        " entropy); both numbers are means over the rows.\n\nIn the pictures, each row adds up to"
        f" 1. {' '.join(kind.explanation for kind in ATTENTION.values())}",
        columns=["attention", "layer", "head", "looks at", "share", "tokens"],
        rows=[
            (*which, what, f"{share:.2f}", f"{spread:.1f}") for *which, what, share, spread in rows
        ],
        measured={
            "source": source,
            "target": target,
            "tokens": {
                "source": attention.source_tokens,
                "read": attention.read_tokens,
                "target": attention.target_tokens,
            },
            "weights": {kind: np.round(one, 4).tolist() for kind, one in weights.items()},
        },
    )


def describe(kind: str, weights: np.ndarray) -> tuple[str, float, float]:
    """Finds the pattern that gets most of a head's weight.

    Args:
        kind: A name in `ATTENTION`.
        weights: Float (query_length, key_length), rows that sum to 1.

    Returns:
        The pattern in words, its share of the weight, and the number of tokens that a row is spread
        over (the exponential of its entropy). Both numbers are means over the rows.
    """
    found = {name: share(weights) for name, share in _patterns(kind).items()}
    name, share = max(found.items(), key=lambda item: item[1])
    tokens = np.exp(-(weights * np.log(np.maximum(weights, 1e-12))).sum(axis=1)).mean()
    return (name if share >= MOST else f"spread; most at {name}"), float(share), float(tokens)


def _patterns(kind: str) -> dict[str, Callable[[np.ndarray], float]]:
    """Returns functions from weights to each pattern's mean share in the rows that can have it."""

    def diagonal(offset):
        return lambda weights: float(np.diagonal(weights, offset).mean())

    def column(place):
        return lambda weights: float(weights[:, place].mean())

    if kind == "encoder":
        places = {"itself": 0, "the token before": -1, "the token after": 1}
        return {name: diagonal(offset) for name, offset in places.items()} | {
            "the end": column(-1),
        }
    if kind == "decoder":
        return {
            "itself": diagonal(0),
            "the token before": diagonal(-1),
            "the start": lambda weights: float(weights[1:, 0].mean()) if len(weights) > 1 else 1.0,
        }
    return {
        "one token, another for each row": _alignment,
        "the end": column(-1),
    }


def _alignment(weights: np.ndarray) -> float:
    """Returns the mean weight when each row is paired with a column of its own.

    A head that aligns words has nearly all its weight there. A head that always looks at the same
    token has little.
    """
    left, pairs = weights.copy(), min(weights.shape)
    total = 0.0
    for _ in range(pairs):  # takes the heaviest cell, then excludes its row and column
        row, column = np.unravel_index(left.argmax(), left.shape)
        total += left[row, column]
        left[row, :] = left[:, column] = -1.0
    return float(total / pairs)
