"""Stacks of equal size: a Transformer's encoder, a GRU, an LSTM, a convolution.

With d = model_dim, and biases and normalization left out, a block of each has 12 d^2 parameters:

    self_attention  attention 4 d^2, feed-forward network of width 4 d 8 d^2
    gru             2 layers of 6 d^2
    lstm            2 layers of 6 d^2: 3/4 d units, and a linear map back to d
    convolution     4 layers of 3 d^2, kernel 3

Each layer stands within the Transformer's Add & Norm, and all read the same embedded tokens.
"""

KINDS = {
    "self_attention": "self-attention",
    "gru": "GRU",
    "lstm": "LSTM",
    "convolution": "convolution",
}
# What XLA makes faster; the others are as fast without, and are ready in a fraction of the time.
COMPILED = ("gru", "lstm")

KERNEL = 3
CONVOLUTIONS = 4


def stack(kind: str, token_ids, vocabulary_size: int, model_dim: int, num_blocks: int):
    """The states of a stack over embedded tokens.

    Args:
        kind: One of KINDS.
        token_ids: A `keras.Input`, Integer (batch, length).
        vocabulary_size: Different tokens.
        model_dim: d, a multiple of 4.
        num_blocks: Of 12 d^2 parameters each.

    Returns:
        Float (batch, length, model_dim).
    """
    from keras_transformer.layers.embedding import PositionalEmbedding
    from training.experiments.blocks import BLOCKS

    x = PositionalEmbedding(vocabulary_size, model_dim, dropout=0.0)(token_ids)
    for _ in range(num_blocks):
        x = BLOCKS[kind](x, model_dim)
    return x


def reach(num_blocks: int) -> int:
    """How many positions back the last position of a stack of convolutions can look."""
    return num_blocks * CONVOLUTIONS * (KERNEL - 1)
