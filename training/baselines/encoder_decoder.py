"""The base classes of the baselines' layers and models."""

import keras
from keras import ops

from keras_transformer.decoding.steps import embedding_step
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.masks import padding_mask

register = keras.saving.register_keras_serializable(package="keras_transformer_baselines")


class Block(keras.Layer):
    """A layer whose `options` name the attributes to save in its config.

    These are its constructor's arguments. The output has the input's shape, unless a subclass
    overrides `compute_output_shape`.
    """

    options: tuple[str, ...] = ()

    def dense(self, units, name=None, **options) -> keras.layers.Dense:
        """Makes a linear layer with the dtype of this layer."""
        return keras.layers.Dense(units, dtype=self.dtype_policy, name=name, **options)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, name) for name in self.options}}


class EncoderDecoder(keras.Model):
    """A functional model with layers named embedding, encoder_0 ..., decoder_0 ... and output."""

    @property
    def embedding(self) -> PositionalEmbedding:
        return self.get_layer("embedding")

    @property
    def encoder_blocks(self) -> list[Block]:
        return [layer for layer in self.layers if layer.name.startswith("encoder_")]

    @property
    def decoder_blocks(self) -> list[Block]:
        return [layer for layer in self.layers if layer.name.startswith("decoder_")]

    def embed(self, token_ids, position):
        """Embeds the token ids of one position, Integer (batch, beams).

        Returns Float (batch, beams, model_dim).
        """
        rows = embedding_step(self.embedding, token_ids, position)  # (batch * beams, model_dim)
        return ops.reshape(rows, (-1, token_ids.shape[1], rows.shape[-1]))

    def logits(self, outputs):
        """Computes the logits of one position, Float32 (batch, beams, vocabulary).

        `outputs` is Float (batch, beams, model_dim).
        """
        _, beams, model_dim = outputs.shape
        logits = self.embedding(ops.reshape(outputs, (-1, model_dim)), reverse=True)
        return ops.reshape(logits, (-1, beams, logits.shape[-1]))


def text_inputs() -> dict[str, keras.KerasTensor]:
    """Makes a model's inputs: Integer (batch, source_length) and (batch, target_length)."""
    return {
        name: keras.Input((None,), dtype="int32", name=name)
        for name in ("source_ids", "target_ids")
    }


def encoder_pass(embedding, blocks, source_ids, **options):
    """Returns the embedded source, the last block's output, and the padding mask.

    `blocks` may be a generator, which makes each block only after the previous one was called, so
    that blocks draw their random numbers in this order. `options` are passed to every layer.
    """
    mask = padding_mask(source_ids)
    embedded = memory = embedding(source_ids, **options)
    for block in blocks:
        memory = block(memory, padding_mask=mask, **options)
    return embedded, memory, mask
