"""What an export serves: six signatures from text, by TensorFlow's own ops and SentencePiece's.

All of them split a batch as the live translator does: rows of similar length together, so many at
a time as have `batch_tokens` tokens, padding included. So a batch of any size is answered in
bounded memory.

Text that is no UTF-8 is read with U+FFFD in the place of what is wrong, as Python's
`bytes.decode(errors="replace")` does.
"""

from collections.abc import Callable

import numpy as np

from keras_transformer.model import cross_attention_weights
from keras_transformer.search.hypotheses import IMPOSSIBLE
from keras_transformer.search.scoring import score
from keras_transformer.text.blank import is_blank_in_graph
from keras_transformer.text.prefixes import PrefixesInGraph
from keras_transformer.translator import Translator

# The score of a result that a search did not find. JSON has no infinity.
NO_RESULT = IMPOSSIBLE

# The most numbers of one answer with attention weights: 256 MiB of them.
MOST_WEIGHTS = 2**26

# Lengths are filled up to a multiple of this. TensorFlow makes and keeps kernels for each shape
# that it meets: with fewer shapes a server is warm sooner, and stops growing sooner.
LENGTH_STEP = 8


def served_functions(translator: Translator) -> dict:
    """The concrete functions to be served, by signature.

    Signatures: `text`, `prefix`, `source`, `target` and what is written are String (batch,), UTF-8.
        serving_default, greedy: from text to translation and score Float (batch,).
        n_best: from text to translations String (batch, beams), best first, and scores Float
            (batch, beams). They differ as texts. Where there are fewer results, as for blank text,
            which has one, a row is filled up with "" and `NO_RESULT`.
        n_best_from_prefix: the same from text and prefix, which each translation of the text begins
            with, as in `Translator.n_best`; "" for none.
        score: from source and target to log_probability Float (batch,) and num_tokens Integer
            (batch,).
        attention: from source and target to source_tokens String (batch, source_length),
            target_tokens String (batch, target_length), padded with "", and weights Float (batch,
            heads, target_length, source_length), which are 0 at padding. Only for a model that
            attends to the source: others have no such weights, and no such signature.

    Which text is blank, `is_blank` says. A text to translate is cut at `max_source_tokens`. score
    and attention refuse a source that is longer, and a target longer than a translation may get;
    n_best_from_prefix refuses a prefix that leaves the longest translation no room for its end. All
    refuse with InvalidArgument; an answer for the rest of the batch is then not given.

    Args:
        translator: With its search, its max_source_tokens and its batch_tokens.
    """
    import tensorflow as tf

    def takes(function, *names):
        inputs = [tf.TensorSpec([None], tf.string, name=name) for name in names]
        served = tf.function(function, input_signature=inputs, autograph=False)
        return served.get_concrete_function()

    search = _shared_search(translator) if translator.beam_size > 1 else None
    functions = {
        "serving_default": takes(_translates(translator, translator.beam_size, search), "text"),
        "greedy": takes(_translates(translator, 1), "text"),
        "n_best": takes(_finds_n_best(translator, search), "text"),
        "n_best_from_prefix": takes(_finds_n_best_from_prefix(translator), "text", "prefix"),
        "score": takes(_scores(translator), "source", "target"),
    }
    if translator.has_attention:
        functions["attention"] = takes(_attends(translator), "source", "target")
    return functions


def _search_of(translator, beam_size):
    """The search of `_results`: from ids, results asked for and constraints to Hypotheses."""

    def search(source_ids, num_results, **held_to):
        alpha = translator.length_penalty
        return translator.search(source_ids, beam_size, alpha, num_results, **held_to)

    return search


def _shared_search(translator):
    """The beam search as a function of its own: the file has it once, whichever signatures call it.

    Most of a signature's graph is its search.
    """
    import tensorflow as tf

    search = _search_of(translator, translator.beam_size)

    def beam_search(source_ids, num_results):
        return search(source_ids, num_results)

    specs = tf.TensorSpec([None, None], "int32"), tf.TensorSpec([], "int32")
    return tf.function(beam_search, input_signature=specs, autograph=False)


def _translates(translator, beam_size, search=None):
    search = search or _search_of(translator, beam_size)

    def serve(text):
        translations, scores = _results(translator, search, text, 1)
        return {"translation": translations[:, 0], "score": scores[:, 0]}

    return serve


