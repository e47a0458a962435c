"""An export's description of itself: `model.json` for programs, `README.md` for people."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_transformer.model import Transformer
from keras_transformer.search.hypotheses import IMPOSSIBLE
from keras_transformer.text.marian_tokenizer import MarianTokenizer
from keras_transformer.text.tokenizer_pair import Tokenizer, TokenizerSide
from keras_transformer.translator import Translator
from keras_transformer.wording import counted

_PACKAGES = ("keras-seq2seq-transformer", "keras", "tensorflow", "tensorflow-text")

# By SentencePiece's numbers for them.
_TOKENIZER_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}

_NORMALIZATIONS = {
    "none": "text unchanged",
    "nfkc": "text normalized to NFKC",
    "own": "text normalized as the SentencePiece model says",
}

_MOST_SHOWN_SYMBOLS = 10  # model.json has them all

_PURPOSES = {
    "serving_default": "beam search",
    "greedy": "greedy search",
    "n_best": f'all different texts of beam search, best first; "" and {IMPOSSIBLE:g} fill rows up',
    "n_best_from_prefix": 'the same, each beginning with the prefix of its text; "" for none',
    "score": "the log-probability of a translation, summed over its tokens, the end included",
    "attention": "for each target token, where each head of the last decoder layer looked",
}
# The axes of inputs and outputs that have more than (batch,).
_AXES = {
    "translations": "batch, n",
    "scores": "batch, n",
    "source_tokens": "batch, source_length",
    "target_tokens": "batch, target_length",
    "weights": "batch, heads, target_length, source_length",
}


def write_model_card(
    version: Path,
    name: str,
    number: int,
    translator: Translator,
    functions: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Writes `model.json` and `README.md`.

    Args:
        version: The folder of the version.
        name: The model's name.
        number: The version's number.
        translator: The exported translator.
        functions: The translator's concrete functions, by signature.
        about: Additional JSON entries: `description`, a text, `training` and `evaluation`.
    """
    card = {
        "name": name,
        "version": number,
        "description": "",
        "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": _model(translator.model),
        "precision": translator.precision or translator.model.dtype_policy.name,
        "tokenizer": _tokenizer(translator.tokenizer),
        "search": _search(translator),
        "signatures": {key: _signature(function) for key, function in functions.items()},
        "versions": _versions(),
        **about,
    }
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    for name, content in (("model.json", text), ("README.md", _readme(card))):
        # File names that are not UTF-8 decode to surrogates, which JSON escapes this way.
        (version / name).write_text(content, encoding="utf-8", errors="backslashreplace")


def _model(model: keras.Model) -> dict[str, Any]:
    described = {"class": type(model).__name__, "parameters": model.count_params()}
    if not isinstance(model, Transformer):
        return described
    embedding, block = model.embedding.get_config(), model.encoder_blocks[0].get_config()
    described["num_layers"] = len(model.encoder_blocks)
    described["num_decoder_layers"] = len(model.decoder_blocks)
    for config in (embedding, block):
        for key, value in config.items():
            if key not in ("name", "trainable", "dtype") and not key.endswith("_initializer"):
                described[key] = value
    return described


def _tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Describes a tokenizer; if the sides differ, the target, and the source within it."""
    described = _side(tokenizer.target)
    if tokenizer.source is not tokenizer.target:
        described["source"] = _side(tokenizer.source)
    return described


def _side(tokenizer: TokenizerSide) -> dict[str, Any]:
    from sentencepiece import sentencepiece_model_pb2

    # The module makes its classes when it is imported.
    message_class = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]
    model = message_class.FromString(tokenizer.serialized_model)
    kind = model.trainer_spec.model_type
    return {
        "kind": _TOKENIZER_KINDS.get(kind, str(kind)),
        "vocabulary_size": tokenizer.vocabulary_size,
        **_normalization(tokenizer),
        **_symbols(tokenizer),
        "sha256": hashlib.sha256(tokenizer.serialized_model).hexdigest(),
    }


def _normalization(tokenizer: TokenizerSide) -> dict[str, str | None]:
    if isinstance(tokenizer, MarianTokenizer):
        return {"normalization": "own", "punctuation": tokenizer.punctuation}
    return {"normalization": tokenizer.normalization}


def _symbols(tokenizer: TokenizerSide) -> dict[str, list[str]]:
    symbols = [] if isinstance(tokenizer, MarianTokenizer) else [*tokenizer.user_symbols]
    return {"user_symbols": symbols} if symbols else {}


def _search(translator: Translator) -> dict[str, Any]:
    names = (
        "beam_size length_penalty length_normalization max_source_tokens max_target_tokens"
        " min_target_tokens batch_tokens"
    )
    search = {name: getattr(translator, name) for name in names.split()}
    return {**search, "max_scored_target_tokens": translator.most_target_tokens}


def _signature(function: Any) -> dict[str, Any]:
    """Describes the types and shapes of the inputs and outputs, by name."""
    inputs = {spec.name: spec for spec in function.structured_input_signature[0]}
    sides = {"inputs": inputs, "outputs": function.structured_outputs}
    return {
        side: {
            name: {"dtype": spec.dtype.name, "axes": _AXES.get(name, "batch")}
            for name, spec in specs.items()
        }
        for side, specs in sides.items()
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def _readme(card: Mapping[str, Any]) -> str:
    search, name, number = card["search"], card["name"], card["version"]
    description = card["description"] or "The export came without a description of its languages."
    return f"""# {name}, version {number}

