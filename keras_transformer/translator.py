"""Text to text: a model, its tokenizer and a search."""

import itertools
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_transformer.config import EXTRA_TARGET_TOKENS, TransformerConfig
from keras_transformer.decoding.precision import inference_model
from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.errors import InputError
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
from keras_transformer.text.blank import is_blank
from keras_transformer.text.prefixes import Prefix, new_word_ids
from keras_transformer.text.subword_tokenizer import SubwordTokenizer

LOGGER = logging.getLogger("keras_transformer")

# The ids of SubwordTokenizer that stand for no text: padding, unknown (its bytes spell anything)
# and start.
NO_TEXT_IDS = (0, 1, 2)

_IDS = (None, None), "int32"  # (batch, length)
_FLAGS = (None,), "bool"  # (batch,)
_NUMBER = (), "float32"

# Each takes a second to compile and some MB to keep.
_MOST_COMPILED = 8


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


class AttentionByLayer(NamedTuple):
    """Which tokens the model looked at in every layer, while it wrote a target.

    Attributes:
        source_tokens: The source's sub-words, the end included.
        read_tokens: What the decoder reads: the start, then the target's sub-words but the end.
        target_tokens: What it predicts from these: the target's sub-words, the end included.
        encoder: Float32 (layers, heads, source_length, source_length), self-attention.
        decoder: Float32 (layers, heads, target_length, target_length), self-attention over
            `read_tokens`.
        cross: Float32 (layers, heads, target_length, source_length); row t of it and of `decoder`
            is what predicted target token t.
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
        model: A trained model of a class that `decoding_steps` knows.
        tokenizer: The tokenizer that it was trained with.
        beam_size: Beams of the search; 1 is greedy search.
        length_penalty: Alpha of section 6.1.
        length_normalization: How the length counts: "gnmt", the paper's, or "length", with which an
            alpha of 1 compares the mean log-probability of a token.
        max_source_tokens: Longest source that is read, in tokens, the end included; the model's
            own, see `TransformerConfig`, if None. What is longer is cut there, and a warning counts
            how many were.
        max_target_tokens: Longest translation, in tokens, the end included; the source's tokens and
            50 (section 6.1) if None.
        min_target_tokens: Shortest translation, in tokens, the end included.
        batch_tokens: Source tokens that are translated at once, padding included.
        precision: "float32", "bfloat16", "int8" or "int8_bfloat16", see `inference_model`: the
            translator then has a copy of the model as it is now. None for the model itself, whose
            training it follows.

    Attributes:
        model: The model itself, which can be trained on and saved, whatever the precision.
        fast_model: What translates: the copy, or the model itself if the precision is None.

    A translator can be pickled and copied. The copy has its own model, not compiled, with the
    weights that the model had then. Start processes by spawning them, not by a fork.

    Raises:
        ValueError: If a number is out of its range, the precision unknown, the model's vocabulary
            not the tokenizer's, or a source or a translation may get longer than the model's
            learned positions.
        RuntimeError: In a process forked from one that has used TensorFlow or JAX, here and in all
            that needs the model.

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
        length_normalization: str = "gnmt",
        max_source_tokens: int | None = None,
        max_target_tokens: int | None = None,
        min_target_tokens: int = 1,
        batch_tokens: int = 2048,
        precision: str | None = None,
    ):
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
        run: str | os.PathLike,
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        length_normalization: str | None = None,
        precision: str = "float32",
    ) -> "Translator":
        """The translator of a finished run folder.

        Args:
            run: The folder that `python -m training.train` wrote.
            beam_size: Instead of the run's own setting.
            length_penalty: Instead of the run's own setting.
            length_normalization: Instead of the run's own setting.
            precision: As for a Translator, whatever the run was trained with.

        Raises:
            InputError: If the folder is no finished run or a file in it cannot be read.
        """
        settings = _read_settings(Path(run) / "config.yaml")
        instead = {
            "beam_size": beam_size,
            "length_penalty": length_penalty,
            "length_normalization": length_normalization,
        }
        settings |= {name: value for name, value in instead.items() if value is not None}
        model = read_model(Path(run) / "model.keras")
        tokenizer = SubwordTokenizer.load(Path(run) / "tokenizer.model")
        try:
            return cls(model, tokenizer, precision=precision, **settings)
        except ValueError as error:
            raise InputError(f"{run}: {error}") from error

    def _set_model(self, model):
        precision = self.precision
        self.model = model
        self.fast_model = model if precision is None else inference_model(model, precision)
        self.steps = decoding_steps(self.fast_model)
        self._functions = {}
        self._functions_lock = threading.Lock()

    def __getstate__(self):
        check_not_forked()
        state = dict(vars(self))
        for made_anew in ("model", "fast_model", "steps", "_functions", "_functions_lock"):
            del state[made_anew]
        model = self.model
        return state, (type(model), model.get_config(), model.get_weights())

    def __setstate__(self, pickled):
        state, (model_class, config, weights) = pickled
        vars(self).update(state)
        # A pool hangs if unpickling raises, so the translator's methods will raise instead.
        if not is_fork():
            model = model_class.from_config(config)
            model.set_weights(weights)
            self._set_model(model)

    def __call__(self, texts: Iterable[str]) -> list[str]:
        """Translates each text; a blank one, see `is_blank`, translates to the empty text.

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
        prefixes: Iterable[str] | None = None,
    ) -> list[str]:
        """As calling the translator, with another search for this once if one is given."""
        results = self.n_best(
            texts, 1, beam_size=beam_size, length_penalty=length_penalty, prefixes=prefixes
        )
        return [best[0][0] for best in results]

    def stream(self, texts: Iterable[str], texts_at_once: int = 1000) -> Iterator[str]:
        """Translates any number of texts in bounded memory.

        Args:
            texts: Read as the translations are asked for.
            texts_at_once: How many are held, and sorted by length, at a time.

        Yields:
            A translation for each text, in the same order.
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
        """The `n` best translations of each text with their scores, best first.

        They differ as texts: of a text that the search found in several spellings (splits into
        sub-words) the best one counts.

        Args:
            texts: Any number of texts.
            n: Translations for each, at most `beam_size`.
            beam_size: Instead of the translator's own.
            length_penalty: Instead of the translator's own.
            prefixes: What each translation must begin with, "" where it may begin with anything;
                None for all. Whole words, as sub-words begin anew after it. After one that ends in
                white space the translation continues with a new word, or ends.

        Returns:
            For each text up to `n` pairs of translation and score; there are fewer if the search
            found fewer, or found a text more than once. A score is the log-probability of the
            tokens, the end included, divided by the length penalty. The blank text has the one
            translation ("", 0.0).

        Raises:
            ValueError: If `n` is not 1 to `beam_size`, or there are not as many prefixes as texts.
        """
        beam_size = self.beam_size if beam_size is None else beam_size
        alpha = self.length_penalty if length_penalty is None else length_penalty
        check_beams(beam_size, n)
        check_length_penalty(alpha)
        num_results = 1 if n == 1 else beam_size  # of which some may be the same text

        def search(source_ids, prefix, alpha, new_word=None):
            return self.search(source_ids, beam_size, alpha, num_results, prefix, new_word)

        def search_rows(rows, source_ids, prefix, *new_word):
            key = "search", beam_size, num_results, len(new_word)
            specs = _IDS, _IDS, _NUMBER, *[_FLAGS] * len(new_word)
            compiled = self._compiled(key, search, *specs)
            return compiled(source_ids, prefix, np.float32(alpha), *new_word)

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
        """`n` translations of each text that are drawn by chance.

        Args:
            texts: Any number of texts.
            n: Translations for each, 1 or more; they may be equal.
            temperature: More than 0; the lower, the more often the most probable token is drawn.
            top_k: Only so many of the most probable tokens are drawn; None for all.
            top_p: Only the fewest tokens are drawn that have this probability together; None for
                all.
            seed: The same seed draws the same for the same text in the same place.
            first_place: The place of the first text, where these are a part of a longer text.
            prefixes: As in `n_best`.

        Returns:
            For each text `n` pairs of translation and score, which is that of `n_best`.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1. Received: n={n}. Choose 1 or more.")
        check_sampling(temperature, top_k, top_p)
        is_cut = leaves_some_out(top_p)
        numbers = temperature, self.length_penalty, top_p if is_cut else 1.0
        numbers = [np.float32(number) for number in numbers]

        def draw(source_ids, prefix, noise, temperature, alpha, top_p, new_word=None):
            top_p = top_p if is_cut else None
            return self._draw(source_ids, prefix, new_word, noise, temperature, top_k, top_p, alpha)

        def draw_rows(rows, source_ids, prefix, *new_word):
            longest = self._longest(source_ids.shape[1], prefix.shape[1])
            noise = noise_of(seed, [first_place + row for row in rows], n, longest)
            key = "sample", n, top_k, is_cut, len(new_word)
            specs = _IDS, _IDS, ((None, n, None), "float32"), *[_NUMBER] * len(numbers)
            compiled = self._compiled(key, draw, *specs, *[_FLAGS] * len(new_word))
            return compiled(source_ids, prefix, noise, *numbers, *new_word)

        return self._translations(texts, prefixes, draw_rows, n)

    def score(self, sources: Iterable[str], targets: Iterable[str]) -> list[tuple[float, int]]:
        """How probable given translations are, split into sub-words as the tokenizer splits them.

        A search may split a text differently and find it more probable, above all with a model that
        was trained on sampled sub-words: `n_best` gives the score of the best split. A blank text
        is scored like any other.

        Args:
            sources: Any number of texts.
            targets: A translation of each.

        Returns:
            For each pair the log-probability of the target, the end included, and its number of
            tokens, the end included.

        Raises:
            InputError: If a source has more than `max_source_tokens` tokens, or a target more than
                `most_target_tokens`.
        """
        check_not_forked()
        sources, targets = _checked(sources), _checked(targets)
        if len(sources) != len(targets):
            raise ValueError(
                "Each source needs a target. Received:"
                f" {len(sources)} sources, {len(targets)} targets. Give as many."
            )
        source, target = self._whole_sources(sources), self._whole_targets(targets)
        compiled = self._compiled(
            "score",
            lambda source_ids, target_ids: score(
                self.fast_model, source_ids, target_ids, start_id=self.tokenizer.start_id
            ),
            _IDS,
            _IDS,
        )
        results = [(0.0, 0)] * len(sources)
        lengths = [max(map(len, pair)) for pair in zip(source, target, strict=True)]
        for batch in _batches_by_length(lengths, self.batch_tokens):
            found = compiled(
                _padded([source[i] for i in batch]), _padded([target[i] for i in batch])
            )
            log_probability, num_tokens = (ops.convert_to_numpy(x) for x in found)
            for row, i in enumerate(batch):
                results[i] = float(log_probability[row]), int(num_tokens[row])
        return results

    def search(
        self,
        source_ids,
        beam_size: int,
        length_penalty: float,
        num_results: int = 1,
        prefix=None,
        new_word=None,
    ):
        """The search on token ids, in or outside of a graph.

        Args:
            source_ids: Integer (batch, source_length), each row with the end id, then padding.
            beam_size: 1 is greedy search.
            length_penalty: Alpha, a number or a tensor.
            num_results: Results that are asked for, a number; or, with several beams, a tensor.
            prefix: Integer (batch, prefix_length), how each translation must begin, then padding;
                None for nothing.
            new_word: Boolean (batch,), whether a new word must follow the prefix; None for nowhere.

        Returns:
            Hypotheses.
        """
        step, state, options = self._start(source_ids, prefix, new_word, beam_size)
        options["length_penalty"] = length_penalty
        if beam_size == 1 and num_results == 1:
            return greedy_search(step, state, **options)
        return beam_search(step, state, beam_size=beam_size, num_results=num_results, **options)

    def _draw(self, source_ids, prefix, new_word, noise, temperature, top_k, top_p, length_penalty):
        step, state, options = self._start(source_ids, prefix, new_word, noise.shape[1])
        options |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return sample(step, state, noise=noise, length_penalty=length_penalty, **options)

    def _start(self, source_ids, prefix, new_word, beams):
        """What every search gets: the step, the first state, the options that all have."""
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
            "barred_ids": NO_TEXT_IDS,
            "new_word_ids": () if new_word is None else new_word_ids(self.tokenizer),
            "length_normalization": self.length_normalization,
        }
        return step, initial_state(encode(source_ids), beams, max_length=longest), options

    def _longest(self, source_length, prefix_length):
        """The most tokens that a translation of a batch may have, the end included."""
        longest = self.max_target_tokens or source_length - 1 + EXTRA_TARGET_TOKENS
        if isinstance(longest, int) and isinstance(prefix_length, int):
            return max(longest, prefix_length + 1)
        return ops.maximum(longest, prefix_length + 1)

    def _translations(self, texts, prefixes, search, n) -> list[list[tuple[str, float]]]:
        """What a search finds for each text, whatever their order and number."""
        check_not_forked()
        texts = _checked(texts)
        prefixes = [""] * len(texts) if prefixes is None else _checked(prefixes)
        if len(prefixes) != len(texts):
            raise ValueError(
                "prefixes must be as many as the texts. Received:"
                f" {len(prefixes)} prefixes, {len(texts)} texts. Give '' where there is none."
            )
        results = [[("", 0.0)] for _ in texts]
        rows = [row for row, text in enumerate(texts) if not is_blank(text)]
        prefixes = [Prefix.of(prefix, self.tokenizer) for prefix in prefixes]
        source = self._encode([texts[row] for row in rows])
        stems = self.tokenizer.encode([prefixes[row].stem for row in rows])
        self._check_prefixes(stems)
        new_word = np.array([prefixes[row].needs_new_word for row in rows])
        for batch in _batches_by_length([len(ids) for ids in source], self.batch_tokens):
            of_batch = [rows[i] for i in batch]
            arrays = [_padded([source[i] for i in batch]), _padded([stems[i] for i in batch])]
            if new_word.any():
                arrays.append(new_word[batch])
            found = self._texts_and_scores(search(of_batch, *arrays), n)
            for row, best in zip(of_batch, found, strict=True):
                results[row] = [(prefixes[row].begin(text), score) for text, score in best]
        return results

    @property
    def most_target_tokens(self) -> int:
        """The longest target whose score or attention is told, in tokens, the end included.

        As long as a translation of the longest source may get: learned positions reach no further.
        """
        longest = self.max_source_tokens - 1 + EXTRA_TARGET_TOKENS
        longest = max(longest, self.max_target_tokens or 0)
        positions = _most_positions(self.model)
        return longest if positions is None else min(longest, positions)

    @property
    def has_attention(self) -> bool:
        """Whether the model attends to its source, so that `attention` can be asked."""
        return has_cross_attention(self.model)

    def attention(self, source: str, target: str) -> AttentionWeights:
        """Which parts of a source the model looks at while it writes a target.

        Args:
            source: A text.
            target: A translation of it, the model's own or another.

        Raises:
            InputError: If the source has more than `max_source_tokens` tokens, the target more
                than `most_target_tokens`, or the model does not attend to the source.
        """
        if not self.has_attention:
            raise InputError(
                "Attention can only be asked of a model that attends to its source. Received: a"
                f" model of class {type(self.model).__name__}. Ask another model."
            )
        source_ids, read_ids, target_ids = self._attention_ids(source, target)
        weights = cross_attention_weights(
            self.fast_model, _padded([source_ids]), _padded([read_ids])
        )
        return AttentionWeights(
            self.tokenizer.pieces(source_ids),
            self.tokenizer.pieces(target_ids),
            ops.convert_to_numpy(ops.cast(weights, "float32"))[0],
        )

    def attention_by_layer(self, source: str, target: str) -> AttentionByLayer:
        """The attention of every head in every layer; `attention` has the last layer's.

        Args:
            source: A text.
            target: A translation of it, the model's own or another.

        Raises:
            InputError: If the source has more than `max_source_tokens` tokens, the target more
                than `most_target_tokens`, or the model is no Transformer.
        """
        if not isinstance(self.model, Transformer):
            raise InputError(
                "The attention of every layer can only be asked of a Transformer. Received: a"
                f" model of class {type(self.model).__name__}. Ask for `attention`, or another"
                " model."
            )
        source_ids, read_ids, target_ids = self._attention_ids(source, target)
        found = attention_of_layers(self.fast_model, _padded([source_ids]), _padded([read_ids]))
        tokens = [self.tokenizer.pieces(ids) for ids in (source_ids, read_ids, target_ids)]
        return AttentionByLayer(*tokens, *map(_one_sentence, found))

    def _attention_ids(self, source: str, target: str) -> tuple[list[int], list[int], list[int]]:
        """Ids of the source, of what the decoder reads, and of what it predicts."""
        check_not_forked()
        source, target = _checked([source, target])
        [source_ids], [target_ids] = self._whole_sources([source]), self._whole_targets([target])
        return source_ids, [self.tokenizer.start_id, *target_ids[:-1]], target_ids

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

    def _whole_sources(self, texts: list[str]) -> list[list[int]]:
        return self._whole("source", texts, self.max_source_tokens)

    def _whole_targets(self, texts: list[str]) -> list[list[int]]:
        return self._whole("target", texts, self.most_target_tokens)

    def _whole(self, name: str, texts: list[str], most_tokens: int) -> list[list[int]]:
        """Ids of each text with the end id, of which none is cut."""
        rows = [[*ids, self.tokenizer.end_id] for ids in self.tokenizer.encode(texts)]
        longest = max(map(len, rows), default=0)
        if longest > most_tokens:
            raise InputError(
                f"A {name} whose score or attention is asked for must have at most {most_tokens}"
                f" tokens, the end included. Received: {longest}. Shorten it, or raise"
                " max_source_tokens."
            )
        return rows

    def _check_prefixes(self, prefixes: list[list[int]]) -> None:
        """Refuses a beginning that leaves no position for the end."""
        longest, positions = max(map(len, prefixes), default=0), _most_positions(self.model)
        if positions is not None and longest >= positions:
            raise InputError(
                f"A prefix must have fewer tokens than the model's {positions} learned positions."
                f" Received: {longest}. Shorten it."
            )

    def _compiled(self, key, function, *arguments):
        """A function of a batch's arrays and of numbers, compiled; the last few are kept.

        Args:
            key: What the function depends on beside its arguments.
            function: From tensors to a tuple of tensors.
            arguments: The shape and dtype of each.
        """
        check_not_forked()
        with self._functions_lock:
            compiled = self._functions.pop(key, None) or self._compile(function, arguments)
            self._functions[key] = compiled  # after all others, of which the first is dropped
            if len(self._functions) > _MOST_COMPILED:
                del self._functions[next(iter(self._functions))]
        return compiled

    def _compile(self, function, arguments):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            specs = [tf.TensorSpec(shape, dtype) for shape, dtype in arguments]
            return tf.function(function, input_signature=specs, autograph=False)
        if keras.backend.backend() == "jax":
            return _jitted(function, self.fast_model, _most_positions(self.model))
        return function

    def _texts_and_scores(self, found: Hypotheses, n) -> Iterator[list[tuple[str, float]]]:
        token_ids = ops.convert_to_numpy(found.token_ids)[:, :n]
        scores = ops.convert_to_numpy(found.scores)[:, :n]
        batch, beams, _ = token_ids.shape
        texts = self.tokenizer.decode(list(token_ids.reshape(batch * beams, -1)))
        for row in range(batch):
            pairs = zip(texts[row * beams : (row + 1) * beams], scores[row], strict=True)
            yield [(text, float(score)) for text, score in pairs if score > IMPOSSIBLE / 2]


