"""Shows every step in minutes, without a download: `python -m training.demo --help`.

Generates sentence pairs from a phrase grammar, trains a small Transformer, scores it on
combinations of words that it never saw, draws its attention, and exports it for a process without
this project. It is also a check: it fails if the translations or the export are not good enough.
"""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from training.command_line.errors import InputError
from training.command_line.parser import CommandParser, parse
from training.command_line.running import run_command
from training.command_line.wording import shortened
from training.phrases.text import CONFIG, LANGUAGES, SHOWN_SENTENCES, DemoText, Pair, train_run
from training.serving import fresh_process
from training.serving.fresh_process import ask_fresh_process
from training.settings import FileSettings, make_settings, read_settings_file

MIN_EXACT_MATCH = 0.95
MUST_BE_RIGHT = SHOWN_SENTENCES[0]
FAILURES_SHOWN = 3
# Padding a batch to a different width changes the order of summation.
SCORE_TOLERANCE = 1e-3

Answer = tuple[str, float]


class CheckFailed(InputError):
    """Raised if the demo's result is not good enough; prints one line and exits with code 1."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = CommandParser(
        "demo",
        "Trains a small French-English Transformer on generated sentences, scores it, draws its"
        " attention and exports it. Run it again to resume; a finished demo starts over.",
    )
    parser.add_output_folder("output", "runs/demo", "The run folder; the text goes to OUTPUT-text.")
    parser.add_output_folder(
        "export", "saved_models/demo", "The folder to export the next version to."
    )
    parser.add_option("config", str, str(CONFIG), "YAML file with the run's settings.")
    parser.add_option("num_pairs", int, 24_000, "Sentence pairs to train on.")
    parser.add_option("epochs", int | None, None, "Epochs to train (default: as in the YAML file).")
    parser.add_threads()
    parser.add_flag("overwrite", "Replace the run at OUTPUT even if no demo wrote it.")
    options = parse(parser, arguments)
    run_demo(read_settings_file(options.config), options)


def run_demo(values: FileSettings, options) -> None:
    """Runs all steps in order.

    Args:
        values: The run's settings, without the data files.
        options: The parsed command line.

    Raises:
        CheckFailed: If the translations or the export are not good enough.
    """
    start_seconds = time.monotonic()
    run = Path(options.output)

    _heading("1. Sentence pairs from a phrase grammar")
    text = DemoText(run.with_name(f"{run.name}-text"))
    held_out = text.write(options.num_pairs)
    own = {} if options.epochs is None else {"epochs": options.epochs}
    settings = make_settings({**values, **own, **text.data_settings()}, values)

    _heading("2. Training")
    train_run(settings, run, overwrite=options.overwrite)

    _heading("3. Held-out sentences: training saw their words, never these combinations")
    from training.runs.translator import load_translator

    translator = load_translator(str(run))
    pairs = [*SHOWN_SENTENCES, *held_out]
    live = [best[0] for best in translator.n_best([source for source, _ in pairs], 1)]
    translations = [translation for translation, _ in live]
    exact_match = report_scores(held_out, translations[len(SHOWN_SENTENCES) :])

    _heading("4. Ten more sentences with combinations that it never saw")
    right = report_sentences(SHOWN_SENTENCES, translations)
    check_translations(exact_match, right[0])

    _heading("5. The attention between two sentences")
    draw_attention(translator, MUST_BE_RIGHT[0], translations[0], run / "attention.png")

    _heading("6. Export, and the same answers from a process without this project")
    version = export(translator, options.export)
    check_export(version, [source for source, _ in pairs], live)

    _heading("What to try next")
    print(next_commands(run, text))
    minutes, seconds = divmod(round(time.monotonic() - start_seconds), 60)
    print(f"\nThe demo took {minutes} min {seconds} s.")


def report_scores(pairs: Sequence[Pair], translations: Sequence[str]) -> float:
    """Prints BLEU, exact matches and some failures; returns the exact matches, from 0 to 1."""
    from training.runs.scores import score

    references = [target for _, target in pairs]
    scores = score(list(translations), references)
    wrong = [
        (source, reference, translation)
        for (source, reference), translation in zip(pairs, translations, strict=True)
        if translation != reference
    ]
    exact_match = 1 - len(wrong) / len(pairs)
    print(f"BLEU {scores.bleu:.2f}  ({scores.bleu_signature})")
    print(f"exact match {exact_match:.3f}  ({len(pairs) - len(wrong)} of {len(pairs)})")
    for source, reference, translation in wrong[:FAILURES_SHOWN]:
        print(f"  wrong: {source}\n         {shortened(translation)}\n  not:   {reference}")
    return exact_match


def report_sentences(pairs: Sequence[Pair], translations: Sequence[str]) -> list[bool]:
    """Prints and returns which translations are right; ignores those after the last pair."""
    right = []
    for (source, reference), translation in zip(pairs, translations, strict=False):
        right.append(translation == reference)
        verdict = "right" if right[-1] else "wrong"
        print(f"  {source}\n    -> {shortened(translation)}  [{verdict}]")
    return right


def check_translations(exact_match: float, is_shown_right: bool) -> None:
    """Refuses a model with too few exact matches, or that gets `MUST_BE_RIGHT` wrong."""
    if exact_match < MIN_EXACT_MATCH:
        raise CheckFailed(
            f"the exact match on held-out sentences must be at least {MIN_EXACT_MATCH}. Received:"
            f" {exact_match:.3f}. Train for more --epochs, or on more --num-pairs."
        )
    if not is_shown_right:
        raise CheckFailed(
            f"the translation of {MUST_BE_RIGHT[0]!r} must be {MUST_BE_RIGHT[1]!r}. Received:"
            " a different one, printed above. Train for more --epochs, or on more --num-pairs."
        )


def draw_attention(translator, source: str, target: str, path: Path) -> None:
    """Draws the attention between a sentence and its translation."""
    from training.pictures.attention import save_attention_picture

    save_attention_picture(
        translator.attention(source, target),
        path,
        source_name="source (French)",
        target_name="target (English)",
    )
    wrote = shortened(target)
    print(f"{path}: where the decoder looked in {source!r}\n  while it wrote {wrote!r}")


def export(translator, directory: str) -> str:
    """Exports the next version; returns its folder."""
    from keras_transformer.export.saved_model import export_saved_model

    texts = [source for source, _ in SHOWN_SENTENCES]
    about = {"description": "French to English, on sentences of a phrase grammar"}
    version = export_saved_model(translator, directory, verify_texts=texts, about=about)
    print(f"exported: {version}")
    return version


def check_export(version: str, texts: Sequence[str], live: Sequence[Answer]) -> None:
    """Refuses an export that does not load in a fresh process, or answers differently there."""
    try:
        exported = ask_fresh_process(version, texts)
    except RuntimeError as error:
        raise CheckFailed(
            f"{version}: the export must load where only TensorFlow and TensorFlow Text are"
            f" installed. Received: {str(error).splitlines()[-1][:300]}. Run `python -I"
            f" {fresh_process.__file__} {version}` to see more."
        ) from error
    different = [
        (text, answer, expected)
        for text, answer, expected in zip(texts, exported, live, strict=True)
        if answer[0] != expected[0] or abs(answer[1] - expected[1]) > SCORE_TOLERANCE
    ]
    if different:
        text, *both = different[0]
        answer, expected = ((shortened(translation), score) for translation, score in both)
        raise CheckFailed(
            f"{version}: the export must answer like the live translator. Received:"
            f" {len(different)} of {len(texts)} answers that differ; the first is {answer} for"
            f" {text!r}, where the live translator gives {expected}. Do not serve this version."
        )
    print(f"{len(texts)} sentences: the same translations and scores as before the export.")


def next_commands(run: Path, text: DemoText) -> str:
    """Returns commands to try on the demo's results, each below a line that explains it."""
    # The interpreter as a user would type it here.
    relative = os.path.relpath(sys.executable)
    interpreter = sys.executable if relative.startswith("..") else relative
    python, folder, logs = shlex.quote(interpreter), shlex.quote(str(run)), run / "logs"
    test = {side: shlex.quote(str(text.path("test", side))) for side in LANGUAGES}
    sentence = shlex.quote("Sophie ne lit pas les vieux romans de Paul.")
    commands = {
        "Translate a sentence of your own, made of words like those above": (
            f"echo {sentence} | {python} -m training.translate {folder}"
        ),
        "Score the held-out sentences again, with greedy search": (
            f"{python} -m training.evaluate {folder} --source {test['source']} --reference"
            f" {test['target']} --beam-size 1"
        ),
        "See the learning curves in a browser": (
            f"{python} -m tensorboard.main --logdir {shlex.quote(str(logs))}"
        ),
        "Train on your own files: one sentence per line, its translation on the same line": (
            f"{python} -m training.train --config training/configs/multi30k_tiny.yaml"
            " --train-source FILE --train-target FILE --validation-source FILE"
            " --validation-target FILE --output runs/mine"
        ),
    }
    return "\n".join(f"{what}:\n  {command}" for what, command in commands.items())


def _heading(title: str) -> None:
    print(f"\n{title}\n{'-' * len(title)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
