"""Translates text with a model, its tokenizer and a search."""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_transformer.checksums import check_run
from keras_transformer.compiled_functions import CompiledFunctions
from keras_transformer.config import EXTRA_TARGET_TOKENS, TransformerConfig
from keras_transformer.decoding.precision import inference_model
from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.errors import InputError
from keras_transformer.finished_run import read_model, read_settings
from keras_transformer.forks import check_not_forked, is_fork
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.masks import padding_mask
from keras_transformer.model import (
    Transformer,
    attention_of_layers,
    cross_attention_weights,
    has_cross_attention,
)
from keras_transformer.search.beam import beam_search, check_beams
from keras_transformer.search.greedy import greedy_search
from keras_transformer.search.hypotheses import IMPOSSIBLE, Hypotheses, check_length_penalty
from keras_transformer.search.sampling import check_sampling, leaves_some_out, noise_of, sample
from keras_transformer.search.scoring import score
from keras_transformer.search.state import DecodingState, Step
from keras_transformer.tensors import Tensor
from keras_transformer.text.blank import is_blank
from keras_transformer.text.prefixes import Prefix, new_word_ids
from keras_transformer.text.tokenizer_pair import Tokenizer, load_tokenizer

_LOGGER = logging.getLogger("keras_transformer")

# Padding, unknown (bytes spell everything, so it never occurs) and start.
_NO_TEXT_IDS = (0, 1, 2)

# A translator's attributes, and its model's class, config and weights.
_Pickled: TypeAlias = tuple[
    dict[str, Any], tuple[type[keras.Model], dict[str, Any], list[np.ndarray]]
]


class AttentionWeights(NamedTuple):
    """Attention of the last decoder block to the source.

    Attributes:
        source_tokens: The source's sub-words, including the end.
        target_tokens: The target's sub-words, including the end.
        weights: Float32 (heads, target_length, source_length). Row t was used to predict target
            token t.
    """

    source_tokens: list[str]
    target_tokens: list[str]
    weights: np.ndarray


class AttentionByLayer(NamedTuple):
    """Attention in every layer.

    Attributes:
        source_tokens: The source's sub-words, including the end.
        read_tokens: What the decoder reads: the start, then the target's sub-words without the end.
        target_tokens: What the decoder predicts from them: the target's sub-words and the end.
        encoder: Float32 (layers, heads, source_length, source_length), self-attention.
        decoder: Float32 (layers, heads, target_length, target_length), self-attention over
            `read_tokens`.
        cross: Float32 (layers, heads, target_length, source_length), attention to the source. Row
            t of `decoder` and `cross` was used to predict target token t.
    """

    source_tokens: list[str]
    read_tokens: list[str]
    target_tokens: list[str]
    encoder: np.ndarray
    decoder: np.ndarray
    cross: np.ndarray


