"""Text to text: a model, its tokenizer and a search."""

import functools
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_transformer.config import EXTRA_TARGET_TOKENS
from keras_transformer.decoding.beam import beam_search
from keras_transformer.decoding.greedy import greedy_search
from keras_transformer.decoding.hypotheses import (
    IMPOSSIBLE,
    Hypotheses,
    check_length_penalty,
)
from keras_transformer.errors import InputError
from keras_transformer.masks import padding_mask
from keras_transformer.model import cross_attention_weights, decoding_steps
from keras_transformer.tokenizer import SubwordTokenizer

LOGGER = logging.getLogger("keras_transformer")

# What counts as blank, here as in the exported graph: TensorFlow strips these and no others.
_BLANK = " \t\n\v\f\r"


class AttentionWeights(NamedTuple):
    """Which source tokens the model looked at for each target token.

    Attributes:
        source_tokens: The source's sub-words, the end included.
        target_tokens: The target's sub-words, the end included.
        weights: Float32 (heads, target_length, source_length) of the last decoder block; row t is
            what predicted target token t.
    """

    source_tokens: list[str]
    target_tokens: list[str]
    weights: np.ndarray


class Translator:
    """Translates lists of texts.

    Args:
        model: A trained model of a class that `decoding_steps` knows.
        tokenizer: The tokenizer that it was trained with.
        beam_size: Beams of the search; 1 is greedy search.
        length_penalty: Alpha of section 6.1.
        max_source_tokens: Longest source that is read, in tokens, the end included. What is longer
            is cut there, and a warning counts how many were.
        batch_tokens: Source tokens that are translated at once, padding included.

    Raises:
        ValueError: If a number is out of its range, or the model's vocabulary is not the
            tokenizer's.

    Example:
        >>> translator = Translator.load("runs/en-de")
        >>> translator(["A man rides a bicycle."])
        ['Ein Mann fährt Fahrrad.']
    """

    def __init__(
        self,
        model: keras.Model,
        tokenizer: SubwordTokenizer,
        *,
        beam_size: int = 4,
        length_penalty: float = 0.6,
        max_source_tokens: int = 256,
        batch_tokens: int = 2048,
    ):
        for name, value in (
            ("beam_size", beam_size),
            ("max_source_tokens", max_source_tokens),
            ("batch_tokens", batch_tokens),
        ):
            if value < 1:
                raise ValueError(
                    f"{name} must be at least 1. Received: {name}={value}. Choose 1 or more."
                )
        check_length_penalty(length_penalty)
        _check_vocabulary(model, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.beam_size = beam_size
        self.length_penalty = length_penalty
        self.max_source_tokens = max_source_tokens
        self.batch_tokens = batch_tokens
        self.steps = decoding_steps(model)
        self._compiled = {}

    @classmethod
    def load(
        cls,
        run: str | os.PathLike,
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
    ) -> "Translator":
        """The translator of a finished run folder.

        Args:
            run: The folder that `python -m training.train` wrote.
            beam_size: Instead of the run's own setting.
            length_penalty: Instead of the run's own setting.

        Raises:
            InputError: If the folder is no finished run or a file in it cannot be read.
        """
        settings = _read_settings(Path(run) / "config.yaml")
        if beam_size is not None:
            settings["beam_size"] = beam_size
        if length_penalty is not None:
            settings["length_penalty"] = length_penalty
        model = read_model(Path(run) / "model.keras")
        tokenizer = SubwordTokenizer.load(Path(run) / "tokenizer.model")
        try:
            return cls(model, tokenizer, **settings)
        except ValueError as error:
            raise InputError(f"{run}: {error}") from error

    def __call__(self, texts: Iterable[str]) -> list[str]:
        """Translates each text; the blank text translates to the empty one.

        Args:
            texts: Any number of texts.

        Returns:
            As many translations, in the same order.
        """
        return self.translate(texts)

    def translate(
        self,
        texts: Iterable[str],
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
    ) -> list[str]:
        """As calling the translator, with another search for this once if one is given."""
        results = self.n_best(texts, 1, beam_size=beam_size, length_penalty=length_penalty)
        return [best[0][0] for best in results]

    def n_best(
        self,
        texts: Iterable[str],
        n: int,
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
    ) -> list[list[tuple[str, float]]]:
        """The `n` best translations of each text with their scores, best first.

        Args:
            texts: Any number of texts.
            n: Translations for each, at most `beam_size`.
            beam_size: Instead of the translator's own.
            length_penalty: Instead of the translator's own.

        Returns:
            For each text up to `n` pairs of translation and score; the search may end with fewer.
            A score is the log-probability of the tokens, the end included, divided by the length
            penalty. The blank text has the one translation ("", 0.0).
        """
        texts = _checked(texts)
        beam_size = self.beam_size if beam_size is None else beam_size
        alpha = self.length_penalty if length_penalty is None else length_penalty
        search = self._compiled_search(beam_size, alpha, n)
        results = [[("", 0.0)] for _ in texts]
        rows = [row for row, text in enumerate(texts) if not is_blank(text)]
        source = self._encode([texts[row] for row in rows])
        for batch in _batches_by_length([len(ids) for ids in source], self.batch_tokens):
            found = search(_padded([source[i] for i in batch]))
            for i, best in zip(batch, self._texts_and_scores(found, n), strict=True):
                results[rows[i]] = best
        return results

    def search(self, source_ids, beam_size: int, length_penalty: float, num_results: int = 1):
        """The search on token ids, in or outside of a graph.

        Args:
            source_ids: Integer (batch, source_length), each row with the end id, then padding.
            beam_size: 1 is greedy search.
            length_penalty: Alpha.
            num_results: Results that are asked for.

        Returns:
            Hypotheses; their length is at most the source's plus 50 (section 6.1).
        """
        encode, initial_state, step = self.steps
        num_tokens = ops.sum(ops.cast(padding_mask(source_ids), "int32"), axis=1)  # end included
        max_length = num_tokens - 1 + EXTRA_TARGET_TOKENS
        longest = ops.shape(source_ids)[1] - 1 + EXTRA_TARGET_TOKENS
        options = {
            "start_id": self.tokenizer.start_id,
            "end_id": self.tokenizer.end_id,
            "max_length": max_length,
            "length_penalty": length_penalty,
        }
        state = initial_state(encode(source_ids), beam_size, max_length=longest)
        if beam_size == 1 and num_results == 1:
            return greedy_search(step, state, **options)
        return beam_search(step, state, beam_size=beam_size, num_results=num_results, **options)

    def attention(self, source: str, target: str) -> AttentionWeights:
        """Which parts of a source the model looks at while it writes a target.

        Args:
            source: A text.
            target: A translation of it, the model's own or another.

        Raises:
            InputError: If the source has more than `max_source_tokens` tokens.
        """
        source, target = _checked([source, target])
        source_ids = [*self.tokenizer.encode(source), self.tokenizer.end_id]
        if len(source_ids) > self.max_source_tokens:
            raise InputError(
                f"A source whose attention is asked for must have at most {self.max_source_tokens}"
                f" tokens, the end included. Received: {len(source_ids)}. Shorten it, or raise"
                " max_source_tokens."
            )
        target_ids = [*self.tokenizer.encode(target), self.tokenizer.end_id]
        weights = cross_attention_weights(
            self.model,
            np.array([source_ids], "int32"),
            np.array([[self.tokenizer.start_id, *target_ids[:-1]]], "int32"),
        )
        return AttentionWeights(
            self.tokenizer.pieces(source_ids),
            self.tokenizer.pieces(target_ids),
            ops.convert_to_numpy(ops.cast(weights, "float32"))[0],
        )

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text with the end id, cut to what is read."""
        room = self.max_source_tokens - 1
        encoded = self.tokenizer.encode(texts)
        num_cut = sum(len(ids) > room for ids in encoded)
        if num_cut:
            LOGGER.warning(
                "%d of %d texts are longer than max_source_tokens=%d and are cut there",
                num_cut,
                len(texts),
                self.max_source_tokens,
            )
        return [[*ids[:room], self.tokenizer.end_id] for ids in encoded]

    def _compiled_search(self, beam_size, length_penalty, num_results):
        """The search as one TensorFlow function; as it is on other backends."""
        key = (beam_size, length_penalty, num_results)
        if key not in self._compiled:
            search = functools.partial(
                self.search,
                beam_size=beam_size,
                length_penalty=length_penalty,
                num_results=num_results,
            )
            if keras.backend.backend() == "tensorflow":
                import tensorflow as tf

                ids = tf.TensorSpec([None, None], tf.int32, name="source_ids")
                search = tf.function(search, input_signature=[ids], autograph=False)
            self._compiled[key] = search
        return self._compiled[key]

    def _texts_and_scores(self, found: Hypotheses, n) -> Iterator[list[tuple[str, float]]]:
        token_ids = ops.convert_to_numpy(found.token_ids)[:, :n]
        scores = ops.convert_to_numpy(found.scores)[:, :n]
        batch, beams, _ = token_ids.shape
        texts = self.tokenizer.decode(list(token_ids.reshape(batch * beams, -1)))
        for row in range(batch):
            pairs = zip(texts[row * beams : (row + 1) * beams], scores[row], strict=True)
            yield [(text, float(score)) for text, score in pairs if score > IMPOSSIBLE / 2]


def is_blank(text: str) -> bool:
    """Whether there is nothing to translate."""
    return not text.strip(_BLANK)


def _batches_by_length(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows of similar length together, so that little is padding and short ones end early."""
    batch, longest = [], 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        longest = max(longest, lengths[row])
        if batch and (len(batch) + 1) * longest > batch_tokens:
            yield batch
            batch, longest = [], lengths[row]
        batch.append(row)
    if batch:
        yield batch


def _padded(rows: list[list[int]]) -> np.ndarray:
    padded = np.zeros((len(rows), max(map(len, rows))), "int32")
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded


def _checked(texts) -> list[str]:
    """The texts as a list, since they may come from an iterator, which can be read only once."""
    if isinstance(texts, Iterable) and not isinstance(texts, str):
        texts = list(texts)
        if all(isinstance(text, str) for text in texts):
            return texts
    raise ValueError(
        f"texts must be a list of strings. Received: texts={texts!a:.100} of type"
        f" {type(texts).__name__}. Put a single text into a list."
    )


def _check_vocabulary(model, tokenizer) -> None:
    vocabulary_size = model.output_shape[-1]
    if vocabulary_size != tokenizer.vocabulary_size:
        raise ValueError(
            "The model and the tokenizer must have the same vocabulary. Received: a model of"
            f" {vocabulary_size} sub-words, a tokenizer of {tokenizer.vocabulary_size}. Use the"
            " tokenizer that the model was trained with."
        )


def _read_settings(path: Path) -> dict:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {
            "beam_size": _number(settings, "beam_size", int),
            "length_penalty": _number(settings, "length_penalty", int, float),
            "max_source_tokens": _number(settings, "max_source_tokens", int),
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: must be the settings of a run that training.train wrote. Received:"
            f" {' '.join(str(error).split())}. Check the path, or train again."
        ) from error


def _number(settings: dict, name: str, *types: type):
    """A setting, of one of the types."""
    value = settings[name]
    if type(value) not in types:
        raise TypeError(f"{name}: {value!r}")
    return value


def read_model(path: Path) -> keras.Model:
    """The model of a finished run, not compiled.

    Raises:
        InputError: If the file is missing, damaged or no model.
    """
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for files that are cut or foreign
        raise InputError(
            f"{path}: must be the model of a finished run. Received:"
            f" {' '.join(str(error).split())[:200]}. Check the path, or finish the training."
        ) from error
