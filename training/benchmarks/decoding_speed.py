"""How fast an export translates: `python -m training.benchmark decode --help`."""

import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from training.benchmarks.flops import decoding_flops
from training.benchmarks.step_profile import DECODING_PARTS, DECODING_REST, milliseconds_by_part
from training.benchmarks.training_speed import PRESETS
from training.command_line.errors import InputError, UsageError
from training.command_line.outputs import check_utf_8
from training.command_line.parser import CommandParser, Options, option_name, parse
from training.command_line.running import import_tensorflow, quiet_stderr, tell

if TYPE_CHECKING:
    import keras

    from keras_transformer.config import TransformerConfig
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer

# What describes a random model and its search, with the default; it has no place beside
# --saved-model.
MODEL_OPTIONS = {
    "preset": "tiny",
    "num_layers": None,
    "dtype": "float32",
    "beam_size": [4],
    "length": [25],
    "source_length": 25,
    "vocabulary_size": None,
}

# The fewest that a number may be. A translation of one token is its end and nothing else.
FEWEST = {"length": 2, "source_length": 2, "vocabulary_size": 300}
NUMBERS = "num_layers batch beam_size length source_length vocabulary_size repeats".split()
LARGEST_VOCABULARY = 80_000

# An export always holds a beam search, also where its greedy search alone is measured.
BEAM_SIZE_BESIDE_GREEDY = 4

# Rare Chinese characters, each of which is one made-up word.
FIRST_CHARACTER = 0x20000
SPACE = "\u2581"  # how SentencePiece spells it

SERVED_SPEED = Path(__file__).with_name("served_speed.py")


def measure_decoding(arguments: Sequence[str]) -> None:
    """Translates with exports, each time in a fresh process, and prints how fast."""
    options = parse(_parser(), arguments)
    _check(options)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if options.saved_model is None:
        _measure_random_model(options)
    else:
        _measure_real_lines(options)


def _parser() -> CommandParser:
    parser = CommandParser(
        "benchmark decode",
        "Measures an export: of a random model whose translations have all the same length, or,"
        " with --saved-model, any on real lines. A line for each length, beam size and batch size.",
    )
    several = {"nargs": "+"}
    presets = Literal["tiny", "base", "big"]
    dtypes = Literal["float32", "bfloat16", "int8", "int8_bfloat16"]
    parser.add_option("preset", presets | None, None, "The model's size; tiny.")
    parser.add_option("num_layers", int | None, None, "Instead of the preset's, to try things.")
    parser.add_option("dtype", dtypes | None, None, "Precision of the export; float32.")
    parser.add_option("batch", int, [32], "Sentences at once; 32.", **several)
    parser.add_option("beam_size", int, None, "Beams, 1 is greedy; 4.", **several)
    parser.add_option("length", int, None, "Tokens of a translation, its end too; 25.", **several)
    parser.add_option("source_length", int | None, None, "Tokens of a source, its end too; 25.")
    parser.add_option("vocabulary_size", int | None, None, "tiny 10,000, base and big 8,000.")
    parser.add_option("repeats", int, 5, "Repeats; the median counts.")
    parser.add_threads()
    parser.add_flag("profile", "Tell where the time goes.")
    parser.add_option("saved_model", str | None, None, "A version of an export to measure instead.")
    parser.add_option("text", str | None, None, "With --saved-model: lines to translate, in order.")
    parser.add_flag("greedy", "With --saved-model: its greedy search, not its beam search.")
    return parser


def _check(options: Options) -> None:
    """Refuses numbers that are out of range, and options that do not go together."""
    for name in NUMBERS:
        given, fewest = options[name], FEWEST.get(name, 1)
        for number in given if isinstance(given, list) else [given]:
            if number is not None and number < fewest:
                raise UsageError(
                    f"{option_name(name)} must be at least {fewest}. Received: {number}. Choose"
                    f" {fewest} or more."
                )
    if (options.vocabulary_size or 0) > LARGEST_VOCABULARY:
        raise UsageError(
            f"--vocabulary-size must be at most {LARGEST_VOCABULARY}. Received:"
            f" {options.vocabulary_size}. Choose less."
        )
    if (options.saved_model is None) != (options.text is None):
        raise UsageError(
            "--saved-model and --text must be given together. Received: one of them. Give both, or"
            " none to measure a random model."
        )
    of_the_model = [option_name(name) for name in MODEL_OPTIONS if options[name] is not None]
    if options.saved_model and of_the_model:
        raise UsageError(
            "--saved-model must be given without what its export has settled. Received:"
            f" {', '.join(of_the_model)}. Leave it out."
        )
    if options.greedy and not options.saved_model:
        raise UsageError(
            "--greedy must be given with --saved-model. Received: --greedy alone. Give"
            " --beam-size 1 instead."
        )


