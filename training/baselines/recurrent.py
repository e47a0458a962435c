"""Recurrent encoder-decoders, without attention (one fixed vector) and with it.

Shapes, in addition to those of `keras_transformer.layers.attention`:
    recurrent_dim   width of a layer's output; in the encoder, half of it for each direction

    source_ids -> embedding -> encoder_0 ... -> memory (batch, source_length, recurrent_dim)
                                                   |
                            the last states of the top layer: summary (batch, recurrent_dim)
                                                   |
    target_ids -> embedding -> decoder_0 -> context -> decoder_1 ... -> output -> logits

The first state of every decoder layer is computed from the summary. Without attention, the context
is the summary again, the same at each target position, and the decoder knows nothing else about the
source. With attention, the first decoder layer's output queries the memory, and the answer is the
context. The two models are otherwise the same.

Source: Cho et al. 2014, section 2.2 (the summary, repeated at every step); Bahdanau et al. 2015,
    section 3 (encoder in both directions, attention); Luong et al. 2015, section 3.1 ("general"
    scores, equation 5 for the output); Wu et al. 2016, section 3 (the first decoder layer queries,
    all later layers read the answer; residual connections).
Deviation: a position reads the context that it queried itself, not that of the previous position
    (input feeding), so that attention and everything else except h U is computed for all positions
    at once; attention is one head of the Transformer's, which is the "general" score with its
    matrix in two factors, scaled, and with a projection of the context; the input and the output
    share one embedding, as in the Transformer, so that only the layers differ.
"""

from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.decoding.attention import cross_attention_step, project_memory
from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.gathering import gather_rows
from keras_transformer.layers.attention import MultiHeadCrossAttention
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
from training.baselines.recurrence import CELLS, recur, recur_once


