"""From text pairs to batches of few shapes within a budget of tokens; no tokenizers or models.

`corpus` names the files, `filters` drops pairs, `token_lines` holds ids, and `batches_by_length`
groups pairs into batches. `batches` works in memory; `stream`, with the thread of `read_ahead`,
handles any size. `shares` divides batches; `epochs` and `from_files` feed `model.fit`.
"""

from keras_transformer.data.batches import PairBatches
from keras_transformer.data.batches_by_length import PlannedBatch, length_grid, plan_batches
from keras_transformer.data.corpus import Corpus, read_corpora, sample_pairs
from keras_transformer.data.epochs import Epochs
from keras_transformer.data.from_files import pair_batches
from keras_transformer.data.stream import PairStream
from keras_transformer.data.token_lines import Batch, TokenLines
from keras_transformer.text.lines import describe_os_error, read_lines, read_pairs

__all__ = [
    "Batch",
    "Corpus",
    "Epochs",
    "PairBatches",
    "PairStream",
    "PlannedBatch",
    "TokenLines",
    "describe_os_error",
    "length_grid",
    "pair_batches",
    "plan_batches",
    "read_corpora",
    "read_lines",
    "read_pairs",
    "sample_pairs",
]