def _measure_random_model(options: Options) -> None:
    """Prints a line for each length, beam size and batch size."""
    import_tensorflow()
    import keras

    from keras_transformer.config import TransformerConfig
    from keras_transformer.decoding.precision import inference_model

    for name, default in MODEL_OPTIONS.items():
        options[name] = options[name] or default
    vocabulary_size = options.vocabulary_size or PRESETS[options.preset][0]
    changes = {"num_layers": options.num_layers} if options.num_layers else {}
    config = getattr(TransformerConfig, options.preset)(vocabulary_size, **changes)
    keras.utils.set_random_seed(0)  # before there is a tokenizer, which it would destroy
    tokenizer, words = tokenizer_of_words(vocabulary_size)
    model = inference_model(random_transformer(config), options.dtype)
    for length, (exported_beam_size, beam_sizes) in itertools.product(
        options.length, exports_for(options.beam_size)
    ):
        with _exported(
            model, tokenizer, exported_beam_size, options.source_length, length
        ) as version:
            for beam_size, batch in itertools.product(beam_sizes, options.batch):
                work = {
                    "batch": batch,
                    "beam_size": beam_size,
                    "source_length": options.source_length,
                    "length": length,
                }
                tell(", ".join(f"{name} {number}" for name, number in work.items()))
                measured = _served(
                    version,
                    "serving_default" if beam_size > 1 else "greedy",
                    [made_up_texts(tokenizer, words, batch, options.source_length)],
                    options,
                    fewest_bytes=length - 1,  # no token is written in less than one
                )
                what = {"preset": options.preset, **changes, "dtype": options.dtype}
                what |= {"threads": options.threads or os.cpu_count(), **work}
                seconds = statistics.median(measured["seconds"])
                rates = {
                    "tokens_per_second": round(batch * length / seconds, 1),
                    "sentences_per_second": round(batch / seconds, 2),
                    "step_ms": round(1000 * seconds / length, 3),
                    "gflops_per_second": round(decoding_flops(config, **work) / seconds / 1e9, 1),
                }
                _print_line(what | {"vocabulary_size": vocabulary_size}, measured, rates)


def exports_for(beam_sizes: list[int]) -> list[tuple[int, list[int]]]:
    """The beam size of each export that is needed, and the beam sizes that are measured with it.

    Each export has a greedy search, too; that of the first is measured.
    """
    wide = [beam_size for beam_size in beam_sizes if beam_size > 1]
    if 1 not in beam_sizes:
        return [(beam_size, [beam_size]) for beam_size in wide]
    if not wide:
        return [(BEAM_SIZE_BESIDE_GREEDY, [1])]
    first, *others = wide
    return [(first, [1, first]), *((beam_size, [beam_size]) for beam_size in others)]


def _measure_real_lines(options: Options) -> None:
    """Prints a line for each batch size."""
    from keras_transformer.text.lines import read_lines

    lines = read_lines(options.text)
    check_utf_8("--saved-model", options.saved_model)
    if not (Path(options.saved_model) / "saved_model.pb").exists():
        raise InputError(
            f"{options.saved_model}: must be one version of an export. Received: a path without"
            " saved_model.pb. Give saved_models/NAME/VERSION."
        )
    for batch in options.batch:
        tell(f"{len(lines)} lines, batch {batch}")
        batches = [lines[start : start + batch] for start in range(0, len(lines), batch)]
        name = "greedy" if options.greedy else "serving_default"
        measured = _served(options.saved_model, name, batches, options, fewest_bytes=0)
        _print_line(
            {
                "saved_model": options.saved_model,
                "signature": name,
                "text": options.text,
                "sentences": len(lines),
                "threads": options.threads or os.cpu_count(),
                "batch": batch,
            },
            measured,
            {"sentences_per_second": round(len(lines) / statistics.median(measured["seconds"]), 2)},
        )


def random_transformer(config: "TransformerConfig") -> "keras.Model":
    """A model of which no weight holds one number alone, as none of a trained model does.

    Biases begin at zero and the scales of normalizations at one, and TensorFlow would leave out
    what adds a constant zero or multiplies by a constant one.
    """
    import numpy as np

    from keras_transformer.model import build_transformer

    model, generator = build_transformer(config), np.random.default_rng(0)
    for weight in model.trainable_weights:
        if np.ptp(weight) == 0:
            weight.assign_add(generator.normal(scale=0.02, size=weight.shape))
    return model


