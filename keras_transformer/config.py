"""The settings of one model, in the paper's own symbols (Table 3)."""

import dataclasses
from typing import Any

POSITION_ENCODINGS = ("sinusoidal", "learned", "sinusoidal_marian")

# Section 6.1: "We set the maximum output length during inference to input length + 50".
EXTRA_TARGET_TOKENS = 50

# How each row of Table 3 differs from the base model. The paper keeps d_v at 64 in the B rows: no
# other value gives its published parameter counts.
TABLE_3: dict[str, dict[str, Any]] = {
    "base": {},
    "A_heads_1": {"num_heads": 1, "head_dim": 512, "value_dim": 512},
    "A_heads_4": {"num_heads": 4, "head_dim": 128, "value_dim": 128},
    "A_heads_16": {"num_heads": 16, "head_dim": 32, "value_dim": 32},
    "A_heads_32": {"num_heads": 32, "head_dim": 16, "value_dim": 16},
    "B_head_dim_16": {"head_dim": 16, "value_dim": 64},
    "B_head_dim_32": {"head_dim": 32, "value_dim": 64},
    "C_layers_2": {"num_layers": 2},
    "C_layers_4": {"num_layers": 4},
    "C_layers_8": {"num_layers": 8},
    "C_model_dim_256": {"model_dim": 256, "head_dim": 32, "value_dim": 32},
    "C_model_dim_1024": {"model_dim": 1024, "head_dim": 128, "value_dim": 128},
    "C_feed_forward_dim_1024": {"feed_forward_dim": 1024},
    "C_feed_forward_dim_4096": {"feed_forward_dim": 4096},
    "D_dropout_0.0": {"dropout": 0.0},
    "D_dropout_0.2": {"dropout": 0.2},
    "D_label_smoothing_0.0": {"label_smoothing": 0.0},
    "D_label_smoothing_0.2": {"label_smoothing": 0.2},
    "E_learned_positions": {"position_encoding": "learned"},
    "big": {"model_dim": 1024, "feed_forward_dim": 4096, "num_heads": 16, "dropout": 0.3},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The settings of `build_transformer`; the defaults are the paper's base model.

    Source: section 3 and Table 3 of "Attention Is All You Need".

    Args:
        vocabulary_size: Sub-words shared by source and target, including the four special ids. With
            `source_vocabulary_size`, those of the target.
        num_layers: N, number of blocks in the encoder, and also in the decoder.
        num_decoder_layers: Number of blocks in the decoder, if it differs; `num_layers` if None. A
            deep encoder with a shallow decoder translates faster.
        model_dim: d_model, width of every block's input and output.
        feed_forward_dim: d_ff, inner width of the position-wise feed-forward networks.
        num_heads: h, attention heads.
        head_dim: d_k, width of one head's queries and keys; `model_dim / num_heads` if None.
        value_dim: d_v, width of one head's values; `head_dim` if None.
        dropout: P_drop, at least 0 and below 1.
        label_smoothing: epsilon_ls, at least 0 and below 1; used by the loss, not by the model.
        activation: Name of the feed-forward networks' activation.
        normalize_first: False normalizes after each residual sum as the paper does (post-norm),
            True normalizes each sub-layer's input instead (pre-norm).
        position_encoding: "sinusoidal" (section 3.5), "learned" (Table 3, row E) or
            "sinusoidal_marian", the sinusoids of models that Marian trained.
        max_positions: The longest sequence for learned positions, in tokens.
        max_source_tokens: The longest source that the model's `Translator` reads, in tokens,
            including the end.
        source_vocabulary_size: Sub-words of the source, if it has a vocabulary and an embedding
            matrix of its own; None to share those of the target.
        output_bias: Whether to add a learned bias to the logits, as Marian models do.
        layer_norm_epsilon: Added to the variance in layer normalization, above 0.

    Raises:
        ValueError: If a number is out of its range, or num_heads does not divide model_dim.

    Example:
        >>> TransformerConfig.base(vocabulary_size=37_000).num_layers
        6
    """

    vocabulary_size: int
    num_layers: int = 6
    num_decoder_layers: int | None = None
    model_dim: int = 512
    feed_forward_dim: int = 2048
    num_heads: int = 8
    head_dim: int | None = None
    value_dim: int | None = None
    dropout: float = 0.1
    label_smoothing: float = 0.1
    activation: str = "relu"
    normalize_first: bool = False
    position_encoding: str = "sinusoidal"
    max_positions: int = 512
    max_source_tokens: int = 256
    source_vocabulary_size: int | None = None
    output_bias: bool = False
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        check_positive(
            num_layers=self.num_layers,
            num_decoder_layers=self.num_decoder_layers,
            model_dim=self.model_dim,
            feed_forward_dim=self.feed_forward_dim,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            value_dim=self.value_dim,
            max_positions=self.max_positions,
            max_source_tokens=self.max_source_tokens,
        )
        check_below_1(dropout=self.dropout, label_smoothing=self.label_smoothing)
        for name in ("vocabulary_size", "source_vocabulary_size"):
            size = getattr(self, name)
            if size is not None and size < 5:
                raise ValueError(
                    f"{name} must leave room for at least one sub-word besides padding, unknown,"
                    f" start and end. Received: {name}={size}. Choose 5 or more; thousands are"
                    " usual."
                )
        if not 0 < self.layer_norm_epsilon < 1:
            raise ValueError(
                "layer_norm_epsilon must be above 0 and below 1. Received:"
                f" layer_norm_epsilon={self.layer_norm_epsilon}. Choose 1e-6, for example."
            )
        if self.head_dim is None and self.model_dim % self.num_heads:
            raise ValueError(
                "model_dim must be a multiple of num_heads unless head_dim is given. Received:"
                f" model_dim={self.model_dim}, num_heads={self.num_heads}. Choose"
                f" model_dim={multiples_near(self.model_dim, self.num_heads)}."
            )
        check_position_encoding(self.position_encoding, self.model_dim)
        if self.position_encoding == "learned":
            check_learned_positions(self.max_positions, self.max_source_tokens)

    @property
    def decoder_layers(self) -> int:
        """The number of blocks in the decoder."""
        return self.num_decoder_layers or self.num_layers

    @classmethod
    def tiny(cls, vocabulary_size: int, **changes: Any) -> "TransformerConfig":
        """Returns the config for small corpora: 4 layers of width 128, strongly regularized.

        Source: Transformer-Tiny of Wu et al. 2021, section 5 (Multi30k); not in the paper.
        """
        settings = {
            "num_layers": 4,
            "model_dim": 128,
            "feed_forward_dim": 256,
            "num_heads": 4,
            "dropout": 0.3,
        }
        return cls(vocabulary_size=vocabulary_size, **{**settings, **changes})

    @classmethod
    def base(cls, vocabulary_size: int, **changes: Any) -> "TransformerConfig":
        """Returns the config of the paper's base model (Table 3, first row)."""
        return cls.table3("base", vocabulary_size, **changes)

    @classmethod
    def big(cls, vocabulary_size: int, **changes: Any) -> "TransformerConfig":
        """Returns the config of the paper's big model (Table 3, last row)."""
        return cls.table3("big", vocabulary_size, **changes)

    @classmethod
    def table3(cls, row: str, vocabulary_size: int, **changes: Any) -> "TransformerConfig":
        """Returns the config of a row of the paper's Table 3, by its name in `TABLE_3`."""
        if row not in TABLE_3:
            raise ValueError(
                f"row must name a row of Table 3. Received: row={row!r}. Choose one of"
                f" {', '.join(TABLE_3)}."
            )
        return cls(vocabulary_size=vocabulary_size, **{**TABLE_3[row], **changes})


def check_position_encoding(
    position_encoding: str | None,
    model_dim: int,
    choices: tuple[str | None, ...] = POSITION_ENCODINGS,
) -> None:
    """Raises ValueError if the encoding is not among the choices or does not fit the width."""
    if position_encoding not in choices:
        raise ValueError(
            f"position_encoding must be one of {choices}. Received:"
            f" position_encoding={position_encoding!r}. Choose one of them."
        )
    if position_encoding in ("sinusoidal", "sinusoidal_marian") and model_dim % 2:
        raise ValueError(
            "model_dim must be even, since sinusoidal positions come in pairs of sine and cosine."
            f" Received: model_dim={model_dim}. Choose model_dim={model_dim + 1} or"
            " position_encoding='learned'."
        )
    if position_encoding == "sinusoidal_marian" and model_dim < 4:
        raise ValueError(
            "model_dim must be at least 4 for the positions of Marian. Received:"
            f" model_dim={model_dim}. Choose model_dim=4 or more."
        )


def multiples_near(width: int, divisor: int) -> str:
    """Returns the multiples of `divisor` nearest to a width, in words: "8 or 12", or "4"."""
    lower = width - width % divisor
    return f"{lower} or {lower + divisor}" if lower else str(divisor)


def check_positive(**numbers: int | None) -> None:
    """Raises ValueError for a number below 1; None passes."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(
                f"{name} must be at least 1. Received: {name}={number}. Choose 1 or more."
            )


def check_below_1(**numbers: float) -> None:
    """Raises ValueError for a number outside [0, 1)."""
    for name, number in numbers.items():
        if not 0 <= number < 1:
            raise ValueError(
                f"{name} must be at least 0 and below 1. Received: {name}={number}. Choose 0.1,"
                " for example."
            )


def check_learned_positions(max_positions: int, max_source_tokens: int) -> None:
    """Raises ValueError if the longest translation needs more than the learned positions."""
    longest = max_source_tokens + EXTRA_TARGET_TOKENS
    if max_positions < longest:
        raise ValueError(
            f"max_positions must be at least max_source_tokens + {EXTRA_TARGET_TOKENS} if"
            " positions are learned, since a translation may be that long. Received:"
            f" max_positions={max_positions}, max_source_tokens={max_source_tokens}. Choose"
            f" max_positions={longest} or a smaller max_source_tokens."
        )
