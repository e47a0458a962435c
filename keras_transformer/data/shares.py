"""A batch -> equal shares of its rows, for devices that train at once or one after the other.

Axis words: batch = rows of a batch, rows = rows of a share.
"""

import numpy as np

from keras_transformer.data.token_lines import Batch


def share_of(batch: tuple, index: int, count: int) -> tuple:
    """One of several equal shares of a batch: as many rows as each of the others has.

    Where the rows of the batch cannot be divided, blank rows stand in for those that are missing,
    so that only the last shares have any. A blank row is all padding. It has no labels and so
    weighs nothing in the loss and the metrics, and nothing in the gradient.

    Args:
        batch: `({"source_ids", "target_ids"}, labels)`, integers (batch, source_length), (batch,
            target_length) and (batch, target_length); at least 1 row. Behind them there may be
            weights, Float (batch,).
        index: Which share, from 0.
        count: How many shares there are, at least 1.

    Returns:
        The same structure and types, (rows, source_length) and so on, rows = ceil(batch / count).
        The shares one behind the other are the batch, then the blank rows.

    Raises:
        ValueError: If there is no such share.
    """
    if not 0 <= index < count:
        raise ValueError(
            "index must be at least 0 and less than count. "
            f"Received: index={index}, count={count}. Shares are counted from 0."
        )
    inputs, *others = batch
    share = {name: _rows_of_share(ids, index, count) for name, ids in inputs.items()}
    return share, *(_rows_of_share(array, index, count) for array in others)


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


def _rows_of_share(array: np.ndarray, index: int, count: int) -> np.ndarray:
    """The rows of one share of an array, (rows, ...)."""
    num_rows = -(-len(array) // count)
    share = np.zeros((num_rows, *array.shape[1:]), array.dtype)
    own = array[index * num_rows : (index + 1) * num_rows]
    share[: len(own)] = own
    return share
