"""Text files -> the `tf.data.Dataset` that `model.fit` takes, from memory or streamed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_transformer.data.batches import PairBatches
from keras_transformer.data.corpus import Corpus, PathNames, as_corpora, read_corpora
from keras_transformer.data.stream import PairStream
from keras_transformer.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_transformer.text.subword_tokenizer import SubwordTokenizer


def pair_batches(
    source: PathNames | Corpus | Sequence[Corpus],
    target: PathNames | None,
    tokenizer: "SubwordTokenizer",
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
    """Batches of text files as a `tf.data.Dataset` of known cardinality.

    Without `steps_per_epoch` the text is read into memory and an epoch holds each of its pairs
    once: `PairBatches`. With it the text is streamed, however large it is: `PairStream`.

    Example:
        >>> pair_batches("train.en", "train.de", tokenizer)
        >>> pair_batches("crawl-*.tsv.gz", None, tokenizer, steps_per_epoch=5000)

    Args:
        source: The source side: a file, plain or compressed, a pattern such as "train-*.en", or a
            list of those. Or a `Corpus`, or several, with None as target.
        target: The target side: as many files, line by line. None: each line of the source's files
            is a pair, its sides separated by a tab.
        tokenizer: Its ids are what the batches hold.
        max_tokens: The most source tokens and the most target tokens of a batch, padding included.
        seed: With the number of the epoch, decides the order.
        shuffle: False gives the same order in each epoch, from short pairs to long ones; of a
            stream, block by block.
        first_epoch: The number of the first epoch: a run that is taken up again goes on here.
        first_batch: How many batches of that epoch are done. If any, the dataset holds the rest of
            that one epoch and no other.
        max_length: The longest line that is kept, in tokens, end id included.
        max_length_ratio: How many times as many tokens as the shorter side the longer one may
            have, end ids not counted; None sets no limit.
        sampling: At which rate lines are split in another way each time they come; see
            `SubwordTokenizer.sample`. It needs `steps_per_epoch`: lengths differ from pass to pass
            and with them the number of batches. 0 splits lines always in the same way.
        steps_per_epoch: How many batches of a stream are called an epoch. None reads the text into
            memory.
        accumulation_steps: In how many parts each batch is handed out, one after the other, for an
            optimizer of as many `gradient_accumulation_steps`; their third element are weights that
            make the sum of the parts' gradients that of the batch. Compile with `metrics`, not
            with `weighted_metrics`, then. On what fit's `loss` is a mean of, see `Epochs`.

    Returns:
        A dataset of known cardinality of `({"source_ids", "target_ids"}, labels)`; see
        `PairBatches.batch` and, for what an iteration of it is, `Epochs.dataset`.

    Raises:
        InputError: A file is at fault, no pair is left, or a setting is out of range. Faults within
            the files of a stream are raised when they are met.
    """
    corpora = as_corpora(source, target)
    settings = {
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
            "sampling needs steps_per_epoch, because the number of batches differs from pass to "
            f"pass. Received: sampling={sampling}, steps_per_epoch=None. Set steps_per_epoch."
        )
    batches = PairBatches(*read_corpora(corpora), tokenizer, max_tokens, **settings)
    return batches.epochs(accumulation_steps).dataset(first_epoch, first_batch)
