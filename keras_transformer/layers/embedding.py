"""Tokens to vectors and back (sections 3.4 and 3.5)."""

from typing import Any

import keras
from keras import ops

from keras_transformer.config import POSITION_ENCODINGS, check_position_encoding
from keras_transformer.gathering import take
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.initializers import InitializerLike
from keras_transformer.layers.position import marian_encoding, sinusoidal_encoding
from keras_transformer.tensors import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_transformer")
class PositionalEmbedding(keras.Layer):
    """Turns token ids into vectors that know their position, and vectors back into logits.

        forward: dropout(sqrt(d_model) E[token] + PE[position])
        reverse: x E^T, and with an output bias x E^T + b

    Source: section 3.4 (one matrix E for source, target and output; the scale), section 3.5
        (positions), section 5.4 (dropout on the sum).
    Deviation: the paper does not say how E is initialized. Here it is normal(0, d_model**-0.5):
        scaled by sqrt(d_model), the vectors are then as large as the position encoding.

    Args:
        vocabulary_size: Rows of E.
        model_dim: Width of E, even for sinusoidal positions.
        dropout: Share of the sum dropped in training, 0 to 1.
        position_encoding: "sinusoidal", "learned" (Table 3, row E), "sinusoidal_marian" or None for
            no positions; see `TransformerConfig`.
        max_positions: Rows of the table of learned positions; sinusoids need none.
        embeddings_initializer: Initializes E; the normal distribution above if None.
        output_bias: Whether there is a bias b, learned and 0 at first.

    Call arguments:
        inputs: Integer (batch, length), token ids; in reverse Float (batch, length, model_dim).
        reverse: Whether to turn vectors into logits, as in `keras.layers.ReversibleEmbedding`.
        training: Whether to apply dropout.

    Returns:
        Float (batch, length, model_dim); in reverse Float32 (batch, length, vocabulary).

    Raises:
        ValueError: If the position encoding is unknown, the width is odd with sinusoids, or a
            sequence is longer than the learned positions.
    """

    def __init__(
        self,
        vocabulary_size: int,
        model_dim: int,
        dropout: float = 0.1,
        position_encoding: str | None = "sinusoidal",
        max_positions: int = 512,
        embeddings_initializer: InitializerLike | None = None,
        output_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        # Ids may be float32, Keras' default; casting them to float16 would change them.
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        check_position_encoding(position_encoding, model_dim, (*POSITION_ENCODINGS, None))
        self.vocabulary_size = vocabulary_size
        self.model_dim = model_dim
        self.dropout = dropout
        self.position_encoding = position_encoding
        self.max_positions = max_positions
        self.embeddings_initializer = keras.initializers.get(
            embeddings_initializer or keras.initializers.RandomNormal(stddev=model_dim**-0.5)
        )
        self.output_bias = output_bias
        self.sum_dropout = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, inputs_shape: Shape) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.vocabulary_size, self.model_dim),
            initializer=self.embeddings_initializer,
        )
        if self.position_encoding == "learned":
            self.position_table = self.add_weight(
                name="positions",
                shape=(self.max_positions, self.model_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
            )

        self.bias: Any = None
        if self.output_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.vocabulary_size,), initializer="zeros"
            )

    @property
    def most_tokens(self) -> int | None:
        """The longest sequence that the layer accepts, in tokens; None if there is no limit."""
        return self.max_positions if self.position_encoding == "learned" else None

    def call(self, inputs: Tensor, reverse: bool = False, training: bool | None = None) -> Tensor:
        if reverse:
            return self.logits(inputs)
        embedded = self.scaled(inputs)  # (batch, length, model_dim)
        if self.position_encoding is not None:
            length = ops.shape(inputs)[1]
            self._check_length(length)
            embedded = embedded + self.positions(ops.arange(length, dtype="int32"))
        return self.sum_dropout(embedded, training=training)

    def scaled(self, token_ids: Tensor) -> Tensor:
        """Maps token ids, Integer (...), to sqrt(d_model) E[token], Float (..., model_dim)."""
        token_ids = ops.cast(token_ids, "int32")
        embedded = take(self.embeddings, token_ids)  # (..., model_dim)
        return ops.cast(embedded, self.compute_dtype) * self.model_dim**0.5

    def positions(self, positions: Tensor) -> Tensor:
        """Maps positions, Integer (length,), to PE[position], Float (length, model_dim)."""
        if self.position_encoding == "sinusoidal":
            encoding = sinusoidal_encoding(positions, self.model_dim)
        elif self.position_encoding == "sinusoidal_marian":
            encoding = marian_encoding(positions, self.model_dim)
        else:
            encoding = ops.take(self.position_table, positions, axis=0)  # (length, model_dim)
        return ops.cast(encoding, self.compute_dtype)

    def logits(self, x: Tensor) -> Tensor:
        """Maps x, Float (..., model_dim), to x E^T + b, Float32 (..., vocabulary)."""
        kernel = ops.transpose(ops.cast(self.embeddings, self.compute_dtype))
        logits = ops.matmul(ops.cast(x, self.compute_dtype), kernel)  # (..., vocabulary)
        logits = ops.cast(logits, "float32")
        return logits if self.bias is None else logits + ops.cast(self.bias, "float32")

    def _check_length(self, length: int | Tensor) -> None:
        longest = self.most_tokens
        if longest is not None and isinstance(length, int) and length > longest:
            raise ValueError(
                "A sequence must not be longer than the learned positions. Received: length"
                f" {length}, max_positions={longest}. Choose a larger max_positions or"
                " position_encoding='sinusoidal'."
            )

    def compute_output_shape(self, inputs_shape: Shape) -> Shape:
        return (*inputs_shape, self.model_dim)

    def compute_output_spec(
        self, inputs: Tensor, reverse: bool = False, training: bool | None = None
    ) -> keras.KerasTensor:
        if reverse:
            return keras.KerasTensor((*inputs.shape[:-1], self.vocabulary_size), "float32")
        return keras.KerasTensor((*inputs.shape, self.model_dim), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "model_dim": self.model_dim,
            "dropout": self.dropout,
            "position_encoding": self.position_encoding,
            "max_positions": self.max_positions,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "output_bias": self.output_bias,
        }
