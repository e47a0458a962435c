"""A convolutional encoder-decoder with attention in every decoder layer.

    source_ids -> embedding + positions = e -> encoder_0 ... = z
    target_ids -> embedding + positions = g -> decoder_0 (asks z, takes z + e) ... -> logits

Source: Gehring et al. 2017, "Convolutional Sequence to Sequence Learning", section 3.
Deviation: no weight normalization, and Adam instead of Nesterov's momentum; attention scores are
    scaled as the Transformer's are, and what attention finds is not multiplied by the source's
    length; one width for all layers and the embedding, which is the output's as well, as in the
    Transformer; gradients of the encoder are not scaled.
"""

from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.decoding.steps import decoding_steps, embedding_step
from keras_transformer.layers.attention import attention_weights
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.masks import attend_to, padding_mask, to_add
from keras_transformer.model import cross_attention_weights
from keras_transformer.search.state import DecodingState
from training.baselines.recurrent import PACKAGE

_register = keras.saving.register_keras_serializable(package=PACKAGE)

# A sum of two parts as large as each other is made as large as one of them.
_HALF_OF_THE_VARIANCE = 0.5**0.5


@_register
class GatedConvolution(keras.Layer):
    """A convolution of twice the width, of which one half gates the other: a * sigmoid(b).

    The neighbours of a position are put side by side, so that the convolution is one product of
    matrices, and one step of the decoder is a row of it.

    Source: section 3.1 (gated linear units), appendix A (initialization).

    Args:
        model_dim: Width of the output.
        kernel_size: How many positions one output sees; odd.
        causal: Whether it sees none behind its own.
        dropout: Share of the input that is dropped in training, 0 to 1.

    Call arguments:
        inputs: Float (batch, length, width).
        padding_mask: Boolean (batch, length): padding counts as zeros; None where it is seen by
            nobody.
        training: Whether dropout is at work.

    Returns:
        Float (batch, length, model_dim).
    """

    def __init__(self, model_dim, kernel_size=3, causal=False, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                "kernel_size must be odd, as many neighbours on each side. Received:"
                f" kernel_size={kernel_size}. Choose {max(kernel_size + 1, 1)}."
            )
        self.model_dim = model_dim
        self.kernel_size = kernel_size
        self.causal = causal
        self.dropout = dropout
        self.input_dropout = Dropout(dropout, dtype=self.dtype_policy)
        self.kernel = keras.layers.Dense(
            2 * model_dim,
            kernel_initializer=keras.initializers.VarianceScaling(
                4 * (1 - dropout), "fan_in", "untruncated_normal"
            ),
            dtype=self.dtype_policy,
            name="kernel",
        )

    def build(self, inputs_shape, padding_mask_shape=None):
        self.kernel.build((None, None, self.kernel_size * inputs_shape[-1]))

    def call(self, inputs, padding_mask=None, training=None):
        x = self.input_dropout(inputs, training=training)
        if padding_mask is not None:
            x = x * ops.cast(padding_mask, x.dtype)[:, :, None]
        length, others = ops.shape(x)[1], self.kernel_size - 1
        before = others if self.causal else others // 2
        x = ops.pad(x, ((0, 0), (before, others - before), (0, 0)))
        neighbours = [x[:, first : first + length] for first in range(self.kernel_size)]
        return self._gated(ops.concatenate(neighbours, axis=-1))

    def step(self, inputs, window):
        """The same for one new position of each hypothesis, if causal.

        Args:
            inputs: Float (batch, beams, width).
            window: Float (batch, beams, (kernel_size - 1) * width), the inputs before this one,
                the oldest first.

        Returns:
            (Float (batch, beams, model_dim), the window one position later).
        """
        neighbours = ops.concatenate([window, inputs], axis=-1)
        return self._gated(neighbours), neighbours[:, :, inputs.shape[-1] :]

    def _gated(self, neighbours):
        values, gates = ops.split(self.kernel(neighbours), 2, axis=-1)
        return values * ops.sigmoid(gates)

    def compute_output_shape(self, inputs_shape, padding_mask_shape=None):
        return (*inputs_shape[:-1], self.model_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "model_dim": self.model_dim,
            "kernel_size": self.kernel_size,
            "causal": self.causal,
            "dropout": self.dropout,
        }


