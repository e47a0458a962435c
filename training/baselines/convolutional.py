"""A convolutional encoder-decoder with attention in every decoder layer.

    source_ids -> embedding + positions = e -> encoder_0 ... = z
    target_ids -> embedding + positions = g -> decoder_0 (keys z, values z + e) ... -> logits

Source: Gehring et al. 2017, "Convolutional Sequence to Sequence Learning", section 3.
Deviation: no weight normalization, and Adam instead of Nesterov's momentum; attention scores are
    scaled as in the Transformer, and the context is not multiplied by the source length; all layers
    and the embedding have the same width, and the embedding also computes the logits, as in the
    Transformer; the encoder's gradients are not scaled.
"""

from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.layers.attention import attention_weights
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.masks import attend_to, to_add
from keras_transformer.model import cross_attention_weights
from keras_transformer.search.state import DecodingState
from training.baselines.encoder_decoder import (
    Block,
    EncoderDecoder,
    encoder_pass,
    register,
    text_inputs,
)

# Scales the sum of two terms with equal variance back to that variance.
_HALF_OF_THE_VARIANCE = 0.5**0.5


@register
class GatedConvolution(Block):
    """A convolution of twice the width, whose second half gates the first: a * sigmoid(b).

    The neighbors of a position are concatenated, so that the convolution is one matrix product, of
    which a decoding step computes one row.

    Source: section 3.1 (gated linear units), appendix A (initialization).

    Args:
        model_dim: Width of the output.
        kernel_size: Number of positions that each output sees; odd.
        causal: Whether an output sees only its own and earlier positions.
        dropout: Share of the input to drop in training, 0 to 1.

    Call arguments:
        inputs: Float (batch, length, width).
        padding_mask: Boolean (batch, length), False where the input counts as zeros; None for no
            padding.

    Returns:
        Float (batch, length, model_dim).

    Raises:
        ValueError: If `kernel_size` is even.
    """

    options = ("model_dim", "kernel_size", "causal", "dropout")

    def __init__(self, model_dim, kernel_size=3, causal=False, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                "kernel_size must be odd, for as many neighbors on the left as on the right."
                f" Received: kernel_size={kernel_size}. Choose {max(kernel_size + 1, 1)}."
            )
        self.model_dim = model_dim
        self.kernel_size = kernel_size
        self.causal = causal
        self.dropout = dropout
        self.input_dropout = Dropout(dropout, dtype=self.dtype_policy)
        initializer = keras.initializers.VarianceScaling(
            4 * (1 - dropout), "fan_in", "untruncated_normal"
        )
        self.kernel = self.dense(2 * model_dim, "kernel", kernel_initializer=initializer)

    def build(self, inputs_shape, padding_mask_shape=None):
        self.kernel.build((None, None, self.kernel_size * inputs_shape[-1]))

    def call(self, inputs, padding_mask=None, training=None):
        x = self.input_dropout(inputs, training=training)
        if padding_mask is not None:
            x = x * ops.cast(padding_mask, x.dtype)[:, :, None]
        length, others = ops.shape(x)[1], self.kernel_size - 1
        before = others if self.causal else others // 2
        x = ops.pad(x, ((0, 0), (before, others - before), (0, 0)))
        neighbors = [x[:, first : first + length] for first in range(self.kernel_size)]
        return self._gated(ops.concatenate(neighbors, axis=-1))

    def step(self, inputs, window):
        """Computes one new position of each hypothesis; for causal convolutions only.

        Args:
            inputs: Float (batch, beams, width).
            window: Float (batch, beams, (kernel_size - 1) * width), the previous inputs.

        Returns:
            (Float (batch, beams, model_dim), the window for the next position).
        """
        neighbors = ops.concatenate([window, inputs], axis=-1)
        return self._gated(neighbors), neighbors[:, :, inputs.shape[-1] :]

    def _gated(self, neighbors):
        values, gates = ops.split(self.kernel(neighbors), 2, axis=-1)
        return values * ops.sigmoid(gates)

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape[:-1], self.model_dim)