def _best_of_each_text(results: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """The results, best first, without those whose text a better one has."""
    best = {}
    for result in results:
        best.setdefault(result[0], result)
    return list(best.values())


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


def _jitted(function, model, most_tokens):
    """The function compiled by JAX, for few shapes and with the weights that the model has then."""
    import jax

    variables = getattr(model, "variables", [])

    @jax.jit
    def stateless(values, *arrays):
        with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
            return function(*arrays)

    def call(*arrays):
        arrays_of_few = [_in_one_of_few_shapes(array, most_tokens) for array in arrays]
        found = stateless([v.value for v in variables], *arrays_of_few)
        return keras.tree.map_structure(lambda x: x[: len(arrays[0])], found)

    return call


def _in_one_of_few_shapes(array: np.ndarray, most_tokens: int | None) -> np.ndarray:
    """With rows repeated up to a power of two, and zeros behind; a number as it is.

    Up to a multiple of 16 of these, but none behind the last of `most_tokens`.
    """
    if not array.ndim:
        return array
    rows = 1 << (len(array) - 1).bit_length()
    if array.ndim > 1:
        length = array.shape[-1]
        more = -length % 16 if most_tokens is None else min(-length % 16, most_tokens - length)
        behind = [(0, 0)] * (array.ndim - 1) + [(0, more)]
        array = np.pad(array, behind)
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _padded(rows: list[list[int]]) -> np.ndarray:
    padded = np.zeros((len(rows), max(map(len, rows))), "int32")
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded


def _one_sentence(layers) -> np.ndarray:
    """Float32 (layers, ...) from a tensor of batch 1 for each layer."""
    return np.stack([ops.convert_to_numpy(ops.cast(tensor, "float32"))[0] for tensor in layers])


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


def _most_positions(model) -> int | None:
    """The longest sequence that the model has learned positions for; None if it needs none."""
    embedding = getattr(model, "embedding", None)
    return embedding.most_tokens if isinstance(embedding, PositionalEmbedding) else None


def _source_tokens_of(model) -> int:
    """The longest source that a model is meant to read, in tokens, the end included."""
    own = getattr(model, "max_source_tokens", TransformerConfig.max_source_tokens)
    positions = _most_positions(model)
    return own if positions is None else max(1, min(own, positions - EXTRA_TARGET_TOKENS))


def _check_positions(model, max_source_tokens: int, max_target_tokens: int | None) -> None:
    positions = _most_positions(model)
    longest = max_target_tokens or max_source_tokens + EXTRA_TARGET_TOKENS
    if positions is not None and max(max_source_tokens, longest) > positions:
        raise ValueError(
            f"max_source_tokens + {EXTRA_TARGET_TOKENS}, or with max_target_tokens each of the two,"
            f" must be at most the model's {positions} learned positions. Received:"
            f" max_source_tokens={max_source_tokens}, max_target_tokens={max_target_tokens}. Choose"
            " less, or train a model with a larger max_positions."
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
        settings = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        return {
            "beam_size": _typed(settings, "beam_size", int),
            "length_penalty": _typed(settings, "length_penalty", int, float),
            "length_normalization": _typed(
                {"length_normalization": "gnmt", **settings}, "length_normalization", str
            ),  # runs of earlier versions do not say
            "max_source_tokens": _typed(settings, "max_source_tokens", int),
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: must be the settings of a run that training.train wrote. Received:"
            f" {' '.join(str(error).split())}. Check the path, or train again."
        ) from error


def _typed(settings: dict, name: str, *types: type):
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
    check_not_forked()
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for files that are cut or foreign
        what_to_do = "Check the path, or finish the training."
        if "Could not locate class" in str(error):
            what_to_do = (
                "Import what registers the class first: `import training.baselines` for a run of"
                " this project that is no Transformer."
            )
        raise InputError(
            f"{path}: must be the model of a finished run. Received:"
            f" {' '.join(str(error).split())[:200]}. {what_to_do}"
        ) from error
