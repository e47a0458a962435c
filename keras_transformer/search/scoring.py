"""The log-probability of given translations."""

from collections.abc import Callable

from keras import ops

from keras_transformer.masks import padding_mask
from keras_transformer.search.choice import log_normalizer
from keras_transformer.tensors import Tensor


def score(
    model: Callable[..., Tensor], source_ids: Tensor, target_ids: Tensor, *, start_id: int
) -> tuple[Tensor, Tensor]:
    """Returns log P(target | source), each token predicted from the true tokens before it.

    Divided by `length_penalty_of(num_tokens, ...)`, it is the score that a search would give.

    Args:
        model: Maps {"source_ids", "target_ids"} to logits, like that of `build_transformer`.
        source_ids: Integer (batch, source_length), each row with the end id, then padding.
        target_ids: Integer (batch, target_length), without the start id; each row with the end id,
            then padding.
        start_id: The token before the first.

    Returns:
        (log-probability Float32 (batch,), number of tokens Integer (batch,)).
    """
    source_ids = ops.convert_to_tensor(source_ids, dtype="int32")
    target_ids = ops.convert_to_tensor(target_ids, dtype="int32")
    start = ops.full((ops.shape(target_ids)[0], 1), start_id, dtype="int32")
    begun = ops.concatenate([start, target_ids], axis=1)[:, :-1]  # (batch, target_length)
    logits = model({"source_ids": source_ids, "target_ids": begun}, training=False)
    return log_probabilities(logits, target_ids)


def log_probabilities(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the log-probability of each row of labels, summed over its tokens except padding.

    Args:
        logits: Float (batch, target_length, vocabulary).
        labels: Integer (batch, target_length), the tokens that the logits predict.

    Returns:
        (log-probability Float32 (batch,), number of tokens Integer (batch,)).
    """
    logits = ops.cast(logits, "float32")
    labels = ops.convert_to_tensor(labels, dtype="int32")
    of_labels = ops.take_along_axis(logits, labels[:, :, None], axis=2)  # (batch, target_length, 1)
    of_labels = (of_labels - log_normalizer(logits))[:, :, 0]  # (batch, target_length)
    is_token = padding_mask(labels)  # (batch, target_length)
    return (
        ops.sum(ops.where(is_token, of_labels, 0.0), axis=1),
        ops.sum(ops.cast(is_token, "int32"), axis=1),
    )