def tokenizer_of_words(vocabulary_size: int) -> tuple["SubwordTokenizer", list[str]]:
    """A tokenizer that was learnt from made-up words, and those that are a sub-word each.

    A word is one character. It needs two of the vocabulary, itself and with a space before it, so
    that the words are about half of the vocabulary.

    Args:
        vocabulary_size: From 300 to 80,000.
    """
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer

    # The tokenizer spells 0.01% of the characters in bytes, which these are too many by.
    num_characters = vocabulary_size // 2 + vocabulary_size // 5000 - 128
    characters = [chr(FIRST_CHARACTER + number) for number in range(num_characters)]
    tokenizer = SubwordTokenizer.train_from_lines([f"{c} {c}" for c in characters], vocabulary_size)
    pieces = set(tokenizer.pieces(range(vocabulary_size)))
    return tokenizer, [c for c in characters if {c, SPACE + c} <= pieces]


def made_up_texts(
    tokenizer: "SubwordTokenizer", words: list[str], batch: int, source_length: int
) -> list[str]:
    """Texts of so many tokens, the end included; always the same.

    Raises:
        RuntimeError: If the tokenizer splits a word.
    """
    generator = random.Random(0)
    texts = [" ".join(generator.choices(words, k=source_length - 1)) for _ in range(batch)]
    lengths = {len(token_ids) + 1 for token_ids in tokenizer.encode(texts)}
    if lengths != {source_length}:
        raise RuntimeError(
            f"Each made-up text must have {source_length} tokens. Received: {sorted(lengths)}."
        )
    return texts


@contextlib.contextmanager
def _exported(
    model: "keras.Model",
    tokenizer: "SubwordTokenizer",
    beam_size: int,
    source_length: int,
    length: int,
) -> Iterator[str]:
    """An exported version whose translations have `length` tokens, for as long as it is needed."""
    from keras_transformer.export.saved_model import export_saved_model
    from keras_transformer.translator import Translator

    tell(f"exporting length {length}, beam size {beam_size}")
    translator = Translator(
        model,
        tokenizer,
        beam_size=beam_size,
        max_source_tokens=source_length,
        min_target_tokens=length,
        max_target_tokens=length,
        batch_tokens=2**20,  # a batch is not split: its size is what is measured
    )
    with tempfile.TemporaryDirectory() as folder:
        with quiet_stderr():  # SentencePiece tells what it reads
            version = export_saved_model(translator, folder)
        yield version


def _served(
    version: str, signature: str, batches: list[list[str]], options: Options, fewest_bytes: int
) -> dict:
    """What `served_speed` answers, and `profile_ms` where that is asked for.

    Raises:
        InputError: With the process' own words, if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "version": version,
            "signature": signature,
            "batches": batches,
            "repeats": options.repeats,
            "fewest_bytes": fewest_bytes,
            "profile": folder if options.profile else None,
        }
        process = subprocess.run(
            [sys.executable, "-I", SERVED_SPEED],
            input=json.dumps(request),
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
        )
        if process.returncode:
            raise InputError(
                f"{version}: an export must load and translate in a process of its own. Received:"
                f" {_last_words(process)}"
            )
        measured = json.loads(process.stdout)
        if options.profile:
            call_ms = 1000 * statistics.median(measured["seconds"])
            measured["profile_ms"] = milliseconds_by_part(
                folder, DECODING_PARTS, DECODING_REST, call_ms
            )
    return {**measured, "export_mib": _mib(version)}


def _last_words(process: subprocess.CompletedProcess) -> str:
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return f"{name}, which ended it. If memory ran out, choose a smaller --batch."
    return (process.stderr.strip() or "no message").splitlines()[-1]


def _mib(folder: str) -> float:
    num_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return round(num_bytes / 2**20, 1)


def _print_line(what: dict, measured: dict, rates: dict) -> None:
    """One measurement: what was measured, the seconds, what follows from them, and the rest."""
    seconds = measured["seconds"]
    line = {
        "task": "decode",
        **what,
        "seconds": round(statistics.median(seconds), 6),
        "seconds_min": round(min(seconds), 6),
        "seconds_max": round(max(seconds), 6),
        "repeats": len(seconds),
        **rates,
        "load_seconds": round(measured["load_seconds"], 2),
        "first_call_seconds": round(measured["first_call_seconds"], 2),
    }
    for name in ("profile_ms", "export_mib", "memory_mib", "peak_memory_mib"):
        if name in measured:
            line[name] = measured[name]
    print(json.dumps(line))
