"""Names and published numbers that the experiments share with their pictures."""

from typing import NamedTuple

PASSES = {"forward": "forward", "training": "forward and backward"}

# The rows of Table 1, as the picture names them.
LAYERS = {
    "self_attention": "self-attention",
    "restricted": "restricted",
    "recurrent": "GRU",
    "convolutional": "convolution",
}

ENCODINGS = {"none": "no positions", "learned": "learned", "sinusoidal": "sinusoidal"}

# The YAML file of each system, and its name in pictures and tables.
SYSTEMS = {
    "transformer": ("multi30k_transformer", "Transformer"),
    "gru_attention": ("multi30k_gru_attention", "GRU with attention"),
    "lstm_attention": ("multi30k_gru_attention", "LSTM with attention"),
    "convolution": ("multi30k_convolution", "convolution"),
    "gru": ("multi30k_gru", "GRU, one vector"),
    "lstm": ("multi30k_gru", "LSTM, one vector"),
}


class Attention(NamedTuple):
    """One of the three uses of attention (section 3.2.3), and what its picture shows.

    Attributes:
        name: The use in words.
        rows, columns: The tokens of the rows and of the columns: "source", "read" or "target".
        row_name, column_name: The names of the axes.
        explanation: How to read the picture.
    """

    name: str
    rows: str
    columns: str
    row_name: str
    column_name: str
    explanation: str


ATTENTION = {
    "encoder": Attention(
        "encoder self-attention",
        "source",
        "source",
        "query position",
        "key position",
        "Encoder self-attention: each row is a source token that looks at all tokens. A dark cell"
        " on the diagonal is a token that looks at itself; beside the diagonal, at its neighbor. A"
        " dark column is a token that many tokens look at.",
    ),
    "decoder": Attention(
        "decoder self-attention",
        "read",
        "read",
        "last token read",
        "key position",
        "Decoder self-attention: each row is a token of the translation that looks at itself and at"
        " earlier tokens. The white triangle above the diagonal is the mask: no token looks ahead.",
    ),
    "cross": Attention(
        "cross-attention",
        "target",
        "source",
        "token written next",
        "source",
        "Cross-attention: each row is a step of the decoder, which reads the source below and"
        " writes the token on the left. A head that aligns words has one dark cell per row, on the"
        " word being translated.",
    ),
}


class Published(NamedTuple):
    """The paper's perplexity per sub-word and BLEU on newstest2013, and its parameters in 10^6."""

    perplexity: float
    bleu: float
    parameters: int | None = None


# Table 3 of the paper, in its order.
PAPER = {
    "base": Published(4.92, 25.8, 65),
    "A_heads_1": Published(5.29, 24.9),
    "A_heads_4": Published(5.00, 25.5),
    "A_heads_16": Published(4.91, 25.8),
    "A_heads_32": Published(5.01, 25.4),
    "B_head_dim_16": Published(5.16, 25.1, 58),
    "B_head_dim_32": Published(5.01, 25.4, 60),
    "C_layers_2": Published(6.11, 23.7, 36),
    "C_layers_4": Published(5.19, 25.3, 50),
    "C_layers_8": Published(4.88, 25.5, 80),
    "C_model_dim_256": Published(5.75, 24.5, 28),
    "C_model_dim_1024": Published(4.66, 26.0, 168),
    "C_feed_forward_dim_1024": Published(5.12, 25.4, 53),
    "C_feed_forward_dim_4096": Published(4.75, 26.2, 90),
    "D_dropout_0.0": Published(5.77, 24.6),
    "D_dropout_0.2": Published(4.95, 25.5),
    "D_label_smoothing_0.0": Published(4.67, 25.3),
    "D_label_smoothing_0.2": Published(5.47, 25.7),
    "E_learned_positions": Published(4.92, 25.7),
    "big": Published(4.33, 26.4, 213),
}
