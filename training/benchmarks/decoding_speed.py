"""Measures how fast an export translates: `python -m training.benchmark decode --help`."""

import contextlib
import itertools
import json
import os
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from training.benchmarks.flops import decoding_flops
from training.benchmarks.measuring import PRESETS, measure_alone
from training.benchmarks.step_profile import DECODING_PARTS, DECODING_REST, milliseconds_by_part
from training.command_line.errors import InputError, UsageError
from training.command_line.outputs import check_utf_8
from training.command_line.parser import CommandParser, Options, option_name, parse
from training.command_line.running import import_keras, import_tensorflow, quiet_stderr, tell

# Options of a random model and its search, with their defaults. Not allowed with --saved-model.
MODEL_OPTIONS = {
    "preset": "tiny",
    "num_layers": None,
    "num_decoder_layers": None,
    "dtype": "float32",
    "beam_size": [4],
    "length": [25],
    "source_length": 25,
    "vocabulary_size": None,
}

SHORTEST = 2  # a length of 1 would leave no token besides the end token
LARGEST_VOCABULARY = 80_000

# An export always has a beam search, even if only its greedy search is measured.
BEAM_SIZE_BESIDE_GREEDY = 4

# Made-up words are rare Chinese characters, which start here.
FIRST_CHARACTER = 0x20000
SPACE = "\u2581"  # SentencePiece's space


def measure_decoding(arguments: Sequence[str]) -> None:
    """Translates with exports, each time in a fresh process, and prints their speed."""
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
        "Measures an export of a random model, whose translations all have the same length; or,"
        " with --saved-model, any export on lines of real text. Prints a line for each length, beam"
        " size and batch size.",
    )
    several = {"least": 1, "nargs": "+"}
    presets = Literal[tuple(PRESETS)]
    dtypes = Literal["float32", "bfloat16", "int8", "int8_bfloat16"]
    parser.add_option("preset", presets | None, None, "Size of the model (default: tiny).")
    parser.add_option(
        "num_layers", int | None, None, "Layers, for trials (default: the preset's).", least=1
    )
    help_text = "Layers of the decoder, for trials (default: as many as the encoder's)."
    parser.add_option("num_decoder_layers", int | None, None, help_text, least=1)
    parser.add_option("dtype", dtypes | None, None, "Precision of the export (default: float32).")
    parser.add_option("batch", int, [32], "Sentences at once.", **several)
    parser.add_option("beam_size", int, None, "Beams; 1 is greedy (default: 4).", **several)
    help_text = "Tokens per translation, with the end token (default: 25)."
    parser.add_option("length", int, None, help_text, least=SHORTEST, nargs="+")
    help_text = "Tokens per source, with the end token (default: 25)."
    parser.add_option("source_length", int | None, None, help_text, least=SHORTEST)
    help_text = "Sub-words (default: 10,000 for tiny, 8,000 for base and big)."
    parser.add_option("vocabulary_size", int | None, None, help_text, least=300)
    parser.add_option("repeats", int, 5, "Repeats; the median is reported.", least=1)
    parser.add_threads()
    parser.add_flag("profile", "Show where the time goes.")
    parser.add_option("saved_model", str | None, None, "A version of an export to measure instead.")
    parser.add_option("text", str | None, None, "With --saved-model: a file of lines to translate.")
    parser.add_flag("greedy", "With --saved-model: measure its greedy search, not its beam search.")
    return parser


