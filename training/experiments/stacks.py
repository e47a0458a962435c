"""Stacks of layers with equal size: a Transformer's encoder, a GRU, an LSTM, and a convolution.

With d = model_dim, a block of each has 12 d^2 parameters, not counting biases and normalization:

    self_attention  attention 4 d^2, feed-forward network of width 4 d 8 d^2
    gru             2 layers of 6 d^2
    lstm            2 layers of 6 d^2: 3/4 d units, and a linear map back to width d
    convolution     4 layers of 3 d^2, kernel 3

Each layer is inside the Transformer's Add & Norm, and all stacks use the same embedding.
"""

from training.command_line.errors import UsageError

KINDS = {
    "self_attention": "self-attention",
    "gru": "GRU",
    "lstm": "LSTM",
    "convolution": "convolution",
}
# XLA speeds these up. The others are as fast without XLA, and build in a fraction of the time.
COMPILED = ("gru", "lstm")

HEAD_DIM = 64  # the paper's; narrower stacks have one narrower head
KERNEL = 3
CONVOLUTIONS = 4


def check_model_dim(model_dim: int) -> None:
    """Raises UsageError if a stack cannot have this width."""
    if model_dim < 4 or model_dim % (HEAD_DIM if model_dim > HEAD_DIM else 4):
        raise UsageError(
            "--model-dim must be a multiple of 4 up to 64, or of 64, the width of a head. Received:"
            f" {model_dim}. For example, choose 128."
        )


def stack(kind: str, token_ids, vocabulary_size: int, model_dim: int, num_blocks: int):
    """Embeds tokens and applies a stack to them.

    Args:
        kind: One of KINDS.
        token_ids: A `keras.Input`, Integer (batch, length).
        vocabulary_size: The number of different tokens.
        model_dim: d, a multiple of 4.
        num_blocks: The number of blocks, with 12 d^2 parameters each.

    Returns:
        Float (batch, length, model_dim).
    """
    from keras_transformer.layers.embedding import PositionalEmbedding

    add_block = {
        "self_attention": _self_attention,
        "gru": _gru,
        "lstm": _lstm,
        "convolution": _convolution,
    }[kind]
    x = PositionalEmbedding(vocabulary_size, model_dim, dropout=0.0)(token_ids)
    for _ in range(num_blocks):
        x = add_block(x, model_dim)
    return x


def reach(num_blocks: int) -> int:
    """Returns how many positions back a stack of convolutions can look."""
    return num_blocks * CONVOLUTIONS * (KERNEL - 1)


def _self_attention(x, model_dim):
    from keras_transformer.layers.encoder import EncoderBlock

    num_heads = max(1, model_dim // HEAD_DIM)
    return EncoderBlock(num_heads, 4 * model_dim, dropout=0.0)(x)


def _gru(x, model_dim):
    from keras_transformer.layers.residual import AddAndNorm
    from training.baselines.recurrent import Recurrence

    for _ in range(2):
        x = AddAndNorm(0.0)(x, Recurrence("gru", model_dim)(x))
    return x


def _lstm(x, model_dim):
    import keras

    from keras_transformer.layers.residual import AddAndNorm
    from training.baselines.recurrent import Recurrence

    for _ in range(2):
        states = Recurrence("lstm", model_dim * 3 // 4)(x)
        x = AddAndNorm(0.0)(x, keras.layers.Dense(model_dim)(states))
    return x


def _convolution(x, model_dim):
    import keras

    from keras_transformer.layers.residual import AddAndNorm

    for _ in range(CONVOLUTIONS):
        # Causal, so that it sees only earlier positions, as the recurrent layers do.
        convolution = keras.layers.Conv1D(model_dim, KERNEL, padding="causal", activation="relu")
        x = AddAndNorm(0.0)(x, convolution(x))
    return x