class _ConvolutionalBlock(Block):
    """The base class of layers that contain a convolution."""

    options = ("kernel_size", "dropout")

    def __init__(self, kernel_size=3, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.dropout = dropout

    def _build_convolution(self, inputs_shape, causal):
        self.convolution = GatedConvolution(
            inputs_shape[-1],
            self.kernel_size,
            causal,
            self.dropout,
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.convolution.build(inputs_shape)


@register
class ConvolutionalEncoderBlock(_ConvolutionalBlock):
    """A convolution with a residual connection: (x + GatedConvolution(x)) / sqrt(2).

    Args:
        kernel_size, dropout: As for `GatedConvolution`.

    Call arguments:
        inputs: Float (batch, length, model_dim).
        padding_mask: Boolean (batch, length).

    Returns:
        Float (batch, length, model_dim).
    """

    def build(self, inputs_shape, padding_mask_shape=None):
        self._build_convolution(inputs_shape, causal=False)

    def call(self, inputs, padding_mask, training=None):
        outputs = self.convolution(inputs, padding_mask=padding_mask, training=training)
        return (inputs + outputs) * _HALF_OF_THE_VARIANCE


@register
class ConvolutionalDecoderBlock(_ConvolutionalBlock):
    """A causal convolution, then attention, each with a residual connection.

    h = GatedConvolution(x); d = (W_d h + g) / sqrt(2);
    c = softmax(d z^T / sqrt(model_dim)) (z + e) / sqrt(2);
    y = ((h + W_c c) / sqrt(2) + x) / sqrt(2).

    Source: section 3.3, equations 1 and 2.

    Args:
        kernel_size, dropout: As for `GatedConvolution`.

    Call arguments:
        inputs: x, Float (batch, target_length, model_dim).
        embedded: g, the embedded target, Float (batch, target_length, model_dim).
        memory: z, the encoder's output, Float (batch, source_length, model_dim).
        values: (z + e) / sqrt(2), Float (batch, source_length, model_dim); e: the embedded source.
        attention_mask: Broadcastable to (batch, target_length, source_length).

    Returns:
        Float (batch, target_length, model_dim).
    """

    def build(
        self, inputs_shape, embedded_shape, memory_shape, values_shape, attention_mask_shape=None
    ):
        self._build_convolution(inputs_shape, causal=True)
        self.query_projection = self.dense(inputs_shape[-1], "query")
        self.query_projection.build(inputs_shape)
        self.context_projection = self.dense(inputs_shape[-1], "context")
        self.context_projection.build(inputs_shape)

    def call(self, inputs, embedded, memory, values, attention_mask=None, training=None):
        hidden = self.convolution(inputs, training=training)
        return self._with_context(inputs, hidden, embedded, memory, values, attention_mask)

    def step(self, inputs, window, embedded, memory, values, attention_mask):
        """Works like `GatedConvolution.step`; `embedded` is Float (batch, beams, model_dim)."""
        hidden, window = self.convolution.step(inputs, window)
        outputs = self._with_context(inputs, hidden, embedded, memory, values, attention_mask)
        return outputs, window

    def attention_weights(self, hidden, embedded, memory, attention_mask):
        """Returns the weights of the values: Float (batch, target_length, source_length)."""
        query = (self.query_projection(hidden) + embedded) * _HALF_OF_THE_VARIANCE
        return attention_weights(query, memory, attention_mask)

    def _with_context(self, inputs, hidden, embedded, memory, values, attention_mask):
        weights = self.attention_weights(hidden, embedded, memory, attention_mask)
        context = self.context_projection(ops.matmul(weights, values))
        hidden = (hidden + context) * _HALF_OF_THE_VARIANCE
        return (hidden + inputs) * _HALF_OF_THE_VARIANCE


@register
class ConvolutionalOutput(Block):
    """A linear map before the logits, followed by dropout.

    Args:
        dropout: Share of the output to drop in training, 0 to 1.

    Call arguments:
        inputs: Float (..., model_dim).

    Returns:
        Float (..., model_dim).
    """

    options = ("dropout",)

    def __init__(self, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.dropout = dropout
        self.output_dropout = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, inputs_shape):
        self.projection = self.dense(inputs_shape[-1])
        self.projection.build(inputs_shape)

    def call(self, inputs, training=None):
        return self.output_dropout(self.projection(inputs), training=training)


@register
class Convolutional(EncoderDecoder):
    """The functional model that `build_convolutional` makes."""


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
    """Builds a convolutional encoder-decoder as a functional Keras model.

    Args:
        vocabulary_size: Number of sub-words.
        num_layers: Number of layers in the encoder, and in the decoder.
        model_dim: Width of the embedding and of all layers.
        kernel_size: Number of positions that each output of a layer sees; odd.
        dropout: Share of the embedding and of each layer's input to drop in training, 0 to 1.
        position_encoding: "learned", as in Gehring et al., or "sinusoidal".
        max_positions: The longest sequence with learned positions, in tokens.
        name: The model's name.

    Returns:
        A model with the inputs and outputs of `build_transformer`.

    Raises:
        ValueError: If `kernel_size` is even.
    """
    inputs = text_inputs()
    embedding = PositionalEmbedding(
        vocabulary_size, model_dim, dropout, position_encoding, max_positions, name="embedding"
    )
    encoder_blocks = (
        ConvolutionalEncoderBlock(kernel_size, dropout, name=f"encoder_{index}")
        for index in range(num_layers)
    )
    embedded_source, memory, mask = encoder_pass(embedding, encoder_blocks, inputs["source_ids"])
    values = _values(memory, embedded_source)  # (batch, source_length, model_dim)

    x = embedded = embedding(inputs["target_ids"])  # (batch, target_length, model_dim)
    for index in range(num_layers):
        block = ConvolutionalDecoderBlock(kernel_size, dropout, name=f"decoder_{index}")
        x = block(x, embedded, memory, values, attention_mask=attend_to(mask))
    x = ConvolutionalOutput(dropout, name="output")(x)
    logits = embedding(x, reverse=True)  # (batch, target_length, vocabulary)
    return Convolutional(inputs=inputs, outputs=logits, name=name)


def _values(memory, embedded_source):
    return (memory + embedded_source) * _HALF_OF_THE_VARIANCE


class Encoded(NamedTuple):
    """An encoded batch of sources; all beams of a sentence share it."""

    memory: object  # Float (batch, source_length, model_dim)
    values: object  # Float (batch, source_length, model_dim)
    attention_mask: object  # Float32 (batch, 1, source_length), from `masks.to_add`


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
        x = embedded = model.embed(token_ids, state.position)
        windows = []
        for block, window in zip(model.decoder_blocks, state.per_beam, strict=True):
            x, window = block.step(x, window, embedded, *state.per_sentence)
            windows.append(window)
        logits = model.logits(model.get_layer("output")(x, training=False))
        return logits, state._replace(position=state.position + 1, per_beam=tuple(windows))

    return encode, initial_state, step


@cross_attention_weights.register(Convolutional)
def _(model, source_ids, target_ids):
    encoded = _encoded(model, source_ids)
    x = embedded = model.embedding(target_ids, training=False)
    *blocks, last = model.decoder_blocks
    for block in blocks:
        x = block(x, embedded, *encoded, training=False)
    hidden = last.convolution(x, training=False)
    weights = last.attention_weights(hidden, embedded, encoded.memory, encoded.attention_mask)
    return weights[:, None]  # (batch, heads = 1, target_length, source_length)


def _encoded(model, source_ids):
    embedded, memory, mask = encoder_pass(
        model.embedding, model.encoder_blocks, source_ids, training=False
    )
    return Encoded(memory, _values(memory, embedded), to_add(attend_to(mask)))