@register
class Recurrence(Block):
    """One recurrent layer in one direction.

    Deviation: an 8-bit model does not round the product with the state, since the errors of all
        positions would add up.

    Args:
        cell: "gru" or "lstm".
        units: Width of each state.

    Call arguments:
        inputs: Float (batch, length, width).
        states: A list of the cell's states before the first position, Float (batch, units) each;
            zeros if None.
        context: Additional input, Float (batch, length or 1, context_dim), or None. Length 1 is for
            a context that all positions share, which is multiplied only once.

    Returns:
        Float (batch, length, units).
    """

    options = ("cell", "units")

    def __init__(self, cell, units, **kwargs):
        super().__init__(**kwargs)
        self.cell = cell
        self.units = units

    @property
    def num_states(self) -> int:
        return CELLS[self.cell].num_states

    def build(self, inputs_shape, states_shape=None, context_shape=None):
        width = CELLS[self.cell].num_gates * self.units
        self.input_projection = self.dense(width, "input")
        self.input_projection.build(inputs_shape)
        self.context_projection = None
        if context_shape is not None:
            self.context_projection = self.dense(width, "context", use_bias=False)
            self.context_projection.build(context_shape)
        self.recurrent_kernel = self.add_weight(
            name="recurrent_kernel", shape=(self.units, width), initializer=self._first_kernel
        )
        self.recurrent_bias = self.add_weight(
            name="recurrent_bias", shape=(width,), initializer=self._first_bias
        )

    def _first_kernel(self, shape, dtype=None):
        """Draws an orthogonal matrix per gate, in float32, which QR decomposition supports."""
        units, width = shape
        gates = [
            keras.initializers.Orthogonal()((units, units), "float32")
            for _ in range(width // units)
        ]
        return ops.cast(ops.concatenate(gates, axis=1), dtype or "float32")

    def _first_bias(self, shape, dtype=None):
        """Returns 1 for LSTM's "keep" gate, so that it starts open (Gers et al. 2000); else 0."""
        keeps = (ops.arange(shape[0], dtype="int32") // self.units == 1) & (self.cell == "lstm")
        return ops.cast(keeps, dtype or "float32")

    def call(self, inputs, states=None, context=None, training=None):
        x = self._gate_inputs(inputs, context)
        if states is None:
            zeros = ops.zeros((ops.shape(inputs)[0], self.units), "float32")
            states = [zeros] * self.num_states
        outputs = recur(CELLS[self.cell], x, states, *self._recurrent_weights(), training)
        return ops.cast(outputs, self.compute_dtype)

    def step(self, inputs, states, context=None):
        """Computes one new position of each hypothesis.

        Args:
            inputs: Float (batch, beams, width).
            states: A tuple of Float32 (batch, beams, units).
            context: Float (batch, beams or 1, context_dim), or None.

        Returns:
            (Float (batch, beams, units), the new states).
        """
        x = self._gate_inputs(inputs, context)
        states = recur_once(CELLS[self.cell], x, states, *self._recurrent_weights())
        return ops.cast(states[0], self.compute_dtype), states

    def _gate_inputs(self, inputs, context):
        x = self.input_projection(inputs)  # (batch, length, gates * units)
        return x if context is None else x + self.context_projection(context)

    def _recurrent_weights(self):
        return (
            ops.cast(self.recurrent_kernel, self.compute_dtype),
            ops.cast(self.recurrent_bias, "float32"),
        )

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape[:-1], self.units)


class _RecurrentBlock(Block):
    """A recurrent layer, with a residual connection if input and output have the same width."""

    options = ("cell", "units", "dropout")

    def __init__(self, cell, units, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.cell = cell
        self.units = units
        self.dropout = dropout

    def _recurrence(self, units, name):
        return Recurrence(self.cell, units, dtype=self.dtype_policy, name=name)

    def _added(self, inputs, outputs):
        return outputs + inputs if inputs.shape[-1] == self.units else outputs

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape[:-1], self.units)


@register
class RecurrentEncoderBlock(_RecurrentBlock):
    """One recurrent layer that reads in both directions, with dropout and a residual connection.

    The input is added to the output if both have the same width. Padding at the end has no effect:
    the backward direction starts at the last real token.

    Args:
        cell: "gru" or "lstm".
        units: Width of the output, half of it for each direction; even.
        dropout: Share of the output to drop in training, 0 to 1.

    Call arguments:
        inputs: Float (batch, length, width).
        padding_mask: Boolean (batch, length).

    Returns:
        Float (batch, length, units), meaningless at padding.

    Raises:
        ValueError: If `units` is odd.
    """

    def __init__(self, cell, units, dropout=0.1, **kwargs):
        super().__init__(cell, units, dropout, **kwargs)
        if units % 2:
            raise ValueError(
                "recurrent_dim must be even, so that each direction of the encoder gets half."
                f" Received: recurrent_dim={units}. Choose {units + 1}."
            )
        self.forwards = self._recurrence(units // 2, "forwards")
        self.backwards = self._recurrence(units // 2, "backwards")
        self.output_dropout = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, inputs_shape, padding_mask_shape=None):
        self.forwards.build(inputs_shape)
        self.backwards.build(inputs_shape)

    def call(self, inputs, padding_mask, training=None):
        positions = _mirrored_positions(padding_mask)
        backwards = gather_rows(self.backwards(gather_rows(inputs, positions)), positions)
        outputs = ops.concatenate([self.forwards(inputs), backwards], axis=-1)
        return self._added(inputs, self.output_dropout(outputs, training=training))


@register
class Summary(keras.Layer):
    """Summarizes the source as one vector: the last state of each direction of the encoder.

    Call arguments:
        memory: Float (batch, source_length, recurrent_dim), from `RecurrentEncoderBlock`.
        padding_mask: Boolean (batch, source_length).

    Returns:
        Float (batch, recurrent_dim): the forward half at the last real token, and the backward half
        at the first token.
    """

    def call(self, memory, padding_mask):
        half = memory.shape[-1] // 2
        last = _mirrored_positions(padding_mask)[:, :1]  # (batch, 1); the first mirrors the last
        forwards = gather_rows(memory, last)[:, 0, :half]
        return ops.concatenate([forwards, memory[:, 0, half:]], axis=-1)

    def compute_output_shape(self, memory_shape):
        return (memory_shape[0], memory_shape[-1])


@register
class RecurrentDecoderBlock(_RecurrentBlock):
    """One recurrent layer that starts from the summary, with dropout and a residual connection.

    h_0 = tanh(V summary). The input, but not the context, is added to the output if the two have
    the same width.

    Source: Cho et al. 2014, appendix A.1.2 (the first state).

    Args:
        cell, dropout: As for `RecurrentEncoderBlock`. An LSTM's V also makes its cell state.
        units: Width of the output.

    Call arguments:
        inputs: Float (batch, target_length, width).
        summary: Float (batch, recurrent_dim).
        context: As for `Recurrence`.

    Returns:
        Float (batch, target_length, units).
    """

    def __init__(self, cell, units, dropout=0.1, **kwargs):
        super().__init__(cell, units, dropout, **kwargs)
        self.recurrence = self._recurrence(units, "recurrence")
        width = self.recurrence.num_states * units
        self.first_state = self.dense(width, "first_state", activation="tanh")
        self.output_dropout = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, inputs_shape, summary_shape, context_shape=None):
        self.recurrence.build(inputs_shape, context_shape=context_shape)
        self.first_state.build(summary_shape)

    def call(self, inputs, summary, context=None, training=None):
        outputs = self.recurrence(inputs, states=self.first_states(summary), context=context)
        return self._added(inputs, self.output_dropout(outputs, training=training))

    def first_states(self, summary):
        """Computes the states before the first position: Float32 (batch, units) each."""
        states = ops.cast(self.first_state(summary), "float32")
        return ops.split(states, self.recurrence.num_states, axis=-1)

    def step(self, inputs, states, context=None):
        """Computes one new position; takes and returns the same as `Recurrence.step`."""
        outputs, states = self.recurrence.step(inputs, states, context)
        return self._added(inputs, outputs), states


@register
class ContextOutput(Block):
    """Combines the top layer's output h and the context c: tanh(W_h h + W_c c).

    Source: Luong et al. 2015, equation 5.

    Args:
        model_dim: Width of the output, which is that of the embedding.
        dropout: Share of the output to drop in training, 0 to 1.

    Call arguments:
        inputs: Float (batch, target_length, units).
        context: Float (batch, target_length or 1, context_dim).

    Returns:
        Float (batch, target_length, model_dim).
    """

    options = ("model_dim", "dropout")

    def __init__(self, model_dim, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.model_dim = model_dim
        self.dropout = dropout
        self.input_projection = self.dense(model_dim, "input")
        self.context_projection = self.dense(model_dim, "context", use_bias=False)
        self.output_dropout = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, inputs_shape, context_shape):
        self.input_projection.build(inputs_shape)
        self.context_projection.build(context_shape)

    def call(self, inputs, context, training=None):
        outputs = ops.tanh(self.input_projection(inputs) + self.context_projection(context))
        return self.output_dropout(outputs, training=training)

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape[:-1], self.model_dim)


