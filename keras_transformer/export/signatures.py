"""The signatures of an export, which take text and use TensorFlow's and SentencePiece's ops.

Like the live translator, they group rows of similar length up to `batch_tokens` tokens, including
padding, so they answer a batch of any size in bounded memory.

Invalid UTF-8 is replaced with U+FFFD, as by `bytes.decode(errors="replace")`.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf  # noqa: TID253  this module is only imported to export

from keras_transformer.model import cross_attention_weights
from keras_transformer.search.hypotheses import IMPOSSIBLE, Hypotheses
from keras_transformer.search.scoring import score
from keras_transformer.text.blank import is_blank_in_graph
from keras_transformer.text.prefixes import PrefixesInGraph
from keras_transformer.text.tokenizer_pair import TokenizerSide, pieces_of
from keras_transformer.translator import Translator

# The score that fills up rows with too few results. JSON has no infinity.
NO_RESULT = IMPOSSIBLE

# The most attention weights in one answer: 256 MiB.
MOST_WEIGHTS = 2**26

# Lengths are padded to multiples of this. TensorFlow makes and keeps kernels for each shape, so
# with fewer shapes a server warms up sooner and uses less memory.
LENGTH_STEP = 8

Outputs: TypeAlias = dict[str, tf.Tensor]  # of a signature, by name

# Maps source ids and the number of results, then perhaps a prefix, to the hypotheses.
Search: TypeAlias = Callable[..., Hypotheses]


def served_functions(translator: Translator) -> dict[str, Any]:
    """Returns the concrete functions to serve, by signature.

    Signatures: texts, prefixes, sources, targets, translations and tokens are String, UTF-8, and
    inputs have the shape (batch,).
        serving_default, greedy: from text to translation (batch,) and score Float (batch,).
        n_best: from text to translations (batch, beams), best first and all different, and scores
            Float (batch, beams). "" and `NO_RESULT` fill up rows with fewer results, such as that
            of a blank text, which has one.
        n_best_from_prefix: the same from text and prefix; see `Translator.n_best`.
        score: from source and target to log_probability Float (batch,) and num_tokens Integer
            (batch,).
        attention: from source and target to source_tokens (batch, source_length) and target_tokens
            (batch, target_length), padded with "", and weights Float (batch, heads, target_length,
            source_length), 0 at padding. Only for models that attend to the source.

    `is_blank` defines blank texts. A text to translate is cut at `max_source_tokens`. score and
    attention refuse longer sources, and targets longer than any translation; n_best_from_prefix
    refuses prefixes that leave the longest translation no room for its end. They refuse the whole
    batch, with InvalidArgument.
    """

    def concrete(function: Callable[..., Outputs], *names: str) -> Any:
        inputs = [tf.TensorSpec([None], tf.string, name=name) for name in names]
        served = tf.function(function, input_signature=inputs, autograph=False)
        return served.get_concrete_function()

    search = _shared_search(translator) if translator.beam_size > 1 else None
    functions = {
        "serving_default": concrete(_translates(translator, translator.beam_size, search), "text"),
        "greedy": concrete(_translates(translator, 1), "text"),
        "n_best": concrete(_finds_n_best(translator, search), "text"),
        "n_best_from_prefix": concrete(_finds_n_best_from_prefix(translator), "text", "prefix"),
        "score": concrete(_scores(translator), "source", "target"),
    }
    if translator.has_attention:
        functions["attention"] = concrete(_attends(translator), "source", "target")
    return functions


def _search_of(translator: Translator, beam_size: int) -> Search:
    def search(
        source_ids: tf.Tensor, num_results: int | tf.Tensor, **held_to: tf.Tensor
    ) -> Hypotheses:
        alpha = translator.length_penalty
        return translator.search(source_ids, beam_size, alpha, num_results, **held_to)

    return search


def _shared_search(translator: Translator) -> Search:
    """Makes the beam search, most of the graph, a function that several signatures share."""
    search = _search_of(translator, translator.beam_size)

    def beam_search(source_ids: tf.Tensor, num_results: tf.Tensor) -> Hypotheses:
        return search(source_ids, num_results)

    specs = tf.TensorSpec([None, None], "int32"), tf.TensorSpec([], "int32")
    return tf.function(beam_search, input_signature=specs, autograph=False)


def _translates(
    translator: Translator, beam_size: int, search: Search | None = None
) -> Callable[[tf.Tensor], Outputs]:
    search = search or _search_of(translator, beam_size)

    def serve(text: tf.Tensor) -> Outputs:
        translations, scores = _results(translator, search, text, 1)
        return {"translation": translations[:, 0], "score": scores[:, 0]}

    return serve


def _finds_n_best(
    translator: Translator, search: Search | None = None
) -> Callable[[tf.Tensor], Outputs]:
    search = search or _search_of(translator, translator.beam_size)

    def serve(text: tf.Tensor) -> Outputs:
        translations, scores = _results(translator, search, text, translator.beam_size)
        return {"translations": translations, "scores": scores}

    return serve


def _finds_n_best_from_prefix(translator: Translator) -> Callable[[tf.Tensor, tf.Tensor], Outputs]:
    search = _search_of(translator, translator.beam_size)

    def serve(text: tf.Tensor, prefix: tf.Tensor) -> Outputs:
        text, prefix = _as_many("text", text, "prefix", prefix)
        translations, scores = _results(translator, search, text, translator.beam_size, prefix)
        return {"translations": translations, "scores": scores}

    return serve


def _scores(translator: Translator) -> Callable[[tf.Tensor, tf.Tensor], Outputs]:
    def serve(source: tf.Tensor, target: tf.Tensor) -> Outputs:
        source_ids, target_ids = _whole_ids(translator, source, target)

        def results_of(rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return score(
                translator.fast_model,
                _rows_of(source_ids, rows, translator.max_source_tokens),
                _rows_of(target_ids, rows, translator.most_target_tokens),
                start_id=translator.tokenizer.start_id,
            )

        log_probability, num_tokens = _in_groups(
            results_of,
            _longer_of(source_ids, target_ids),
            translator.batch_tokens,
            tf.zeros([0], "float32"),
            tf.zeros([0], "int32"),
        )
        return {"log_probability": log_probability, "num_tokens": num_tokens}

    return serve


def _attends(translator: Translator) -> Callable[[tf.Tensor, tf.Tensor], Outputs]:
    tokenizer, model = translator.tokenizer, translator.fast_model
    one_token = tf.constant([[tokenizer.end_id]])
    num_heads = cross_attention_weights(model, one_token, one_token).shape[1]
    source_pieces, target_pieces = _pieces(tokenizer.source), _pieces(tokenizer.target)

    def serve(source: tf.Tensor, target: tf.Tensor) -> Outputs:
        source_ids, target_ids = _whole_ids(translator, source, target)
        source_matrix, target_matrix = source_ids.to_tensor(), target_ids.to_tensor()
        source_length, target_length = tf.shape(source_matrix)[1], tf.shape(target_matrix)[1]
        sizes = tf.shape(source)[0], num_heads, target_length, source_length
        num_weights = tf.reduce_prod([tf.cast(size, "int64") for size in sizes])
        source_ids, target_ids = _refuse_unless(
            num_weights <= MOST_WEIGHTS,
            f"The attention of a batch must have at most {MOST_WEIGHTS} weights: texts times heads"
            " times target tokens times source tokens, padding included. Received: ",
            num_weights,
            ". Send fewer, or shorter, texts at once.",
            source_ids,
            target_ids,
        )

        def weights_of(rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
            source_rows = _rows_of(source_ids, rows, translator.max_source_tokens)
            target_rows = _rows_of(target_ids, rows, translator.most_target_tokens)
            start = tf.fill([tf.size(rows), 1], tokenizer.start_id)
            begun = tf.concat([start, target_rows], axis=1)[:, :-1]
            weights = cross_attention_weights(model, source_rows, begun)
            is_token = tf.cast(tf.not_equal(target_rows, 0), "float32")
            weights = tf.cast(weights, "float32") * is_token[:, None, :, None]
            weights = weights[:, :, :target_length, :source_length]
            more = [target_length - tf.shape(weights)[2], source_length - tf.shape(weights)[3]]
            return (tf.pad(weights, [[0, 0], [0, 0], [0, more[0]], [0, more[1]]]),)

        [weights] = _in_groups(
            weights_of,
            _longer_of(source_ids, target_ids),
            translator.batch_tokens,
            tf.zeros([0, num_heads, target_length, source_length]),
        )
        return {
            "source_tokens": tf.gather(source_pieces, source_matrix),
            "target_tokens": tf.gather(target_pieces, target_matrix),
            "weights": weights,
        }

    return serve


def _pieces(tokenizer: TokenizerSide) -> list[str]:
    """Returns the sub-word of each id, and "" for padding."""
    return ["", *pieces_of(tokenizer)[1:]]


def _results(
    translator: Translator,
    search: Search,
    text: tf.Tensor,
    num_results: int,
    prefix: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Translates texts.

    Args:
        translator: The translator.
        search: From `_search_of` or `_shared_search`, with at least `num_results` beams.
        text: The texts, String (batch,).
        num_results: The number of results for each text.
        prefix: The beginnings of the translations, String (batch,), or None.

    Returns:
        (String (batch, num_results), scores Float32 (batch, num_results)).
    """
    text = _valid(text)
    is_blank = is_blank_in_graph(text)
    source_ids = source_ids_in_graph(translator, tf.boolean_mask(text, ~is_blank))
    lengths = _padded_length(source_ids.row_lengths())
    if prefix is not None:
        prefix = tf.boolean_mask(_valid(prefix), ~is_blank)
        prefixes = PrefixesInGraph.of(prefix, translator.tokenizer.target)
        most_stem_tokens = translator.most_target_tokens - 1  # leaves room for the end
        stem_ids = translator.tokenizer.target.tokenize(prefixes.stem)
        stem_ids = _refuse_longer("prefix", stem_ids, most_stem_tokens, "tokens")
        lengths = _longer_of(source_ids, stem_ids)

    def results_of(rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        held_to = {}
        if prefix is not None:
            prefixes_of_rows = prefixes.of_rows(rows)
            held_to["prefix"] = _rows_of(stem_ids, rows, most_stem_tokens)
            held_to["new_word"] = prefixes_of_rows.need_new_word
        source_rows = _rows_of(source_ids, rows, translator.max_source_tokens)
        found = search(source_rows, num_results, **held_to)
        translations, scores = _texts_and_scores(translator, found, num_results)
        if prefix is not None:
            translations = prefixes_of_rows.begin(translations)
        if num_results > 1:
            translations, scores = _best_of_each_text(translations, scores)
        is_result = scores > NO_RESULT / 2
        return tf.where(is_result, translations, ""), tf.where(is_result, scores, NO_RESULT)

    translations, scores = _in_groups(
        results_of,
        lengths,
        translator.batch_tokens,
        tf.zeros([0, num_results], "string"),
        tf.zeros([0, num_results], "float32"),
    )
    return _with_blank_texts(is_blank, translations, scores, num_results)


def _with_blank_texts(
    is_blank: tf.Tensor, translations: tf.Tensor, scores: tf.Tensor, num_results: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds the results of blank texts, which all share one extra row after the others."""
    row = tf.where(is_blank, tf.shape(scores)[0], tf.cumsum(tf.cast(~is_blank, "int32")) - 1)
    of_blank = [[0.0] + [NO_RESULT] * (num_results - 1)]
    return (
        tf.gather(tf.concat([translations, [[""] * num_results]], axis=0), row),
        tf.gather(tf.concat([scores, of_blank], axis=0), row),
    )


def _texts_and_scores(
    translator: Translator, found: Hypotheses, num_results: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first results of Hypotheses: String and Float32 (batch, num_results)."""
    token_ids = found.token_ids[:, :num_results]
    token_ids = tf.reshape(token_ids, [-1, tf.shape(token_ids)[2]])  # (batch * results, length)
    texts = translator.tokenizer.target.detokenize(token_ids)
    return tf.reshape(texts, [-1, num_results]), found.scores[:, :num_results]


def _best_of_each_text(translations: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves repeated texts to the end of their rows, with `NO_RESULT` as their score.

    Args:
        translations: String (batch, results), best first.
        scores: Float32 (batch, results).

    Returns:
        Translations and scores in the new order.
    """
    num_results = translations.shape[1]
    is_better = np.tri(num_results, k=-1, dtype=bool)  # [one, other]: other comes before one
    is_same = tf.equal(translations[:, :, None], translations[:, None, :])
    repeats = tf.reduce_any(is_same & is_better, axis=2)  # (batch, results)
    scores, order = tf.math.top_k(tf.where(repeats, NO_RESULT, scores), num_results)
    return tf.gather(translations, order, batch_dims=1), scores


def source_ids_in_graph(translator: Translator, text: tf.Tensor) -> tf.RaggedTensor:
    """Converts texts, String (batch,), UTF-8, to the ids that the encoder reads.

    Returns:
        Ragged int32 (batch, source_length), each row cut at `max_source_tokens`, with the end id.
    """
    token_ids = translator.tokenizer.source.tokenize(text)
    return _with_end(translator, token_ids[:, : translator.max_source_tokens - 1])


def _whole_ids(
    translator: Translator, source: tf.Tensor, target: tf.Tensor
) -> list[tf.RaggedTensor]:
    """Returns the uncut ids of both sides with the end id, ragged int32 (batch, length)."""
    source, target = _as_many("source", source, "target", target)
    return [
        _refuse_longer(
            f"{name} for scores or attention",
            _with_end(translator, tokenizer.tokenize(_valid(text))),
            most_tokens,
            "tokens, the end included",
        )
        for name, tokenizer, text, most_tokens in (
            ("source", translator.tokenizer.source, source, translator.max_source_tokens),
            ("target", translator.tokenizer.target, target, translator.most_target_tokens),
        )
    ]


def _refuse_longer(
    name: str, token_ids: tf.RaggedTensor, most_tokens: int, unit: str
) -> tf.RaggedTensor:
    """Returns the ragged ids; refuses rows of more than `most_tokens`."""
    lengths = token_ids.row_lengths()
    [token_ids] = _refuse_unless(
        tf.reduce_all(lengths <= most_tokens),
        f"A {name} must have at most {most_tokens} {unit}. Received: ",
        tf.reduce_max(lengths),
        ". Shorten it, or export with a larger max_source_tokens.",
        token_ids,
    )
    return token_ids


def _as_many(name: str, text: tf.Tensor, other_name: str, other: tf.Tensor) -> list[tf.Tensor]:
    """Returns both texts, String (batch,); refuses unequal numbers of them."""
    sizes = tf.stack([tf.size(text), tf.size(other)])
    return _refuse_unless(
        tf.equal(*tf.unstack(sizes)),
        f"Each {name} needs a {other_name}. Received: their numbers are ",
        sizes,
        ". Give equally many.",
        text,
        other,
    )


def _refuse_unless(
    condition: tf.Tensor, must_hold: str, received: tf.Tensor, what_to_do: str, *tensors: tf.Tensor
) -> list[tf.Tensor]:
    """Returns the tensors; reading them raises InvalidArgument unless the condition holds."""
    received = tf.strings.reduce_join(tf.strings.as_string(received), separator=" and ")
    message = tf.strings.join([must_hold, received, what_to_do])
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return [tf.identity(tensor) for tensor in tensors]


def _with_end(translator: Translator, token_ids: tf.RaggedTensor) -> tf.RaggedTensor:
    end = tf.fill([token_ids.nrows(), 1], translator.tokenizer.end_id)
    return tf.concat([token_ids, end], axis=1)


def _valid(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def _rows_of(token_ids: tf.RaggedTensor, rows: tf.Tensor, most_tokens: int) -> tf.Tensor:
    """Pads some rows of ragged ids: Integer (rows, length).

    The length is a multiple of `LENGTH_STEP`, but at most `most_tokens`.
    """
    matrix = tf.gather(token_ids, rows).to_tensor(0)
    length = tf.shape(matrix)[1]
    return tf.pad(matrix, [[0, 0], [0, tf.minimum(_padded_length(length), most_tokens) - length]])


def _longer_of(source_ids: tf.RaggedTensor, target_ids: tf.RaggedTensor) -> tf.Tensor:
    return _padded_length(tf.maximum(source_ids.row_lengths(), target_ids.row_lengths()))


def _padded_length(lengths: tf.Tensor) -> tf.Tensor:
    """Rounds lengths up to multiples of `LENGTH_STEP`, Int32."""
    return tf.cast(-(-lengths // LENGTH_STEP) * LENGTH_STEP, "int32")


def _in_groups(
    results_of: Callable[[tf.Tensor], tuple[tf.Tensor, ...]],
    lengths: tf.Tensor,
    most_tokens: int,
    *no_results: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    """Computes results for groups of rows of similar length, the shortest first.

    Args:
        results_of: Maps the rows of a group, Integer (rows,), to a tuple of results (rows, ...).
        lengths: Int32 (batch,), the number of tokens in each row, 1 or more.
        most_tokens: The most tokens of a group, including padding; a longer row is a group of its
            own.
        no_results: Empty results, (0, ...) each.

    Returns:
        A tuple of results (batch, ...).
    """
    order = tf.argsort(lengths, stable=True)
    lengths = tf.gather(lengths, order)
    num_rows = tf.size(lengths)

    def next_group(first: tf.Tensor, *results: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with_padding = lengths[first:] * tf.range(1, num_rows - first + 1)
        fitting = tf.math.count_nonzero(with_padding <= most_tokens, dtype="int32")
        end = first + tf.maximum(fitting, 1)
        found = results_of(order[first:end])
        return end, *(tf.concat(pair, axis=0) for pair in zip(results, found, strict=True))

    _, *results = tf.while_loop(
        lambda first, *_: first < num_rows,
        next_group,
        (tf.constant(0), *no_results),
        shape_invariants=(
            tf.TensorShape([]),
            *(tf.TensorShape([None, *x.shape[1:]]) for x in no_results),
        ),
        parallel_iterations=1,  # parallel groups would take more memory
    )
    place = tf.math.invert_permutation(order)
    return tuple(tf.gather(x, place) for x in results)