@_register
class ConvolutionalEncoderBlock(keras.Layer):
    """(x + GatedConvolution(x)) / sqrt(2).

    Args:
        kernel_size, dropout: As for `GatedConvolution`.

    Call arguments:
        inputs: Float (batch, length, model_dim).
        padding_mask: Boolean (batch, length).
        training: Whether dropout is at work.

    Returns:
        Float (batch, length, model_dim).
    """

    def __init__(self, kernel_size=3, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.dropout = dropout

    def build(self, inputs_shape, padding_mask_shape=None):
        self.convolution = GatedConvolution(
            inputs_shape[-1],
            self.kernel_size,
            dropout=self.dropout,
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.convolution.build(inputs_shape)

    def call(self, inputs, padding_mask, training=None):
        outputs = self.convolution(inputs, padding_mask=padding_mask, training=training)
        return (inputs + outputs) * _HALF_OF_THE_VARIANCE

    def compute_output_shape(self, inputs_shape, padding_mask_shape=None):
        return tuple(inputs_shape)

    def get_config(self):
        config = {"kernel_size": self.kernel_size, "dropout": self.dropout}
        return {**super().get_config(), **config}


@_register
class ConvolutionalDecoderBlock(keras.Layer):
    """A causal convolution, then attention, each added to what it was made from.

    h = GatedConvolution(x); d = (W_d h + g) / sqrt(2);
    c = softmax(d z^T / sqrt(model_dim)) (z + e) / sqrt(2);
    y = ((h + W_c c) / sqrt(2) + x) / sqrt(2).

    Source: section 3.3, equations 1 and 2.

    Args:
        kernel_size, dropout: As for `GatedConvolution`.

    Call arguments:
        inputs: Float (batch, target_length, model_dim), x.
        embedded: Float (batch, target_length, model_dim), g, the embedded target.
        memory: Float (batch, source_length, model_dim), z, the encoder's output.
        values: Float (batch, source_length, model_dim), (z + e) / sqrt(2).
        attention_mask: Broadcastable to (batch, target_length, source_length).
        training: Whether dropout is at work.

    Returns:
        Float (batch, target_length, model_dim).
    """

    def __init__(self, kernel_size=3, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.dropout = dropout

    def build(
        self, inputs_shape, embedded_shape, memory_shape, values_shape, attention_mask_shape=None
    ):
        model_dim = inputs_shape[-1]
        self.convolution = GatedConvolution(
            model_dim,
            self.kernel_size,
            causal=True,
            dropout=self.dropout,
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.convolution.build(inputs_shape)
        self.query_projection = self._projection("query", model_dim)
        self.context_projection = self._projection("context", model_dim)

    def _projection(self, name, model_dim):
        projection = keras.layers.Dense(model_dim, dtype=self.dtype_policy, name=name)
        projection.build((None, None, model_dim))
        return projection

    def call(self, inputs, embedded, memory, values, attention_mask=None, training=None):
        hidden = self.convolution(inputs, training=training)
        return self._with_context(inputs, hidden, embedded, memory, values, attention_mask)

    def step(self, inputs, window, embedded, memory, values, attention_mask):
        """The same for one new position of each hypothesis, which stand where `call` has positions.

        Args:
            inputs, embedded: Float (batch, beams, model_dim).
            window: As for `GatedConvolution.step`.
            memory, values, attention_mask: As in `call`.

        Returns:
            (Float (batch, beams, model_dim), the window one position later).
        """
        hidden, window = self.convolution.step(inputs, window)
        outputs = self._with_context(inputs, hidden, embedded, memory, values, attention_mask)
        return outputs, window

    def attention_weights(self, inputs, embedded, memory, attention_mask):
        """The weights that `call` sums the values with: (batch, target_length, source_length)."""
        hidden = self.convolution(inputs, training=False)
        return self._weights(hidden, embedded, memory, attention_mask)

    def _weights(self, hidden, embedded, memory, attention_mask):
        query = (self.query_projection(hidden) + embedded) * _HALF_OF_THE_VARIANCE
        return attention_weights(query, memory, attention_mask)

    def _with_context(self, inputs, hidden, embedded, memory, values, attention_mask):
        weights = self._weights(hidden, embedded, memory, attention_mask)
        context = self.context_projection(ops.matmul(weights, values))
        hidden = (hidden + context) * _HALF_OF_THE_VARIANCE
        return (hidden + inputs) * _HALF_OF_THE_VARIANCE

    def compute_output_shape(
        self, inputs_shape, embedded_shape, memory_shape, values_shape, attention_mask_shape=None
    ):
        return tuple(inputs_shape)

    def get_config(self):
        config = {"kernel_size": self.kernel_size, "dropout": self.dropout}
        return {**super().get_config(), **config}


@_register
class ConvolutionalOutput(keras.Layer):
    """The linear map in front of the embedding, which keeps the layers' width from being its own.

    Args:
        dropout: Share of the output that is dropped in training, 0 to 1.

    Call arguments:
        inputs: Float (batch, length, model_dim).
        training: Whether dropout is at work.

    Returns:
        Float (batch, length, model_dim).
    """

    def __init__(self, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.dropout = dropout
        self.output_dropout = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, inputs_shape):
        self.projection = keras.layers.Dense(inputs_shape[-1], dtype=self.dtype_policy)
        self.projection.build(inputs_shape)

    def call(self, inputs, training=None):
        return self.output_dropout(self.projection(inputs), training=training)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {**super().get_config(), "dropout": self.dropout}


@_register
class Convolutional(keras.Model):
    """The functional model that `build_convolutional` makes."""

    @property
    def embedding(self) -> PositionalEmbedding:
        return self.get_layer("embedding")

    @property
    def encoder_blocks(self) -> list[ConvolutionalEncoderBlock]:
        return [layer for layer in self.layers if isinstance(layer, ConvolutionalEncoderBlock)]

    @property
    def decoder_blocks(self) -> list[ConvolutionalDecoderBlock]:
        return [layer for layer in self.layers if isinstance(layer, ConvolutionalDecoderBlock)]


def build_convolutional(
    *,
    vocabulary_size: int,
    num_layers: int = 4,
    model_dim: int = 128,
    kernel_size: int = 3,
    dropout: float = 0.1,
    position_encoding: str = "learned",
    max_positions: int = 512,
    name: str | None = None,
) -> Convolutional:
    """A convolutional encoder-decoder as a functional Keras model.

    Args:
        vocabulary_size: Sub-words.
        num_layers: Layers of the encoder, and of the decoder.
        model_dim: Width of the embedding and of all layers.
        kernel_size: Positions that one layer sees at once; odd.
        dropout: Share of the embedding and of each layer's input that is dropped in training.
        position_encoding: "learned", as in the source, or "sinusoidal".
        max_positions: Longest sequence of learned positions.
        name: The model's name.

    Returns:
        A model with the inputs and outputs of `build_transformer`.

    Raises:
        ValueError: If `kernel_size` is even.
    """
    source_ids = keras.Input((None,), dtype="int32", name="source_ids")
    target_ids = keras.Input((None,), dtype="int32", name="target_ids")
    source_mask = padding_mask(source_ids)
    embedding = PositionalEmbedding(
        vocabulary_size, model_dim, dropout, position_encoding, max_positions, name="embedding"
    )
    embedded_source = embedding(source_ids)  # (batch, source_length, model_dim)
    memory = embedded_source
    for index in range(num_layers):
        block = ConvolutionalEncoderBlock(kernel_size, dropout, name=f"encoder_{index}")
        memory = block(memory, padding_mask=source_mask)
    values = _values(memory, embedded_source)

    embedded = embedding(target_ids)  # (batch, target_length, model_dim)
    x = embedded
    for index in range(num_layers):
        block = ConvolutionalDecoderBlock(kernel_size, dropout, name=f"decoder_{index}")
        x = block(x, embedded, memory, values, attention_mask=attend_to(source_mask))
    x = ConvolutionalOutput(dropout, name="output")(x)

    logits = embedding(x, reverse=True)  # (batch, target_length, vocabulary)
    inputs = {"source_ids": source_ids, "target_ids": target_ids}
    return Convolutional(inputs=inputs, outputs=logits, name=name)


def _values(memory, embedded_source):
    """What attention takes: the encoder's output, and what stood there before."""
    return (memory + embedded_source) * _HALF_OF_THE_VARIANCE


class Encoded(NamedTuple):
    """What the encoder knows of a batch of sources; all beams of a sentence ask the same.

    Attributes:
        memory: Float (batch, source_length, model_dim).
        values: Float (batch, source_length, model_dim).
        attention_mask: Float32 (batch, 1, source_length), from `masks.to_add`.
    """

    memory: object
    values: object
    attention_mask: object


@decoding_steps.register(Convolutional)
def _(model):
    def encode(source_ids):
        return _encoded(model, source_ids)

    def initial_state(encoded, num_beams=1, *, max_length):
        batch, _, model_dim = ops.shape(encoded.memory)
        return DecodingState(
            position=ops.convert_to_tensor(0, dtype="int32"),
            per_beam=tuple(
                ops.zeros(
                    (batch, num_beams, (block.kernel_size - 1) * model_dim), encoded.memory.dtype
                )
                for block in model.decoder_blocks
            ),
            per_sentence=encoded,
        )

    def step(token_ids, state):
        beams = token_ids.shape[1]
        embedded = embedding_step(
            model.embedding, token_ids, state.position
        )  # (batch * beams, model_dim)
        embedded = ops.reshape(embedded, (-1, beams, embedded.shape[-1]))
        x, windows = embedded, []
        for block, window in zip(model.decoder_blocks, state.per_beam, strict=True):
            x, window = block.step(x, window, embedded, *state.per_sentence)
            windows.append(window)
        x = model.get_layer("output")(ops.reshape(x, (-1, x.shape[-1])), training=False)
        logits = model.embedding(x, reverse=True)
        logits = ops.reshape(logits, (-1, beams, logits.shape[-1]))
        return logits, state._replace(position=state.position + 1, per_beam=tuple(windows))

    return encode, initial_state, step


@cross_attention_weights.register(Convolutional)
def _(model, source_ids, target_ids):
    encoded = _encoded(model, source_ids)
    embedded = model.embedding(target_ids, training=False)
    x = embedded
    *blocks, last = model.decoder_blocks
    for block in blocks:
        x = block(x, embedded, *encoded, training=False)
    weights = last.attention_weights(x, embedded, encoded.memory, encoded.attention_mask)
    return weights[:, None]  # (batch, heads, target_length, source_length) of one head


def _encoded(model, source_ids):
    mask = padding_mask(source_ids)
    embedded = model.embedding(source_ids, training=False)
    memory = embedded
    for block in model.encoder_blocks:
        memory = block(memory, padding_mask=mask, training=False)
    return Encoded(memory, _values(memory, embedded), to_add(attend_to(mask)))