def _mirrored_positions(padding_mask):
    """Returns Integer (batch, length): positions that reverse real tokens and keep the padding."""
    lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=1, keepdims=True)  # (batch, 1)
    positions = ops.arange(ops.shape(padding_mask)[1], dtype="int32")
    return ops.where(positions < lengths, lengths - 1 - positions, positions)


@register
class Recurrent(EncoderDecoder):
    """The functional model that `build_recurrent` makes without attention."""


@register
class RecurrentWithAttention(Recurrent):
    """The functional model that `build_recurrent` makes with attention."""

    @property
    def attention(self) -> MultiHeadCrossAttention:
        return self.get_layer("attention")


def build_recurrent(
    *,
    cell: str,
    attention: bool,
    vocabulary_size: int,
    num_layers: int = 2,
    model_dim: int = 128,
    recurrent_dim: int | None = None,
    dropout: float = 0.1,
    name: str | None = None,
) -> Recurrent:
    """Builds a recurrent encoder-decoder as a functional Keras model.

    Args:
        cell: "gru" or "lstm".
        attention: Whether the decoder attends to the source.
        vocabulary_size: Number of sub-words.
        num_layers: Number of layers in the encoder, and in the decoder.
        model_dim: Width of the embedding.
        recurrent_dim: Width of the layers, even; `model_dim` if None.
        dropout: Share of the embedding and of each layer's output to drop in training, 0 to 1.
        name: The model's name.

    Returns:
        A model with the inputs and outputs of `build_transformer`.

    Raises:
        ValueError: If the cell is unknown, or `recurrent_dim` is odd.
    """
    if cell not in CELLS:
        raise ValueError(
            f"cell must be one of {tuple(CELLS)}. Received: cell={cell!r}. Choose one of them."
        )
    recurrent_dim = recurrent_dim or model_dim
    inputs = text_inputs()
    embedding = PositionalEmbedding(
        vocabulary_size, model_dim, dropout, position_encoding=None, name="embedding"
    )
    encoder_blocks = (
        RecurrentEncoderBlock(cell, recurrent_dim, dropout, name=f"encoder_{index}")
        for index in range(num_layers)
    )
    _, memory, mask = encoder_pass(embedding, encoder_blocks, inputs["source_ids"])
    summary = Summary(name="summary")(memory, padding_mask=mask)  # (batch, recurrent_dim)

    first, *others = [
        RecurrentDecoderBlock(cell, recurrent_dim, dropout, name=f"decoder_{index}")
        for index in range(num_layers)
    ]
    x = first(embedding(inputs["target_ids"]), summary)  # (batch, target_length, recurrent_dim)
    if attention:
        layer = MultiHeadCrossAttention(num_heads=1, name="attention")
        context = layer(x, memory, attention_mask=attend_to(mask))
    else:
        context = ops.expand_dims(summary, 1)  # (batch, 1, recurrent_dim)
    for block in others:
        x = block(x, summary, context=context)
    x = ContextOutput(model_dim, dropout, name="output")(x, context)
    logits = embedding(x, reverse=True)  # (batch, target_length, vocabulary)
    model_class = RecurrentWithAttention if attention else Recurrent
    return model_class(inputs=inputs, outputs=logits, name=name)


