"""A batch cut into equal shares: for several devices, or to be computed one after the other.

Axis words: batch = pairs of a batch, rows = pairs of a share.
"""

import numpy as np

from keras_transformer.data.token_lines import Batch


def share_of(batch: Batch, index: int, count: int) -> Batch:
    """An equal share of a batch's pairs.

    Pairs that can't be divided equally are made up for by blank ones, which hold nothing but
    padding: they have no labels, and so weigh nothing in losses and metrics.

    Args:
        batch: Arrays (batch, length).
        index: Which share, from 0.
        count: Of how many.

    Returns:
        Arrays (rows, length), with equally many rows in each share. All shares, one after the
        other, are the batch with blank pairs behind it.
    """
    inputs, labels = batch
    num_rows = -(-len(labels) // count)

    def rows_of(ids):
        rows = ids[index * num_rows : (index + 1) * num_rows]
        return np.pad(rows, ((0, num_rows - len(rows)), (0, 0)))

    return {name: rows_of(ids) for name, ids in inputs.items()}, rows_of(labels)


def weighted_share_of(
    batch: Batch, index: int, count: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """A share of a batch, with the weight that its mean loss has in the mean over the batch.

    A loss that divides by the tokens of what it is handed counts each token of a share with few
    of them for more. These weights undo that: the mean over the shares of each one's weighted mean
    loss is the mean loss over all the tokens of the batch.

    Returns:
        `share_of` and, behind its labels, Float32 (rows,): `count` times the share's part of the
        batch's tokens, the same for each of its rows.
    """
    inputs, labels = share_of(batch, index, count)
    weight = count * np.count_nonzero(labels) / np.count_nonzero(batch[1])
    return inputs, labels, np.full(len(labels), weight, "float32")
