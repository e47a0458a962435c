"""Equal shares of a batch's rows, for devices that train together or parts trained in turn.

Axes: batch = rows of a batch, rows = rows of a share.
"""

from typing import Any

import numpy as np

from keras_transformer.data.token_lines import Batch


def share_of(batch: tuple[Any, ...], index: int, count: int) -> tuple[Any, ...]:
    """Returns one of several shares of a batch, all with the same number of rows.

    Blank rows fill up the last shares if the rows do not divide evenly. They are all padding,
    without labels, so they do not count in the loss, the metrics or the gradient.

    Args:
        batch: `({"source_ids", "target_ids"}, labels)`, Integer (batch, source_length), (batch,
            target_length) and (batch, target_length), with at least 1 row; then, optionally,
            weights Float (batch,).
        index: The number of the share, from 0.
        count: The number of shares, at least 1.

    Returns:
        The same structure and types, with rows = ceil(batch / count). All shares in order make up
        the batch, followed by the blank rows.

    Raises:
        ValueError: `index` is not from 0 to count - 1.
    """
    if not 0 <= index < count:
        raise ValueError(
            "index must be at least 0 and less than count."
            f" Received: index={index}, count={count}. Shares are counted from 0."
        )
    inputs, *others = batch
    share = {name: _rows_of_share(ids, index, count) for name, ids in inputs.items()}
    return share, *(_rows_of_share(array, index, count) for array in others)


def weighted_share_of(
    batch: Batch, index: int, count: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Returns a share of a batch, weighted by its part of the batch's tokens.

    A loss that divides by the number of tokens would give the tokens of a small share more weight.
    With these weights, the mean of the shares' mean losses is the mean loss over the batch's
    tokens.

    Returns:
        The result of `share_of`, then weights Float32 (rows,): `count` times the share's part of
        the batch's tokens, the same in all rows.
    """
    inputs, labels = share_of(batch, index, count)
    weight = count * np.count_nonzero(labels) / np.count_nonzero(batch[1])
    return inputs, labels, np.full(len(labels), weight, "float32")


def _rows_of_share(array: np.ndarray, index: int, count: int) -> np.ndarray:
    num_rows = -(-len(array) // count)
    share = np.zeros((num_rows, *array.shape[1:]), array.dtype)
    own = array[index * num_rows : (index + 1) * num_rows]
    share[: len(own)] = own
    return share