def _finds_n_best(translator, search=None):
    search = search or _search_of(translator, translator.beam_size)

    def serve(text):
        translations, scores = _results(translator, search, text, translator.beam_size)
        return {"translations": translations, "scores": scores}

    return serve


def _finds_n_best_from_prefix(translator):
    search = _search_of(translator, translator.beam_size)

    def serve(text, prefix):
        text, prefix = _as_many("text", text, "prefix", prefix)
        translations, scores = _results(translator, search, text, translator.beam_size, prefix)
        return {"translations": translations, "scores": scores}

    return serve


def _scores(translator):
    tokenizer = translator.tokenizer

    def serve(source, target):
        source_ids, target_ids = _whole_ids(translator, source, target)

        def results_of(rows):
            return score(
                translator.fast_model,
                _rows_of(source_ids, rows, translator.max_source_tokens),
                _rows_of(target_ids, rows, translator.most_target_tokens),
                start_id=tokenizer.start_id,
            )

        log_probability, num_tokens = _in_groups(
            results_of,
            _longer_of(source_ids, target_ids),
            translator.batch_tokens,
            _nothing("float32", 0),
            _nothing("int32", 0),
        )
        return {"log_probability": log_probability, "num_tokens": num_tokens}

    return serve


def _attends(translator):
    import tensorflow as tf

    tokenizer, model = translator.tokenizer, translator.fast_model
    one_token = tf.constant([[tokenizer.end_id]])
    num_heads = cross_attention_weights(model, one_token, one_token).shape[1]
    pieces = ["", *tokenizer.pieces(range(1, tokenizer.vocabulary_size))]  # "" for padding

    def serve(source, target):
        source_ids, target_ids = _whole_ids(translator, source, target)
        source_matrix, target_matrix = source_ids.to_tensor(), target_ids.to_tensor()
        source_length, target_length = tf.shape(source_matrix)[1], tf.shape(target_matrix)[1]
        batch = tf.shape(source)[0]
        sizes = [tf.cast(n, "int64") for n in (batch, num_heads, target_length, source_length)]
        few_enough = _check(
            tf.reduce_prod(sizes) <= MOST_WEIGHTS,
            f"The attention of a batch must have at most {MOST_WEIGHTS} weights, of its texts times"
            " heads times target tokens times source tokens, padding included. Received: ",
            tf.reduce_prod(sizes),
            ". Send fewer, or shorter, texts at once.",
        )

        def weights_of(rows):
            source_rows = _rows_of(source_ids, rows, translator.max_source_tokens)
            target_rows = _rows_of(target_ids, rows, translator.most_target_tokens)
            start = tf.fill([tf.size(rows), 1], tokenizer.start_id)
            begun = tf.concat([start, target_rows], axis=1)[:, :-1]
            weights = cross_attention_weights(model, source_rows, begun)
            weights = tf.cast(weights, "float32") * _is_token(target_rows)[:, None, :, None]
            weights = weights[:, :, :target_length, :source_length]
            more = [target_length - tf.shape(weights)[2], source_length - tf.shape(weights)[3]]
            return (tf.pad(weights, [[0, 0], [0, 0], [0, more[0]], [0, more[1]]]),)

        with tf.control_dependencies([few_enough]):
            [weights] = _in_groups(
                weights_of,
                _longer_of(source_ids, target_ids),
                translator.batch_tokens,
                _nothing("float32", 0, num_heads, target_length, source_length),
            )
        return {
            "source_tokens": tf.gather(pieces, source_matrix),
            "target_tokens": tf.gather(pieces, target_matrix),
            "weights": weights,
        }

    return serve


