"""A SentencePiece model in the TensorFlow graph."""

import zlib
from typing import TYPE_CHECKING, Any

from keras_transformer.forks import check_not_forked
from keras_transformer.quiet import without_information

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_text


class GraphTokenizer:
    """TensorFlow Text's tokenizer of a SentencePiece model, made on first use.

    `keras.utils.set_random_seed`, `tf.random.set_seed` and `keras.utils.clear_session` destroy
    TensorFlow's tokenizers, since TensorFlow then drops all kernels: seed first, then trace
    functions that tokenize. Functions and datasets traced before raise `NotFoundError` and must be
    built again. Outside traced functions, `tokenize` and `detokenize` make a new one themselves.

    Args:
        serialized_model: The bytes of the SentencePiece model.
        as_text: Whether sub-words are strings, not ids.
    """

    def __init__(self, serialized_model: bytes, *, as_text: bool = False) -> None:
        self._serialized_model = serialized_model
        self._as_text = as_text
        self._trackable: tensorflow_text.SentencepieceTokenizer | None = None

    @property
    def trackable(self) -> "tensorflow_text.SentencepieceTokenizer":
        """TensorFlow Text's tokenizer, which an export must track.

        Raises:
            RuntimeError: The process was forked from one that had used TensorFlow.
        """
        check_not_forked()
        if self._trackable is None:
            import tensorflow as tf
            import tensorflow_text

            # Made outside the function being traced, to outlive it.
            with tf.init_scope(), without_information():
                self._trackable = tensorflow_text.SentencepieceTokenizer(
                    model=self._serialized_model,
                    out_type=tf.string if self._as_text else tf.int32,
                    # Kernels of the same name share one model: each model needs its own name.
                    name=f"sentencepiece_{zlib.crc32(self._serialized_model):08x}",
                )
        return self._trackable

    def tokenize(self, text: "tf.Tensor") -> "tf.RaggedTensor":
        """Splits String (batch,) into sub-words, ragged (batch, length)."""
        return self._call("tokenize", text)

    def detokenize(self, sub_words: "tf.RaggedTensor | tf.Tensor") -> "tf.Tensor":
        """Joins sub-words, ragged or padded (batch, length), into String (batch,)."""
        return self._call("detokenize", sub_words)

    def _call(self, method: str, values: Any) -> Any:
        import tensorflow as tf

        try:
            return getattr(self.trackable, method)(values)
        except tf.errors.NotFoundError:  # its kernel was dropped: see above
            self._trackable = None
            return getattr(self.trackable, method)(values)
