"""Checks that an export gives the same answers as the live translator."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transformer.errors import InputError
from keras_transformer.quiet import without_information
from keras_transformer.search.hypotheses import IMPOSSIBLE, length_penalty_of
from keras_transformer.text.blank import is_blank
from keras_transformer.translator import Translator

# Every third text that can be scored is also translated with a prefix.
_TEXTS_PER_PREFIX = 3

# The largest difference between two ways to compute the same number, by precision.
_HALF = 0.05
_ROUNDING = {"bfloat16": _HALF, "float16": _HALF, "int8_bfloat16": _HALF, "int8": 0.01}

# Texts likely to break an export in any language. The last exceeds the limit and is cut.
HARD_TEXTS = (
    "",
    " ",
    "two  spaces and a tab\there",
    "</s> <s> <unk> \u2581 \u2585",
    "naïve cafe\u0301, \ufb01n, Ελλάδα, 눈, עברית",
    "\U0001f469\u200d\U0001f680 \U0001f6b2",
    "line\nbreak\x00nothing",
    "again " * 300,
)

Results = list[tuple[str, float]]  # of one text, best first
Ask = Callable[..., dict[str, np.ndarray]]  # from a signature and its inputs to its outputs
Difference = tuple[Any, Any, Any]  # the text, or the pair; the export's answer; the live answer


def verify_saved_model(
    path: str | os.PathLike[str],
    translator: Translator,
    texts: Sequence[str],
    *,
    tolerance: float | None = None,
) -> None:
    """Loads an export and compares every signature with the live translator.

    It is loaded twice: as Python does, and as TensorFlow Serving does, with only the graph in a
    session, which can fail where Python succeeds. All texts form one batch. Signatures that take
    pairs get each text that is short enough with its live translation; prefixes are the first words
    of some live translations.

    Texts must be equal, with one exception: sums in a different order may swap results that are
    equally good. A different text passes if its score equals that of the live result in its place
    and the live translator's own score for the text. For the same reason, the number of texts may
    differ if the live search found fewer texts than it has beams, because it found one text in
    several spellings.

    Args:
        path: The folder of a version.
        translator: The translator that was exported.
        texts: The texts to translate, 1 or more.
        tolerance: The largest difference of two scores, relative to the score, or absolute if the
            score is below 1; for attention weights always absolute. None allows for rounding: 0.01
            in int8, 0.05 in half precision, even of attention alone, and 0.001 otherwise.

    Raises:
        InputError: The export does not load, lacks a signature, or gives a different answer. The
            message names the signature and the text, and shows both answers.
    """
    path, texts = Path(path), list(texts)
    if not texts:
        raise InputError(
            f"{path}: an export must be verified with some texts. Received: no texts. Give a few."
        )
    precision = translator.precision or translator.model.compute_dtype
    live = _LiveAnswers(translator, texts, tolerance or _ROUNDING.get(precision, 1e-3))
    for loaded in (_loaded_by_python, _loaded_as_serving_does):
        with _faults_are_named(path), without_information(), loaded(path) as (signatures, ask):
            _check_signatures(path, signatures, live.signatures)
            for name in live.signatures:
                for text, answer, expected in live.differences(name, ask):
                    raise InputError(
                        f"{path}: the signature {name} must answer as the live translator does."
                        f" Received: {answer!s:.300} for {text!r:.200}, where the live translator"
                        f" has {expected!s:.300}. Do not serve this version."
                    )


class ScoredPair(NamedTuple):
    """A text with its live translation, and what the live model says of them.

    Attributes:
        pair: The text and its translation.
        source_ids, target_ids: The ids of both, without the end id.
        log_probability: The live model's, in float32, the end included.
    """

    pair: tuple[str, str]
    source_ids: list[int]
    target_ids: list[int]
    log_probability: float


def live_scores(translator: Translator, texts: Iterable[str]) -> list[ScoredPair]:
    """Translates texts and scores the translations; leaves out what is too long to score."""
    exact = Translator(
        translator.model,
        translator.tokenizer,
        max_source_tokens=translator.max_source_tokens,
        max_target_tokens=translator.max_target_tokens,
        precision="float32",
    )
    texts = [text for text in texts if not is_blank(text)]
    found = zip(texts, exact.translate(texts, beam_size=1), strict=True)
    pairs = [pair for pair in found if _may_be_scored(exact, *pair)]
    sources, targets = ([pair[place] for pair in pairs] for place in (0, 1))
    rows = zip(
        pairs,
        exact.tokenizer.source.encode(sources),
        exact.tokenizer.target.encode(targets),
        (log_probability for log_probability, _ in exact.score(sources, targets)),
        strict=True,
    )
    return [ScoredPair(*row) for row in rows]


def check_score(folder: Path, one: ScoredPair, received: float, tolerance: float) -> None:
    """Refuses an export that gives a live translation another log-probability."""
    if not abs(received - one.log_probability) <= tolerance:
        raise InputError(
            f"{folder.name}: the export must give a translation the log-probability of the live"
            f" model. Received: {received:.4f} for {one.pair!a:.300}, where the live model has"
            f" {one.log_probability:.4f}. Nothing was written; please report this."
        )


def _may_be_scored(translator: Translator, source: str, target: str) -> bool:
    tokenizer = translator.tokenizer
    return (
        len(tokenizer.source.encode(source)) < translator.max_source_tokens
        and len(tokenizer.target.encode(target)) < translator.most_target_tokens
    )


class _LiveAnswers:
    """Compares the live translator's answers to some texts with those of an export."""

    def __init__(self, translator: Translator, texts: list[str], tolerance: float) -> None:
        self.translator = translator
        self.tolerance = tolerance
        beam_size = translator.beam_size
        searches = {
            "serving_default": (beam_size, 1),
            "greedy": (1, 1),
            "n_best": (beam_size, beam_size),
        }
        self.inputs = {name: {"text": texts} for name in searches}
        self.results = {
            name: translator.n_best(texts, n, beam_size=beams)
            for name, (beams, n) in searches.items()
        }
        best = [results[0][0] for results in self.results["serving_default"]]
        self.pairs = [
            pair for pair in zip(texts, best, strict=True) if _may_be_scored(translator, *pair)
        ]
        some = self.pairs[::_TEXTS_PER_PREFIX]
        some_texts = [text for text, _ in some]
        prefixes = [_first_words(translation) for _, translation in some]
        self.inputs["n_best_from_prefix"] = {"text": some_texts, "prefix": prefixes}
        self.results["n_best_from_prefix"] = translator.n_best(
            some_texts, beam_size, prefixes=prefixes
        )
        self.signatures = [*self.inputs, "score"]
        if translator.has_attention:
            self.signatures.append("attention")

    def differences(self, name: str, ask: Ask) -> Iterator[Difference]:
        """Yields the text, the export's answer and the live answer wherever these differ."""
        if not self.pairs and name in ("n_best_from_prefix", "score", "attention"):
            return iter(())
        of_pairs = {"score": self._different_scores, "attention": self._different_weights}
        return of_pairs[name](ask) if name in of_pairs else self._different_results(name, ask)

    def _different_results(self, name: str, ask: Ask) -> Iterator[Difference]:
        inputs = self.inputs[name]
        answer = ask(name, **inputs)
        if "translations" in answer:
            texts, scores = answer["translations"], answer["scores"]
        else:
            texts, scores = answer["translation"][:, None], answer["score"][:, None]
        compared = zip(inputs["text"], texts, scores, self.results[name], strict=True)
        for source, row, scores_of_row, expected in compared:
            found = [
                (text.decode("utf-8"), float(score))
                for text, score in zip(row, scores_of_row, strict=True)
                if score != IMPOSSIBLE
            ]
            if not self._are_as_good(source, found, expected, len(row)):
                yield source, found, expected

    def _are_as_good(self, source: str, found: Results, expected: Results, most: int) -> bool:
        if len(found) != len(expected) and (is_blank(source) or len(expected) == most):
            return False
        live, more = dict(expected), found[len(expected) :]
        return (
            0 < len(found) == len(dict(found))
            and all(
                self._is_near(score, other_score)
                and (text == other_text or self._has_score(source, text, score, live))
                for (text, score), (other_text, other_score) in zip(found, expected, strict=False)
            )
            and all(self._has_score(source, text, score, live) for text, score in more)
        )

    def _has_score(self, source: str, text: str, score: float, live: dict[str, float]) -> bool:
        """Whether the live translator gives the text this score."""
        if text in live:
            return self._is_near(score, live[text])
        if not _may_be_scored(self.translator, source, text):
            return False
        translator = self.translator
        [(log_probability, num_tokens)] = translator.score([source], [text])
        penalty = length_penalty_of(
            num_tokens, translator.length_penalty, translator.length_normalization
        )
        return self._is_near(score, log_probability / float(penalty))

    def _different_scores(self, ask: Ask) -> Iterator[Difference]:
        sources, targets = zip(*self.pairs, strict=True)
        answer = ask("score", source=sources, target=targets)
        found = zip(answer["log_probability"].tolist(), answer["num_tokens"].tolist(), strict=True)
        expected = self.translator.score(sources, targets)
        for pair, one, other in zip(self.pairs, found, expected, strict=True):
            if one[1] != other[1] or not self._is_near(one[0], other[0]):
                yield pair, one, other

    def _different_weights(self, ask: Ask) -> Iterator[Difference]:
        sources, targets = zip(*self.pairs, strict=True)
        answer = ask("attention", source=sources, target=targets)
        outputs = (answer[key] for key in ("source_tokens", "target_tokens", "weights"))
        for pair, *tokens, weights in zip(self.pairs, *outputs, strict=True):
            tokens = [_without_padding(row) for row in tokens]
            *expected_tokens, expected = self.translator.attention(*pair)
            expected = _padded_like(weights, expected)
            if tokens != expected_tokens:
                yield pair, tokens, expected_tokens
            elif not np.allclose(weights, expected, rtol=0, atol=self.tolerance):
                farthest = np.abs(weights - expected).argmax()
                yield pair, *(f"a weight of {w.flat[farthest]:.6f}" for w in (weights, expected))

    def _is_near(self, score: float, other: float) -> bool:
        return abs(score - other) <= self.tolerance * max(1.0, abs(other))