def _results(translator, search, text, num_results, prefix=None):
    """What a search finds.

    Args:
        translator: Whose search it is.
        search: Of `_search_of` or `_shared_search`, with at least `num_results` beams.
        text: String (batch,).
        num_results: Results for each text.
        prefix: String (batch,), what each translation begins with; None for nothing.

    Returns:
        (String (batch, num_results), scores Float32 (batch, num_results)).
    """
    import tensorflow as tf

    text = _valid(text)
    is_blank = is_blank_in_graph(text)
    source_ids = source_ids_in_graph(translator, tf.boolean_mask(text, ~is_blank))
    lengths = _filled_up(source_ids.row_lengths())
    if prefix is not None:
        prefixes = PrefixesInGraph.of(
            tf.boolean_mask(_valid(prefix), ~is_blank), translator.tokenizer
        )
        stem_ids = _stem_ids(translator, prefixes)
        lengths = _longer_of(source_ids, stem_ids)

    def results_of(rows):
        held_to = {}
        if prefix is not None:
            prefixes_of_rows = prefixes.of_rows(rows)
            held_to["prefix"] = _rows_of(stem_ids, rows, translator.most_target_tokens - 1)
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
        _nothing("string", 0, num_results),
        _nothing("float32", 0, num_results),
    )
    # Blank texts are not searched for: all of them take the row behind those that are.
    row = tf.where(is_blank, tf.shape(scores)[0], tf.cumsum(tf.cast(~is_blank, "int32")) - 1)
    of_blank = [[0.0] + [NO_RESULT] * (num_results - 1)]
    return (
        tf.gather(tf.concat([translations, [[""] * num_results]], axis=0), row),
        tf.gather(tf.concat([scores, of_blank], axis=0), row),
    )


def _texts_and_scores(translator, found, num_results):
    """Of the first results of Hypotheses: String and Float32 (batch, num_results)."""
    import tensorflow as tf

    token_ids = found.token_ids[:, :num_results]
    token_ids = tf.reshape(token_ids, [-1, tf.shape(token_ids)[2]])  # (batch * results, length)
    texts = translator.tokenizer.detokenize(token_ids)
    return tf.reshape(texts, [-1, num_results]), found.scores[:, :num_results]


def _best_of_each_text(translations, scores):
    """Moves what repeats a better result's text to the end, with `NO_RESULT`.

    Args:
        translations: String (batch, results), best first.
        scores: Float32 (batch, results).

    Returns:
        The same, with the repetitions after the others.
    """
    import tensorflow as tf

    num_results = translations.shape[1]
    is_better = np.tri(num_results, k=-1, dtype=bool)  # [one, other]: other comes before one
    is_same = tf.equal(translations[:, :, None], translations[:, None, :])
    repeats = tf.reduce_any(is_same & is_better, axis=2)  # (batch, results)
    scores, order = tf.math.top_k(tf.where(repeats, NO_RESULT, scores), num_results)
    return tf.gather(translations, order, batch_dims=1), scores


def source_ids_in_graph(translator: Translator, text):
    """Text to the ids that the encoder reads, by TensorFlow ops alone.

    Args:
        translator: Its tokenizer and its `max_source_tokens` count.
        text: String (batch,), UTF-8.

    Returns:
        Ragged int32 (batch, source_length), each row cut, with the end id.
    """
    token_ids = translator.tokenizer.tokenize(text)
    return _with_end(translator, token_ids[:, : translator.max_source_tokens - 1])


def _whole_ids(translator, source, target):
    """The ids of both, with the end id: two ragged int32 (batch, length).

    Raises in the graph: InvalidArgument, if there are not as many targets as sources, or one is
    too long.
    """
    import tensorflow as tf

    source, target = _as_many("source", source, "target", target)
    source_ids = _with_end(translator, translator.tokenizer.tokenize(_valid(source)))
    target_ids = _with_end(translator, translator.tokenizer.tokenize(_valid(target)))
    checks = [
        _check(
            tf.reduce_all(ids.row_lengths() <= most_tokens),
            f"A {name} whose score or attention is asked for must have at most {most_tokens}"
            " tokens, the end included. Received: ",
            tf.reduce_max(ids.row_lengths()),
            ". Shorten it, or export with a larger max_source_tokens.",
        )
        for name, ids, most_tokens in (
            ("source", source_ids, translator.max_source_tokens),
            ("target", target_ids, translator.most_target_tokens),
        )
    ]
    with tf.control_dependencies(checks):
        return tf.identity(source_ids), tf.identity(target_ids)