def _check(options: Options) -> None:
    if (options.vocabulary_size or 0) > LARGEST_VOCABULARY:
        raise UsageError(
            f"--vocabulary-size must be at most {LARGEST_VOCABULARY}. Received:"
            f" {options.vocabulary_size}. Choose a smaller number."
        )
    if (options.saved_model is None) != (options.text is None):
        raise UsageError(
            "--saved-model and --text must be given together. Received: one of them. Give both, or"
            " neither to measure a random model."
        )
    of_the_model = [option_name(name) for name in MODEL_OPTIONS if options[name] is not None]
    if options.saved_model and of_the_model:
        raise UsageError(
            "--saved-model must be given without options that its export determines. Received:"
            f" {', '.join(of_the_model)}. Leave these options out."
        )
    if options.greedy and not options.saved_model:
        raise UsageError(
            "--greedy must be given with --saved-model. Received: --greedy alone. Use"
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
    options.vocabulary_size = options.vocabulary_size or PRESETS[options.preset][0]
    names = "num_layers", "num_decoder_layers"
    changes = {name: options[name] for name in names if options[name]}
    config = getattr(TransformerConfig, options.preset)(options.vocabulary_size, **changes)
    keras.utils.set_random_seed(0)  # before the tokenizer exists, which it would destroy
    tokenizer, words = tokenizer_of_words(options.vocabulary_size)
    model = inference_model(random_transformer(config), options.dtype)
    what = {"preset": options.preset, **changes, "dtype": options.dtype}
    what["threads"] = options.threads or os.cpu_count()
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
                texts = made_up_texts(tokenizer, words, batch, options.source_length)
                _measure_work(version, work, what, texts, config, options)


def _measure_work(version: str, work: dict, what: dict, texts: list[str], config, options) -> None:
    tell(", ".join(f"{name} {number}" for name, number in work.items()))
    batch, length = work["batch"], work["length"]
    signature = "serving_default" if work["beam_size"] > 1 else "greedy"
    # Every token except the end token takes at least one byte of text.
    measured = _served(version, signature, [texts], options, fewest_bytes=length - 1)
    seconds = statistics.median(measured["seconds"])
    rates = {
        "tokens_per_second": round(batch * length / seconds, 1),
        "sentences_per_second": round(batch / seconds, 2),
        "step_ms": round(1000 * seconds / length, 3),
        "gflops_per_second": round(decoding_flops(config, **work) / seconds / 1e9, 1),
    }
    _print_line({**what, **work, "vocabulary_size": options.vocabulary_size}, measured, rates)


def exports_for(beam_sizes: list[int]) -> list[tuple[int, list[int]]]:
    """Returns the beam size of each export to make, and the beam sizes to measure with it.

    Every export also has a greedy search; beam size 1 is measured with the first export.
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
    import_keras()
    from keras_transformer.text.lines import read_lines

    lines = read_lines(options.text)
    check_utf_8("--saved-model", options.saved_model)
    if not (Path(options.saved_model) / "saved_model.pb").exists():
        raise InputError(
            f"{options.saved_model}: must be one version of an export. Received: a path without"
            " saved_model.pb. Give a path like saved_models/NAME/VERSION."
        )
    from keras_transformer.checksums import check_export

    check_export(options.saved_model)
    signature = "greedy" if options.greedy else "serving_default"
    for batch in options.batch:
        tell(f"{len(lines)} lines, batch {batch}")
        batches = [lines[start : start + batch] for start in range(0, len(lines), batch)]
        measured = _served(options.saved_model, signature, batches, options, fewest_bytes=0)
        what = {
            "saved_model": options.saved_model,
            "signature": signature,
            "text": options.text,
            "sentences": len(lines),
            "threads": options.threads or os.cpu_count(),
            "batch": batch,
        }
        seconds = statistics.median(measured["seconds"])
        _print_line(what, measured, {"sentences_per_second": round(len(lines) / seconds, 2)})


def random_transformer(config):
    """Returns a model in which no weight is constant, as in a trained model.

    Biases start at zero and normalization scales at one. TensorFlow would skip additions of
    constant zeros and multiplications by constant ones.
    """
    import numpy as np

    from keras_transformer.model import build_transformer

    model, generator = build_transformer(config), np.random.default_rng(0)
    for weight in model.trainable_weights:
        if np.ptp(weight) == 0:
            weight.assign_add(generator.normal(scale=0.02, size=weight.shape))
    return model


def tokenizer_of_words(vocabulary_size: int) -> tuple:
    """Trains a tokenizer on made-up words; returns it and the words that are a single sub-word.

    A word is one character. It takes two entries of the vocabulary, with and without a space before
    it, so there are about half as many words as entries.

    Args:
        vocabulary_size: From 300 to 80,000.
    """
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer

    # A few more than fit, since the tokenizer leaves 0.01% of the characters as bytes.
    num_characters = vocabulary_size // 2 + vocabulary_size // 5000 - 128
    characters = [chr(FIRST_CHARACTER + number) for number in range(num_characters)]
    tokenizer = SubwordTokenizer.train_from_lines([f"{c} {c}" for c in characters], vocabulary_size)
    pieces = set(tokenizer.pieces(range(vocabulary_size)))
    return tokenizer, [c for c in characters if {c, SPACE + c} <= pieces]


def made_up_texts(tokenizer, words: list[str], batch: int, source_length: int) -> list[str]:
    """Returns texts of `source_length` tokens, with the end token; always the same texts.

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
def _exported(model, tokenizer, beam_size: int, source_length: int, length: int) -> Iterator[str]:
    """Yields an exported version whose translations have `length` tokens, then removes it."""
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
        batch_tokens=2**20,  # large enough that no batch is split
    )
    with tempfile.TemporaryDirectory() as folder:
        with quiet_stderr():  # SentencePiece reports what it reads
            version = export_saved_model(translator, folder)
        yield version


def _served(
    version: str, signature: str, batches: list[list[str]], options: Options, fewest_bytes: int
) -> dict:
    """Returns the measurements of `served_speed.py`, with `profile_ms` and `export_mib`."""
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "version": version,
            "signature": signature,
            "batches": batches,
            "repeats": options.repeats,
            "fewest_bytes": fewest_bytes,
            "profile": folder if options.profile else None,
        }
        rule = f"{version}: an export must load and translate"
        measured = measure_alone("served_speed.py", request, rule)
        if options.profile:
            call_ms = 1000 * statistics.median(measured["seconds"])
            measured["profile_ms"] = milliseconds_by_part(
                folder, DECODING_PARTS, DECODING_REST, call_ms
            )
    num_bytes = sum(path.stat().st_size for path in Path(version).rglob("*") if path.is_file())
    return {**measured, "export_mib": round(num_bytes / 2**20, 1)}


def _print_line(what: dict, measured: dict, rates: dict) -> None:
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