{description}

A SavedModel for TensorFlow Serving: text in, translations out, nothing else needed. `model.json`
describes it in full.

## Serve it

    docker run --rm -p 8501:8501 -e MODEL_NAME={name} \\
        -v "$PWD/saved_models/{name}:/models/{name}" tensorflow/serving
    curl -d '{{"instances": ["..."]}}' http://localhost:8501/v1/models/{name}:predict

## Signatures

{_signature_table(card["signatures"])}

Text is UTF-8. A text to translate is cut at {search["max_source_tokens"]} tokens. `score` and
`attention` refuse longer sources, and targets of more than {search["max_scored_target_tokens"]}
tokens. `n_best_from_prefix` refuses prefixes of that many, which leave no room for the end. A text
of nothing but Unicode white space, U+200B and U+FEFF translates to the empty text.

## The model

{_facts(card)}
"""


def _signature_table(signatures: Mapping[str, Any]) -> str:
    lines = ["| signature | inputs | outputs | |", "|---|---|---|---|"]
    for name, signature in signatures.items():
        cells = [
            ", ".join(f"`{key}` {x['dtype']} ({x['axes']})" for key, x in signature[side].items())
            for side in ("inputs", "outputs")
        ]
        lines.append(f"| `{name}` | {cells[0]} | {cells[1]} | {_PURPOSES[name]} |")
    return "\n".join(lines)


def _facts(card: Mapping[str, Any]) -> str:
    model, search, tokenizer = card["model"], card["search"], card["tokenizer"]
    training, evaluation = card.get("training", {}), card.get("evaluation", {})
    sizes = ", ".join(
        f"{key} {model[key]}"
        for key in (
            "num_layers",
            "num_decoder_layers",
            "model_dim",
            "feed_forward_dim",
            "num_heads",
        )
        if key in model
    )
    lines = [
        f"- model: {model['parameters']:,} parameters" + (f"; {sizes}" if sizes else ""),
        f"- precision: {card['precision']}",
        *_sub_words(tokenizer),
        f"- search: beam size {search['beam_size']}, length penalty {search['length_penalty']}"
        f" ({search['length_normalization']})",
        f"- training: {_pairs(training)}{_weights(training)}",
        f"- validation: {_validation(training)}",
        f"- BLEU: {_bleu(evaluation)}",
        f"- exported {card['exported']} with "
        + ", ".join(f"{package} {version}" for package, version in card["versions"].items()),
    ]
    return "\n".join(lines)


def _sub_words(tokenizer: Mapping[str, Any]) -> list[str]:
    sides = {"sub-words": tokenizer}
    if "source" in tokenizer:
        sides = {"source sub-words": tokenizer["source"], "target sub-words": tokenizer}
    lines = []
    for name, side in sides.items():
        line = f"- {name}: {side['vocabulary_size']:,}, {side['kind']},"
        line += f" {_NORMALIZATIONS[side['normalization']]}"
        if side.get("punctuation"):
            line += f"; punctuation normalized for the language {side['punctuation']}"
        if symbols := side.get("user_symbols"):
            line += f"; {counted(len(symbols), 'symbol')} never split: "
            line += " ".join(map(_as_code, symbols[:_MOST_SHOWN_SYMBOLS]))
            line += " ..." if len(symbols) > _MOST_SHOWN_SYMBOLS else ""
        lines.append(line)
    return lines


def _as_code(text: str) -> str:
    """Writes one line of text as Markdown's code, whatever characters it has."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def _pairs(training: Mapping[str, Any]) -> str:
    if "num_pairs" not in training:
        return "an unknown number of sentence pairs"
    return f"{training['num_pairs']:,} sentence pairs"


def _weights(training: Mapping[str, Any]) -> str:
    epochs = training.get("averaged_epochs")
    if not epochs:
        return ""
    mean = "the mean of epochs" if len(epochs) > 1 else "epoch"
    return f"; weights of {mean} {', '.join(map(str, epochs))}"


def _validation(training: Mapping[str, Any]) -> str:
    if "val_perplexity" not in training:
        return "not measured with these weights"
    text = f"perplexity {training['val_perplexity']:.3f}"
    if "val_bleu" not in training:
        return text
    tokenizer = training.get("settings", {}).get("bleu_tokenizer", "13a")
    text += f"; greedy search: BLEU {training['val_bleu']:.2f} (tok:{tokenizer})"
    return text + (f", chrF {training['val_chrf']:.2f}" if "val_chrf" in training else "")


def _bleu(evaluation: Mapping[str, Any]) -> str:
    if "bleu" not in evaluation:
        return "not recorded"
    return (
        f"{evaluation['bleu']:.2f} on {counted(evaluation['num_sentences'], 'sentence')}"
        f" (`{evaluation['bleu_signature']}`)"
    )