def _stem_ids(translator, prefixes):
    """The ids that translations are held to: ragged int32 (batch, length).

    Raises in the graph: InvalidArgument, if a translation of `most_target_tokens` would have no
    room for the end.
    """
    import tensorflow as tf

    stem_ids = translator.tokenizer.tokenize(prefixes.stem)
    most_tokens = translator.most_target_tokens - 1
    short_enough = _check(
        tf.reduce_all(stem_ids.row_lengths() <= most_tokens),
        f"A prefix must have at most {most_tokens} tokens. Received: ",
        tf.reduce_max(stem_ids.row_lengths()),
        ". Shorten it, or export with a larger max_source_tokens.",
    )
    with tf.control_dependencies([short_enough]):
        return tf.identity(stem_ids)


def _as_many(name, text, other_name, other):
    """Both, String (batch,) each.

    Raises in the graph: InvalidArgument, if there are not as many of the one as of the other.
    """
    import tensorflow as tf

    as_many = _check(
        tf.equal(tf.size(text), tf.size(other)),
        f"Each {name} needs a {other_name}. Received: their numbers are ",
        tf.stack([tf.size(text), tf.size(other)]),
        ". Give as many.",
    )
    with tf.control_dependencies([as_many]):
        return tf.identity(text), tf.identity(other)


def _check(condition, must_hold, received, what_to_do):
    """The op that refuses with one message, of what the numbers are first known in the graph."""
    import tensorflow as tf

    received = tf.strings.reduce_join(tf.strings.as_string(received), separator=" and ")
    message = tf.strings.join([must_hold, received, what_to_do])
    return tf.debugging.Assert(condition, [message])


def _with_end(translator, token_ids):
    import tensorflow as tf

    end = tf.fill([token_ids.nrows(), 1], translator.tokenizer.end_id)
    return tf.concat([token_ids, end], axis=1)


def _valid(text):
    import tensorflow as tf

    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def _rows_of(token_ids, rows, most_tokens: int):
    """Some rows of ragged ids, padded: Integer (rows, length).

    The length is a multiple of `LENGTH_STEP`, or `most_tokens`, which no row is longer than.
    """
    import tensorflow as tf

    matrix = tf.gather(token_ids, rows).to_tensor(0)
    length = tf.shape(matrix)[1]
    with_more = tf.minimum(_filled_up(length), most_tokens)
    return tf.pad(matrix, [[0, 0], [0, with_more - length]])


def _longer_of(source_ids, target_ids):
    import tensorflow as tf

    return _filled_up(tf.maximum(source_ids.row_lengths(), target_ids.row_lengths()))


def _filled_up(lengths):
    """The multiples of `LENGTH_STEP` from these lengths on: Int32."""
    import tensorflow as tf

    return tf.cast(-(-lengths // LENGTH_STEP) * LENGTH_STEP, "int32")


def _is_token(token_ids):
    import tensorflow as tf

    return tf.cast(tf.not_equal(token_ids, 0), "float32")


def _nothing(dtype, *shape):
    """An answer for no rows, which the answers for some are put behind."""
    import tensorflow as tf

    return tf.zeros(shape, dtype)


def _in_groups(results_of: Callable, lengths, most_tokens: int, *no_results):
    """Answers rows of similar length together, the shortest first.

    Args:
        results_of: From rows, Integer (some,), to a tuple of results (some, ...).
        lengths: Int32 (batch,), tokens of each row, 1 or more.
        most_tokens: How many are worked on at once, padding included; a row is never parted.
        no_results: The results of no rows: (0, ...) each.

    Returns:
        A tuple of results (batch, ...).
    """
    import tensorflow as tf

    order = tf.argsort(lengths, stable=True)
    lengths = tf.gather(lengths, order)
    num_rows = tf.size(lengths)

    def next_group(first, *results):
        with_padding = lengths[first:] * tf.range(1, num_rows - first + 1)
        fitting = tf.math.count_nonzero(with_padding <= most_tokens, dtype="int32")
        behind = first + tf.maximum(fitting, 1)
        found = results_of(order[first:behind])
        return behind, *(tf.concat(pair, axis=0) for pair in zip(results, found, strict=True))

    _, *results = tf.while_loop(
        lambda first, *_: first < num_rows,
        next_group,
        (tf.constant(0), *no_results),
        shape_invariants=(
            tf.TensorShape([]),
            *(tf.TensorShape([None, *x.shape[1:]]) for x in no_results),
        ),
        parallel_iterations=1,  # what more would do is take the memory of several
    )
    place = tf.math.invert_permutation(order)
    return tuple(tf.gather(x, place) for x in results)