class Encoded(NamedTuple):
    """An encoded batch of sources."""

    memory: object  # Float (batch, source_length, recurrent_dim)
    padding_mask: object  # Boolean (batch, source_length)
    summary: object  # Float (batch, recurrent_dim)


@decoding_steps.register(Recurrent)
def _(model):
    """Gives the decoder only the summary: Float (batch, recurrent_dim)."""

    def encode(source_ids):
        return _encoded(model, source_ids).summary

    def initial_state(summary, num_beams=1, *, max_length):
        return _initial_state(model, summary, num_beams, ops.expand_dims(summary, 1))

    def step(token_ids, state):
        return _step(model, token_ids, state, lambda x: state.per_sentence)

    return encode, initial_state, step


@decoding_steps.register(RecurrentWithAttention)
def _(model):
    """Gives the decoder the summary, the projected memory, and a mask from `masks.to_add`."""
    attention = model.attention

    def encode(source_ids):
        return _encoded(model, source_ids)

    def initial_state(encoded, num_beams=1, *, max_length):
        memory = project_memory(attention, encoded.memory)
        mask = to_add(attend_to(encoded.padding_mask))
        return _initial_state(model, encoded.summary, num_beams, (memory, mask))

    def step(token_ids, state):
        def context_of(x):
            _, beams, width = x.shape
            rows = ops.reshape(x, (-1, width))  # (batch * beams, width)
            rows = cross_attention_step(attention, rows, beams, *state.per_sentence)
            return ops.reshape(rows, (-1, beams, width))

        return _step(model, token_ids, state, context_of)

    return encode, initial_state, step


@cross_attention_weights.register(RecurrentWithAttention)
def _(model, source_ids, target_ids):
    encoded = _encoded(model, source_ids)
    x = model.embedding(target_ids, training=False)
    x = model.decoder_blocks[0](x, encoded.summary, training=False)
    return model.attention.attention_weights(x, encoded.memory, attend_to(encoded.padding_mask))


def _encoded(model, source_ids):
    _, memory, mask = encoder_pass(
        model.embedding, model.encoder_blocks, source_ids, training=False
    )
    return Encoded(memory, mask, model.get_layer("summary")(memory, padding_mask=mask))


def _initial_state(model, summary, num_beams, per_sentence):
    return DecodingState(
        position=ops.convert_to_tensor(0, dtype="int32"),
        per_beam=tuple(
            tuple(ops.repeat(x[:, None], num_beams, axis=1) for x in block.first_states(summary))
            for block in model.decoder_blocks
        ),
        per_sentence=per_sentence,
    )


def _step(model, token_ids, state, context_of):
    """Computes one position; `context_of` maps the first layer's output to the context."""
    (first, states), *others = zip(model.decoder_blocks, state.per_beam, strict=True)
    x, states = first.step(model.embed(token_ids, state.position), states)
    context, per_beam = context_of(x), [states]
    for block, states in others:
        x, states = block.step(x, states, context)
        per_beam.append(states)
    logits = model.logits(model.get_layer("output")(x, context, training=False))
    return logits, state._replace(position=state.position + 1, per_beam=tuple(per_beam))