class Translator:
    """Translates lists of texts.

    Args:
        model: A trained model of a class that `decoding_steps` supports.
        tokenizer: The tokenizer that the model was trained with.
        beam_size: Beams of the search; 1 is greedy search.
        length_penalty: Alpha of section 6.1.
        length_normalization: "gnmt" divides scores by the paper's formula. "length" divides by
            length ** alpha, so an alpha of 1 compares the mean log-probability of a token.
        max_source_tokens: Longest source in tokens, including the end. Longer ones are cut, and a
            warning counts them. None for the model's own limit, see `TransformerConfig`.
        max_target_tokens: Longest translation in tokens, including the end. None for 50 more than
            the source has (section 6.1).
        min_target_tokens: Shortest translation in tokens, including the end.
        batch_tokens: The most source tokens in a batch, including padding.
        precision: "float32", "bfloat16", "int8" or "int8_bfloat16" translate with a copy of the
            model as it is now, see `inference_model`. None translates with the model itself, and
            follows its training.

    Attributes:
        model: The model itself, which can be trained and saved, whatever the precision.
        fast_model: The model that translates: the copy, or `model` if the precision is None.

    A translator can be pickled and copied. The copy has its own model, not compiled, with the
    weights at that moment. Start processes by spawning them, not by forking.

    Raises:
        ValueError: A number is out of range, the precision is unknown, model and tokenizer differ
            in their vocabularies, or a source or translation may outgrow learned positions.
        RuntimeError: The process was forked from one that had used TensorFlow or JAX. All methods
            that need the model raise it too.

    Example:
        >>> translator = Translator.load("runs/en-de")
        >>> translator(["A man rides a bicycle."])
        ['Ein Mann fährt Fahrrad.']
    """

    def __init__(
        self,
        model: keras.Model,
        tokenizer: Tokenizer,
        *,
        beam_size: int = 4,
        length_penalty: float = 0.6,
        length_normalization: str = "gnmt",
        max_source_tokens: int | None = None,
        max_target_tokens: int | None = None,
        min_target_tokens: int = 1,
        batch_tokens: int = 2048,
        precision: str | None = None,
    ) -> None:
        check_not_forked()
        for name, value in (
            ("beam_size", beam_size),
            ("max_source_tokens", max_source_tokens),
            ("max_target_tokens", max_target_tokens),
            ("min_target_tokens", min_target_tokens),
            ("batch_tokens", batch_tokens),
        ):
            if value is not None and value < 1:
                raise ValueError(
                    f"{name} must be at least 1. Received: {name}={value}. Choose 1 or more."
                )
        check_length_penalty(length_penalty, length_normalization)
        _check_vocabulary(model, tokenizer)
        if max_source_tokens is None:
            max_source_tokens = _source_tokens_of(model)
        _check_positions(model, max_source_tokens, max_target_tokens)
        self.tokenizer = tokenizer
        self.beam_size = beam_size
        self.length_penalty = length_penalty
        self.length_normalization = length_normalization
        self.max_source_tokens = max_source_tokens
        self.max_target_tokens = max_target_tokens
        self.min_target_tokens = min_target_tokens
        self.batch_tokens = batch_tokens
        self.precision = precision
        self._set_model(model)

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str],
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        length_normalization: str | None = None,
        precision: str = "float32",
    ) -> "Translator":
        """Loads the translator of a finished run folder.

        Args:
            run: The folder that `python -m training.train` wrote.
            beam_size: Replaces the run's own setting.
            length_penalty: Replaces the run's own setting.
            length_normalization: Replaces the run's own setting.
            precision: As for `Translator`; need not be the precision that the run was trained in.

        Raises:
            InputError: The folder is not a finished run, or a file in it cannot be read or is not
                as `checksums.json` lists it.
        """
        settings = read_settings(Path(run) / "config.yaml")
        given = {
            "beam_size": beam_size,
            "length_penalty": length_penalty,
            "length_normalization": length_normalization,
        }
        settings |= {name: value for name, value in given.items() if value is not None}
        check_run(run)
        model = read_model(Path(run) / "model.keras")
        tokenizer = load_tokenizer(
            Path(run) / "tokenizer.model", most_ids=max(_vocabularies_of(model))
        )
        try:
            return cls(model, tokenizer, precision=precision, **settings)
        except ValueError as error:
            raise InputError(f"{run}: {error}") from error

    def _set_model(self, model: keras.Model) -> None:
        precision = self.precision
        self.model = model
        self.fast_model = model if precision is None else inference_model(model, precision)
        self.steps = decoding_steps(self.fast_model)
        self._functions = CompiledFunctions(self.fast_model, _most_positions(model))

    def __getstate__(self) -> _Pickled:
        check_not_forked()
        set_by_model = ("model", "fast_model", "steps", "_functions")
        state = {name: value for name, value in vars(self).items() if name not in set_by_model}
        model = self.model
        return state, (type(model), model.get_config(), model.get_weights())

    def __setstate__(self, pickled: _Pickled) -> None:
        state, (model_class, config, weights) = pickled
        vars(self).update(state)
        # A pool hangs if unpickling raises, so the translator's methods will raise instead.
        if not is_fork():
            model = model_class.from_config(config)
            model.set_weights(weights)
            self._set_model(model)

    def __call__(self, texts: Iterable[str]) -> list[str]:
        """Translates each text, in order. Blank texts (see `is_blank`) become empty."""
        return self.translate(texts)

    def translate(
        self,
        texts: Iterable[str],
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        prefixes: Iterable[str] | None = None,
    ) -> list[str]:
        """Returns the best translation of each text; options as in `n_best`."""
        results = self.n_best(
            texts, 1, beam_size=beam_size, length_penalty=length_penalty, prefixes=prefixes
        )
        return [best[0][0] for best in results]

    def stream(self, texts: Iterable[str], texts_at_once: int = 1000) -> Iterator[str]:
        """Translates any number of texts in bounded memory.

        Args:
            texts: Read only as far as translations are consumed.
            texts_at_once: The number of texts to hold, and to sort by length, at a time.

        Yields:
            The translation of each text, in order.
        """
        texts = iter(texts)
        while some := list(itertools.islice(texts, texts_at_once)):
            yield from self.translate(some)

    def n_best(
        self,
        texts: Iterable[str],
        n: int,
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        prefixes: Iterable[str] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Returns the `n` best translations of each text with their scores, best first.

        All are different: if the search finds several splits of one text into sub-words, only the
        best counts.

        Args:
            texts: Any number of texts.
            n: Translations of each, at most `beam_size`.
            beam_size: Replaces the translator's own.
            length_penalty: Replaces the translator's own.
            prefixes: The beginning of each translation; "" for no prefix, None for none at all.
                Use whole words, since a new sub-word follows. A prefix that ends in white space is
                followed by a new word or the end.

        Returns:
            For each text up to `n` pairs of translation and score: fewer if the search found fewer
            texts. A score is the log-probability of the tokens, including the end, divided by the
            length penalty. A blank text has only the translation ("", 0.0).

        Raises:
            ValueError: `n` is not from 1 to `beam_size`, or texts and prefixes differ in number.
        """
        beam_size = self.beam_size if beam_size is None else beam_size
        alpha = self.length_penalty if length_penalty is None else length_penalty
        check_beams(beam_size, n)
        check_length_penalty(alpha)
        num_results = 1 if n == 1 else beam_size  # some may be the same text

        def search(
            source_ids: Tensor,
            prefix: Tensor,
            alpha: float | Tensor,
            new_word: Tensor | None = None,
        ) -> Hypotheses:
            return self.search(source_ids, beam_size, alpha, num_results, prefix, new_word)

        def search_rows(
            rows: list[int], source_ids: np.ndarray, prefix: np.ndarray, *new_word: np.ndarray
        ) -> Hypotheses:
            key = "search", beam_size, num_results, len(new_word)
            return self._functions.run(
                key, search, source_ids, prefix, np.float32(alpha), *new_word
            )

        results = self._translations(texts, prefixes, search_rows, num_results)
        return [_best_of_each_text(found)[:n] for found in results]

    def sample(
        self,
        texts: Iterable[str],
        n: int = 1,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        first_place: int = 0,
        prefixes: Iterable[str] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Draws `n` translations of each text at random.

        Args:
            texts: Any number of texts.
            n: Translations of each text, 1 or more; some may be equal.
            temperature: Above 0. Low values favor probable tokens.
            top_k: Draws only from the `top_k` most probable tokens; None for all.
            top_p: Draws only from the fewest tokens that together have this probability; None for
                all.
            seed: The same seed draws the same translations of a text at the same place in the list.
            first_place: The place of the first text, if these texts are part of a longer list.
            prefixes: As in `n_best`.

        Returns:
            For each text, `n` pairs of translation and score, with scores as in `n_best`.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1. Received: n={n}. Choose 1 or more.")
        check_sampling(temperature, top_k, top_p)
        is_cut = leaves_some_out(top_p)
        settings = temperature, self.length_penalty, top_p if is_cut else 1.0
        numbers = [np.float32(number) for number in settings]

        def draw(
            source_ids: Tensor,
            prefix: Tensor,
            noise: Tensor,
            temperature: Tensor,
            alpha: Tensor,
            top_p: Tensor,
            new_word: Tensor | None = None,
        ) -> Hypotheses:
            step, state, options = self._start(source_ids, prefix, new_word, n)
            options |= {"temperature": temperature, "top_k": top_k, "length_penalty": alpha}
            return sample(step, state, noise=noise, top_p=top_p if is_cut else None, **options)

        def draw_rows(
            rows: list[int], source_ids: np.ndarray, prefix: np.ndarray, *new_word: np.ndarray
        ) -> Hypotheses:
            longest = self._longest(source_ids.shape[1], prefix.shape[1])
            noise = noise_of(seed, [first_place + row for row in rows], n, longest)
            key = "sample", n, top_k, is_cut, len(new_word)
            return self._functions.run(key, draw, source_ids, prefix, noise, *numbers, *new_word)

        return self._translations(texts, prefixes, draw_rows, n)

    def score(self, sources: Iterable[str], targets: Iterable[str]) -> list[tuple[float, int]]:
        """Scores given translations as the tokenizer splits them into sub-words.

        A search may find a more probable split, especially if the model was trained on sampled
        sub-words; `n_best` returns the score of the best one. Blank texts are scored like others.

        Args:
            sources: Any number of texts.
            targets: A translation of each.

        Returns:
            For each pair, the log-probability of the target and its number of tokens, both
            including the end.

        Raises:
            InputError: A source has more than `max_source_tokens` tokens, or a target more than
                `most_target_tokens`.
        """
        sources, targets = _checked(sources), _checked(targets)
        if len(sources) != len(targets):
            raise ValueError(
                "Each source needs a target. Received:"
                f" {len(sources)} sources, {len(targets)} targets. Give one target per source."
            )
        source, target = self._whole_ids(sources, targets)

        def score_ids(source_ids: Tensor, target_ids: Tensor) -> tuple[Tensor, Tensor]:
            return score(self.fast_model, source_ids, target_ids, start_id=self.tokenizer.start_id)

        results = [(0.0, 0)] * len(sources)
        lengths = [max(map(len, pair)) for pair in zip(source, target, strict=True)]
        for batch in _batches_by_length(lengths, self.batch_tokens):
            arrays = [_padded([side[i] for i in batch]) for side in (source, target)]
            found = self._functions.run("score", score_ids, *arrays)
            log_probability, num_tokens = map(ops.convert_to_numpy, found)
            for row, i in enumerate(batch):
                results[i] = float(log_probability[row]), int(num_tokens[row])
        return results

    def search(
        self,
        source_ids: Tensor,
        beam_size: int,
        length_penalty: float | Tensor,
        num_results: int | Tensor = 1,
        prefix: Tensor | None = None,
        new_word: Tensor | None = None,
    ) -> Hypotheses:
        """Searches on token ids, inside or outside of a graph.

        Args:
            source_ids: Integer (batch, source_length), each row with the end id, then padding.
            beam_size: 1 is greedy search.
            length_penalty: Alpha, a number or a tensor.
            num_results: A number, or with several beams a tensor.
            prefix: Integer (batch, prefix_length), the beginning of each translation, then padding;
                None for none.
            new_word: Boolean (batch,), whether a new word must follow the prefix; None for never.

        Returns:
            Hypotheses.
        """
        step, state, options = self._start(source_ids, prefix, new_word, beam_size)
        options["length_penalty"] = length_penalty
        if beam_size == 1 and num_results == 1:
            return greedy_search(step, state, **options)
        return beam_search(step, state, beam_size=beam_size, num_results=num_results, **options)

    def _start(
        self, source_ids: Tensor, prefix: Tensor | None, new_word: Tensor | None, beams: int
    ) -> tuple[Step, DecodingState, dict[str, Any]]:
        """Returns the step, the first state and the options that all searches share."""
        encode, initial_state, step = self.steps
        prefix_length = 0 if prefix is None else ops.shape(prefix)[1]
        longest = self._longest(ops.shape(source_ids)[1], prefix_length)
        if self.max_target_tokens is None:
            num_tokens = ops.sum(ops.cast(padding_mask(source_ids), "int32"), axis=1)
            max_length = num_tokens - 1 + EXTRA_TARGET_TOKENS  # without the end of the source
        else:
            max_length = ops.full_like(source_ids[:, 0], self.max_target_tokens)
        options = {
            "start_id": self.tokenizer.start_id,
            "end_id": self.tokenizer.end_id,
            "max_length": max_length,
            "longest": longest,
            "min_length": self.min_target_tokens,
            "prefix": prefix,
            "new_word": new_word,
            "barred_ids": _NO_TEXT_IDS,
            "new_word_ids": () if new_word is None else new_word_ids(self.tokenizer.target),
            "length_normalization": self.length_normalization,
        }
        return step, initial_state(encode(source_ids), beams, max_length=longest), options

    def _longest(self, source_length: int | Tensor, prefix_length: int | Tensor) -> int | Tensor:
        """Returns the most tokens that a translation in a batch may have, including the end."""
        longest = self.max_target_tokens or source_length - 1 + EXTRA_TARGET_TOKENS
        if isinstance(longest, int) and isinstance(prefix_length, int):
            return max(longest, prefix_length + 1)
        return ops.maximum(longest, prefix_length + 1)

    def _translations(
        self,
        texts: Iterable[str],
        prefixes: Iterable[str] | None,
        search: Callable[..., Hypotheses],
        n: int,
    ) -> list[list[tuple[str, float]]]:
        """Translates batch by batch; `search` takes the indices of texts, then their arrays."""
        check_not_forked()
        texts = _checked(texts)
        given = [""] * len(texts) if prefixes is None else _checked(prefixes)
        if len(given) != len(texts):
            raise ValueError(
                "Each text needs a prefix. Received:"
                f" {len(given)} prefixes, {len(texts)} texts. Give '' for a text without one."
            )
        results = [[("", 0.0)] for _ in texts]
        rows = [row for row, text in enumerate(texts) if not is_blank(text)]
        beginnings = [Prefix.of(prefix, self.tokenizer.target) for prefix in given]
        source = self._encode([texts[row] for row in rows])
        stems = self.tokenizer.target.encode([beginnings[row].stem for row in rows])
        self._check_prefixes(stems)
        new_word = np.array([beginnings[row].needs_new_word for row in rows])
        for batch in _batches_by_length([len(ids) for ids in source], self.batch_tokens):
            of_batch = [rows[i] for i in batch]
            arrays = [_padded([side[i] for i in batch]) for side in (source, stems)]
            if new_word.any():
                arrays.append(new_word[batch])
            found = self._texts_and_scores(search(of_batch, *arrays), n)
            for row, best in zip(of_batch, found, strict=True):
                results[row] = [(beginnings[row].begin(text), score) for text, score in best]
        return results

    @property
    def most_target_tokens(self) -> int:
        """The longest target for `score` and `attention`, in tokens, including the end.

        It is the longest possible translation of the longest source, within learned positions.
        """
        longest = self.max_source_tokens - 1 + EXTRA_TARGET_TOKENS
        longest = max(longest, self.max_target_tokens or 0)
        positions = _most_positions(self.model)
        return longest if positions is None else min(longest, positions)

    @property
    def has_attention(self) -> bool:
        """Whether the model attends to its source, which `attention` requires."""
        return has_cross_attention(self.model)

    def attention(self, source: str, target: str) -> AttentionWeights:
        """Returns which parts of a source the model looks at while it writes a target.

        Args:
            source: A text.
            target: A translation of it, the model's own or another.

        Raises:
            InputError: The source has more than `max_source_tokens` tokens, the target more than
                `most_target_tokens`, or the model does not attend to the source.
        """
        if not self.has_attention:
            raise InputError(
                "attention needs a model that attends to its source. Received: a model of class"
                f" {type(self.model).__name__}. Use another model."
            )
        source_ids, read_ids, target_ids = self._attention_ids(source, target)
        weights = cross_attention_weights(
            self.fast_model, _padded([source_ids]), _padded([read_ids])
        )
        return AttentionWeights(
            self.tokenizer.source.pieces(source_ids),
            self.tokenizer.target.pieces(target_ids),
            _one_sentence([weights])[0],
        )

    def attention_by_layer(self, source: str, target: str) -> AttentionByLayer:
        """Returns the attention of every head in every layer; only for a Transformer."""
        if not isinstance(self.model, Transformer):
            raise InputError(
                "attention_by_layer needs a Transformer. Received: a model of class"
                f" {type(self.model).__name__}. Call `attention`, or use another model."
            )
        source_ids, read_ids, target_ids = self._attention_ids(source, target)
        found = attention_of_layers(self.fast_model, _padded([source_ids]), _padded([read_ids]))
        pieces = self.tokenizer.target.pieces
        return AttentionByLayer(
            self.tokenizer.source.pieces(source_ids),
            pieces(read_ids),
            pieces(target_ids),
            encoder=_one_sentence(found.encoder),
            decoder=_one_sentence(found.decoder),
            cross=_one_sentence(found.cross),
        )

    def _attention_ids(self, source: str, target: str) -> tuple[list[int], list[int], list[int]]:
        """Returns the ids of the source, of the decoder's input and of its predictions."""
        [source_ids], [target_ids] = self._whole_ids([source], [target])
        return source_ids, [self.tokenizer.start_id, *target_ids[:-1]], target_ids

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Returns the ids of each text, cut at `max_source_tokens`, with the end id."""
        room = self.max_source_tokens - 1
        encoded = self.tokenizer.source.encode(texts)
        num_cut = sum(len(ids) > room for ids in encoded)
        if num_cut:
            _LOGGER.warning(
                "%d of %d texts are longer than max_source_tokens=%d and are cut there",
                num_cut,
                len(texts),
                self.max_source_tokens,
            )
        return [[*ids[:room], self.tokenizer.end_id] for ids in encoded]

    def _whole_ids(self, sources: Iterable[str], targets: Iterable[str]) -> list[list[list[int]]]:
        """Returns the ids of sources and of targets, with the end id; refuses long texts."""
        check_not_forked()
        sides = []
        for name, tokenizer, texts, most_tokens in (
            ("source", self.tokenizer.source, sources, self.max_source_tokens),
            ("target", self.tokenizer.target, targets, self.most_target_tokens),
        ):
            rows = [[*ids, self.tokenizer.end_id] for ids in tokenizer.encode(_checked(texts))]
            longest = max(map(len, rows), default=0)
            if longest > most_tokens:
                raise InputError(
                    f"A {name} for scores or attention must have at most {most_tokens} tokens, the"
                    f" end included. Received: {longest}. Shorten it, or raise max_source_tokens."
                )
            sides.append(rows)
        return sides

    def _check_prefixes(self, prefixes: list[list[int]]) -> None:
        """Refuses a prefix that leaves no position for the end."""
        longest, positions = max(map(len, prefixes), default=0), _most_positions(self.model)
        if positions is not None and longest >= positions:
            raise InputError(
                f"A prefix must have fewer tokens than the model's {positions} learned positions."
                f" Received: {longest}. Shorten it."
            )

    def _texts_and_scores(self, found: Hypotheses, n: int) -> Iterator[list[tuple[str, float]]]:
        token_ids = ops.convert_to_numpy(found.token_ids)[:, :n]
        scores = ops.convert_to_numpy(found.scores)[:, :n]
        batch, beams, _ = token_ids.shape
        texts = self.tokenizer.target.decode(list(token_ids.reshape(batch * beams, -1)))
        for row in range(batch):
            pairs = zip(texts[row * beams : (row + 1) * beams], scores[row], strict=True)
            yield [(text, float(score)) for text, score in pairs if score > IMPOSSIBLE / 2]


def _best_of_each_text(results: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Drops repeated texts from results that are sorted best first."""
    best: dict[str, tuple[str, float]] = {}
    for result in results:
        best.setdefault(result[0], result)
    return list(best.values())


def _batches_by_length(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Batches rows of similar length: less padding, and short batches end early."""
    batch: list[int] = []
    longest = 0
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


def _one_sentence(layers: Sequence[Tensor]) -> np.ndarray:
    """Stacks one tensor of batch 1 per layer: Float32 (layers, ...)."""
    return np.stack([ops.convert_to_numpy(ops.cast(tensor, "float32"))[0] for tensor in layers])


def _checked(texts: Iterable[str]) -> list[str]:
    """Returns the texts as a list, since an iterator can be read only once."""
    if isinstance(texts, Iterable) and not isinstance(texts, str):
        texts = list(texts)
        if all(isinstance(text, str) for text in texts):
            return texts
    raise ValueError(
        f"texts must be a list of strings. Received: texts={texts!a:.100} of type"
        f" {type(texts).__name__}. Put a single text into a list."
    )


def _most_positions(model: keras.Model) -> int | None:
    """Returns the number of the model's learned positions; None if it has none."""
    embedding = getattr(model, "embedding", None)
    return embedding.most_tokens if isinstance(embedding, PositionalEmbedding) else None


def _source_tokens_of(model: keras.Model) -> int:
    """Returns the longest source that fits the model, in tokens, including the end."""
    own = getattr(model, "max_source_tokens", TransformerConfig.max_source_tokens)
    positions = _most_positions(model)
    return own if positions is None else max(1, min(own, positions - EXTRA_TARGET_TOKENS))


def _check_positions(
    model: keras.Model, max_source_tokens: int, max_target_tokens: int | None
) -> None:
    positions = _most_positions(model)
    longest = max_target_tokens or max_source_tokens + EXTRA_TARGET_TOKENS
    if positions is not None and max(max_source_tokens, longest) > positions:
        raise ValueError(
            f"max_source_tokens + {EXTRA_TARGET_TOKENS}, or both max_source_tokens and"
            f" max_target_tokens, must be at most the model's {positions} learned positions."
            f" Received: max_source_tokens={max_source_tokens},"
            f" max_target_tokens={max_target_tokens}. Choose smaller ones, or train a model with a"
            " larger max_positions."
        )


def _vocabularies_of(model: keras.Model) -> tuple[int, int]:
    """Returns the number of sub-words of the source and of the target."""
    target = model.output_shape[-1]
    source = getattr(model, "source_embedding", None)  # other architectures share one
    return target if source is None else source.vocabulary_size, target


def _check_vocabulary(model: keras.Model, tokenizer: Tokenizer) -> None:
    of_tokenizer = tokenizer.source_vocabulary_size, tokenizer.vocabulary_size
    for side, in_model, in_tokenizer in zip(
        ("source", "target"), _vocabularies_of(model), of_tokenizer, strict=True
    ):
        if in_model != in_tokenizer:
            raise ValueError(
                "The model and the tokenizer must have the same vocabulary. Received: a model of"
                f" {in_model} sub-words, a tokenizer of {in_tokenizer}, on the {side} side. Use the"
                " tokenizer that the model was trained with."
            )
