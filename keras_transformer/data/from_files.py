"""From text files to the `tf.data.Dataset` that `model.fit` takes, in memory or streamed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_transformer.data.batches import PairBatches
from keras_transformer.data.corpus import Corpus, PathNames, as_corpora, read_corpora
from keras_transformer.data.stream import PairStream
from keras_transformer.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_transformer.text.tokenizer_pair import Tokenizer


def pair_batches(
    source: PathNames | Corpus | Sequence[Corpus],
    target: PathNames | None,
    tokenizer: "Tokenizer",
    max_tokens: int = 4096,
    *,
    seed: int = 0,
    shuffle: bool = True,
    first_epoch: int = 0,
    first_batch: int = 0,
    max_length: int = 256,
    max_length_ratio: float | None = None,
    sampling: float = 0.0,
    steps_per_epoch: int | None = None,
    accumulation_steps: int = 1,
) -> "tf.data.Dataset":
    """Returns batches of text files as a `tf.data.Dataset` of known cardinality.

    Without `steps_per_epoch`, reads the text into memory, and an epoch holds each pair once; see
    `PairBatches`. With `steps_per_epoch`, streams a text of any size; see `PairStream`.

    Example:
        >>> pair_batches("train.en", "train.de", tokenizer)
        >>> pair_batches("crawl-*.tsv.gz", None, tokenizer, steps_per_epoch=5000)

    Args:
        source: The source side: a file, plain or compressed, a pattern such as "train-*.en", or a
            list of these. Or one `Corpus` or several, with None as target.
        target: The target side: as many files, with corresponding lines. None if each line of the
            source's files is a pair, separated by a tab.
        tokenizer: Makes the ids.
        max_tokens, seed, max_length, max_length_ratio: As for `PairBatches`.
        shuffle: False gives the same order in each epoch, from short pairs to long ones; in a
            stream, block by block.
        first_epoch: The number of the first epoch, from 0, to resume a run.
        first_batch: The number of batches of that epoch that are done. If not 0, the dataset holds
            only the rest of that epoch.
        sampling: The rate at which lines are split differently each time; see
            `SubwordTokenizer.sample`. Needs `steps_per_epoch`, since lengths, and so the number of
            batches, change from pass to pass. 0 always splits them the same way.
        steps_per_epoch: The number of batches of a stream that count as an epoch. None reads the
            text into memory.
        accumulation_steps: The number of parts into which each batch is divided, with weights as a
            third element, for an optimizer with as many `gradient_accumulation_steps`: the
            gradients of the parts add up to the batch's. Compile with `metrics`, not
            `weighted_metrics`. `Epochs` describes how fit's `loss` then counts.

    Returns:
        A dataset of known cardinality of `({"source_ids", "target_ids"}, labels)`; see
        `PairBatches.batch`, and `Epochs.dataset` for what one iteration holds.

    Raises:
        InputError: A file has a fault, no pair is left, or a setting is out of range. For faults
            within the files of a stream, only when the stream reaches them.
    """
    corpora = as_corpora(source, target)
    settings: dict[str, Any] = {
        "seed": seed,
        "shuffle": shuffle,
        "max_length": max_length,
        "max_length_ratio": max_length_ratio,
    }
    if steps_per_epoch is not None:
        stream = PairStream(corpora, tokenizer, max_tokens, sampling=sampling, **settings)
        epochs = stream.epochs(steps_per_epoch, accumulation_steps)
        return epochs.dataset(first_epoch, first_batch)
    if sampling:
        raise InputError(
            "sampling needs steps_per_epoch, because the number of batches changes from pass to"
            f" pass. Received: sampling={sampling}, steps_per_epoch=None. Set steps_per_epoch."
        )
    batches = PairBatches(*read_corpora(corpora), tokenizer, max_tokens, **settings)
    return batches.epochs(accumulation_steps).dataset(first_epoch, first_batch)
