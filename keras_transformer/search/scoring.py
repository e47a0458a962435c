"""How probable given translations are."""

from keras import ops

from keras_transformer.masks import padding_mask
from keras_transformer.search.choice import log_normalizer


def score(model, source_ids, target_ids, *, start_id):
    """log P(target | source), each token predicted from all true ones before it.

    Divided by `length_penalty_of` the number of tokens it is the score that a search gives.

    Args:
        model: A model from {"source_ids", "target_ids"} to logits, like `build_transformer`'s.
        source_ids: Integer (batch, source_length), each row with the end id, then padding.
        target_ids: Integer (batch, target_length), without the start id, with the end id, then
            padding.
        start_id: The token that stands before the first.

    Returns:
        (log-probability Float32 (batch,), number of tokens Integer (batch,)).
    """
    source_ids = ops.convert_to_tensor(source_ids, dtype="int32")
    target_ids = ops.convert_to_tensor(target_ids, dtype="int32")
    start = ops.full((ops.shape(target_ids)[0], 1), start_id, dtype="int32")
    begun = ops.concatenate([start, target_ids], axis=1)[:, :-1]  # (batch, target_length)
    logits = model({"source_ids": source_ids, "target_ids": begun}, training=False)
    return log_probabilities(logits, target_ids)


def log_probabilities(logits, labels):
    """The log-probability of each row of labels: the sum over its tokens, padding left out.

    Args:
        logits: Float (batch, target_length, vocabulary).
        labels: Integer (batch, target_length), the tokens that the logits are about.

    Returns:
        (log-probability Float32 (batch,), number of tokens Integer (batch,)).
    """
    logits = ops.cast(logits, "float32")
    labels = ops.convert_to_tensor(labels, dtype="int32")
    normalizer = log_normalizer(logits, ops.max(logits, axis=-1, keepdims=True))
    of_labels = ops.take_along_axis(logits, labels[:, :, None], axis=2) - normalizer
    is_token = padding_mask(labels)  # (batch, target_length)
    return (
        ops.sum(ops.where(is_token, of_labels[:, :, 0], 0.0), axis=1),
        ops.sum(ops.cast(is_token, "int32"), axis=1),
    )
