"""The whole way in minutes, without a download: `python -m training.demo --help`.

Sentence pairs from a phrase grammar, a small Transformer, its score on sentences whose combinations
of words it never saw, a picture of its attention, and an export that a process without this project
loads. It is a check as well: it fails if the translations or the export are not good.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from training.command_line.errors import InputError
from training.command_line.parser import CommandParser, parse
from training.command_line.running import run_command
from training.command_line.wording import shortened
from training.phrases.text import CONFIG, LANGUAGES, SHOWN_SENTENCES, DemoText, Pair, train_run
from training.settings import FileSettings, make_settings, read_settings_file

MIN_EXACT_MATCH = 0.95
MUST_BE_RIGHT = SHOWN_SENTENCES[0]
FAILURES_SHOWN = 3
# Where a batch is padded to another width, sums are added in another order.
SCORE_TOLERANCE = 1e-3

Answer = tuple[str, float]


class CheckFailed(InputError):
    """What the demo made is not good enough: one line, and exit code 1."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandParser(
        "demo",
        "Trains a small French-English Transformer on sentences that it makes itself, scores it,"
        " draws its attention and exports it. Run it again to resume; a finished demo starts anew.",
    )
    parser.add_output_folder("output", "runs/demo", "The run folder; the text goes to OUTPUT-text.")
    parser.add_output_folder(
        "export", "saved_models/demo", "Where the next version is exported to."
    )
    parser.add_option("config", str, str(CONFIG), "YAML file with the settings of the training.")
    parser.add_option("num_pairs", int, 24_000, "Sentence pairs to train on.")
    parser.add_option("epochs", int | None, None, "Instead of the setting in the YAML file.")
    parser.add_threads()
    parser.add_flag("overwrite", "Replace a run at OUTPUT even if no demo wrote it.")
    options = parse(parser, arguments)
    run_demo(read_settings_file(options.config), options)


def run_demo(values: FileSettings, options) -> None:
    """All steps, in the order in which they are announced.

    Args:
        values: Settings of the training, without the data files.
        options: What the command line gives.

    Raises:
        CheckFailed: If the translations or the export are not good enough.
        InputError: If an option or a folder does not allow it.
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
    print(f"\nThe demo took {_minutes(time.monotonic() - start_seconds)}.")


def report_scores(pairs: Sequence[Pair], translations: Sequence[str]) -> float:
    """Prints BLEU, the exact matches and some failures.

    Args:
        pairs: Sources and references.
        translations: One for each.

    Returns:
        The part of translations that are their reference to the letter, 0 to 1.
    """
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
    """Prints sentence by sentence whether it is right; `translations` may be longer.

    Returns:
        For each pair whether its translation is right.
    """
    right = []
    for (source, reference), translation in zip(pairs, translations, strict=False):
        right.append(translation == reference)
        verdict = "right" if right[-1] else "wrong"
        print(f"  {source}\n    -> {shortened(translation)}  [{verdict}]")
    return right


def check_translations(exact_match: float, is_shown_right: bool) -> None:
    """Refuses a model that has not learned the grammar.

    Raises:
        CheckFailed: If too few held-out translations are right, or the one that must be is wrong.
    """
    if exact_match < MIN_EXACT_MATCH:
        raise CheckFailed(
            f"the exact match on held-out sentences must be at least {MIN_EXACT_MATCH}. Received:"
            f" {exact_match:.3f}. Train for more --epochs, or on more --num-pairs."
        )
    if not is_shown_right:
        raise CheckFailed(
            f"the translation of {MUST_BE_RIGHT[0]!r} must be {MUST_BE_RIGHT[1]!r}. Received:"
            " another, printed above. Train for more --epochs, or on more --num-pairs."
        )


def draw_attention(translator, source: str, target: str, path: Path) -> None:
    """Writes the picture of a sentence and its translation."""
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
    """Exports the next version and says where."""
    from keras_transformer.export.saved_model import export_saved_model

    texts = [source for source, _ in SHOWN_SENTENCES]
    about = {"description": "French to English, on sentences of a phrase grammar"}
    version = export_saved_model(translator, directory, verify_texts=texts, about=about)
    print(f"exported: {version}")
    return version


def check_export(version: str, texts: Sequence[str], live: Sequence[Answer]) -> None:
    """Compares the export's answers, from a fresh process, to the live translator's.

    Raises:
        CheckFailed: If the export does not load there, or answers otherwise.
    """
    compared = list(zip(texts, ask_fresh_process(version, texts), live, strict=True))
    different = [line for line in compared if not _are_same(line[1], line[2])]
    if different:
        text, *answers = different[0]
        answer, expected = ((shortened(best), number) for best, number in answers)
        raise CheckFailed(
            f"{version}: the export must answer as the live translator. Received:"
            f" {len(different)} of {len(texts)} answers that differ, the first {answer} for"
            f" {text!r} where the live translator has {expected}. Do not serve this version."
        )
    print(f"{len(texts)} sentences: the same translations and scores as before the export.")


def _are_same(answer: Answer, expected: Answer) -> bool:
    return answer[0] == expected[0] and abs(answer[1] - expected[1]) <= SCORE_TOLERANCE


def ask_fresh_process(version: str, texts: Sequence[str]) -> list[Answer]:
    """Has `fresh_process` translate, which cannot import this project.

    Where the project is at hand, an export that leans on it works, and nobody notices until it is
    served. -I keeps the working directory and PYTHONPATH out, the process itself what is installed.

    Raises:
        CheckFailed: If the process fails.
    """
    script = Path(__file__).parent / "serving" / "fresh_process.py"
    finished = subprocess.run(
        [sys.executable, "-I", str(script), version],
        input=json.dumps(list(texts)),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if finished.returncode != 0:
        last_line = finished.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise CheckFailed(
            f"{version}: the export must load where only TensorFlow and TensorFlow Text are."
            f" Received: {last_line[0][:300]}. Run `python -I {script} {version}` to see more."
        )
    return [(translation, score) for translation, score in json.loads(finished.stdout)]


def next_commands(run: Path, text: DemoText) -> str:
    """Commands for what the demo leaves behind, each with a line that says what it does."""
    python, folder, logs = shlex.quote(_python()), shlex.quote(str(run)), run / "logs"
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
        "See the curves of the training in a browser": (
            f"{python} -m tensorboard.main --logdir {shlex.quote(str(logs))}"
        ),
        "Train on your own files, one sentence a line, line by line translations": (
            f"{python} -m training.train --config training/configs/multi30k_tiny.yaml"
            " --train-source FILE --train-target FILE --validation-source FILE"
            " --validation-target FILE --output runs/mine"
        ),
    }
    return "\n".join(f"{what}:\n  {command}" for what, command in commands.items())


def _python() -> str:
    """The interpreter, as one would type it here."""
    relative = os.path.relpath(sys.executable)
    return sys.executable if relative.startswith("..") else relative


def _heading(title: str) -> None:
    print(f"\n{title}\n{'-' * len(title)}")


def _minutes(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s"


if __name__ == "__main__":
    sys.exit(run_command(main))