def _first_words(text: str) -> str:
    """Returns the first half of a text and the rest of its last word; half if none follows."""
    half = len(text) // 2
    return text[: text.find(" ", half) + 1] or text[:half]


def _without_padding(tokens: np.ndarray) -> list[str]:
    """Drops empty tokens at the end, which are padding: no sub-word is empty."""
    texts = [token.decode("utf-8") for token in tokens]
    while texts and not texts[-1]:
        texts.pop()
    return texts


def _padded_like(weights: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Pads the live weights with 0 to the export's shape; returns NaN if they are larger."""
    more = [(0, there - here) for there, here in zip(weights.shape, expected.shape, strict=True)]
    if min(missing for _, missing in more) < 0:
        return np.full_like(weights, np.nan)
    return np.pad(expected, more)


def _check_signatures(path: Path, found: Sequence[str], expected: Sequence[str]) -> None:
    if set(found) != set(expected):
        raise InputError(
            f"{path}: an export must have the signatures {', '.join(expected)}. Received:"
            f" {', '.join(sorted(found)) or 'none'}. Export again."
        )


@contextlib.contextmanager
def _loaded_by_python(path: Path) -> Iterator[tuple[list[str], Ask]]:
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the SentencePiece ops

    export = tf.saved_model.load(str(path))

    def ask(name: str, **inputs: Sequence[str]) -> dict[str, np.ndarray]:
        answer = export.signatures[name](
            **{key: tf.constant(list(texts), tf.string) for key, texts in inputs.items()}
        )
        return {key: value.numpy() for key, value in answer.items()}

    yield list(export.signatures), ask


@contextlib.contextmanager
def _loaded_as_serving_does(path: Path) -> Iterator[tuple[list[str], Ask]]:
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the SentencePiece ops

    # Not `with session`, which would put the live translator's work into its graph.
    with contextlib.closing(tf.compat.v1.Session(graph=tf.Graph())) as session:
        with session.graph.as_default(), _without_deprecation():
            export = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        signatures = {
            name: signature
            for name, signature in export.signature_def.items()
            if not name.startswith("__")  # these restore variables
        }

        def ask(name: str, **inputs: Sequence[str]) -> dict[str, np.ndarray]:
            signature = signatures[name]
            feed = {signature.inputs[key].name: list(texts) for key, texts in inputs.items()}
            outputs = {key: value.name for key, value in signature.outputs.items()}
            return session.run(outputs, feed)

        yield list(signatures), ask


@contextlib.contextmanager
def _without_deprecation() -> Iterator[None]:
    """Hides TensorFlow's note that loading into a session is deprecated: there is no other way."""
    import tensorflow as tf

    def is_other(record: logging.LogRecord) -> bool:
        return "is deprecated" not in record.getMessage()

    tf.get_logger().addFilter(is_other)
    try:
        yield
    finally:
        tf.get_logger().removeFilter(is_other)


@contextlib.contextmanager
def _faults_are_named(path: Path) -> Iterator[None]:
    """Turns errors of TensorFlow's loaders into one line that names the folder."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.OpError, OSError, KeyError) as error:
        raise InputError(
            f"{path}: an export must load and answer in TensorFlow Serving. Received:"
            f" {' '.join(str(error).split())[:500]}. Export again."
        ) from error
