"""Shows in TensorBoard how the model translates a few sentences after each epoch."""

import itertools
import logging
import re
from collections.abc import Iterable
from pathlib import Path

import keras

from keras_transformer.text.blank import is_blank
from keras_transformer.translator import AttentionWeights, Translator
from training.command_line.wording import shortened

LOGGER = logging.getLogger("keras_transformer")

NUM_SAMPLES = 5
# A picture of a sentence and a translation of this length is still legible.
PICTURE_TOKENS = 24
DOTS_PER_INCH = 72


class SampleTranslations(keras.callbacks.Callback):
    """Writes translations of a few sentences after each epoch, and a picture of the attention.

    Uses the first sentences that are short enough for a picture, or the first of all if none is.
    `translations` is a table of sources, references and translations; `attention` shows the last
    decoder layer's attention for the first sentence, if it is short and the model has attention.
    Steps are epochs, counted from 0, as in `keras.callbacks.TensorBoard`.

    An interrupted fit leaves the file open; `close` closes it.

    Args:
        translator: Translates with the model in training; greedy search is fast enough.
        sources: The text to choose sentences from.
        references: The translations of `sources`.
        path: A separate folder, because TensorBoard reads only the newest file in a folder.

    Raises:
        tensorflow.errors.OpError: If the file cannot be written.
    """

    def __init__(
        self, translator: Translator, sources: list[str], references: list[str], path: Path
    ):
        super().__init__()
        self.translator = translator
        self.path = path
        self.samples = _chosen(sources, references, self._is_short)
        self._writer = None
        self._draw = None

    def on_epoch_end(self, epoch, logs=None):
        import tensorflow as tf

        sources = [source for source, _ in self.samples]
        translations = self.translator(sources)
        rows = [
            (*sample, shortened(translation))
            for sample, translation in zip(self.samples, translations, strict=True)
        ]
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.path))
        with self._writer.as_default(step=epoch):
            is_drawn = self.translator.has_attention and sources
            if is_drawn and self._fits(sources[0], translations[0]):
                self._write_picture(sources[0], translations[0])
            # After the picture: on flush, TensorFlow reports a failed write of a small record, but
            # not of a large one.
            tf.summary.text("translations", markdown_table(rows))
        self._writer.flush()

    def on_train_end(self, logs=None):
        self.close()

    def close(self) -> None:
        """Closes the file; a later epoch would start a new one."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _is_short(self, source: str) -> bool:
        num_tokens = _num_tokens(source, self.translator.tokenizer.source)
        return num_tokens <= min(PICTURE_TOKENS, self.translator.max_source_tokens)

    def _fits(self, source: str, translation: str) -> bool:
        """Whether both texts fit; encoding a translation again may give more tokens."""
        return (
            self._is_short(source)
            and _num_tokens(translation, self.translator.tokenizer.target)
            <= self.translator.most_target_tokens
        )

    def _write_picture(self, source: str, translation: str) -> None:
        import tensorflow as tf

        if self._draw is None:
            self._draw = _drawing_function()
        attention = _first_rows(self.translator.attention(source, translation), PICTURE_TOKENS)
        pixels = self._draw(attention, DOTS_PER_INCH)
        if pixels is not None:
            tf.summary.image("attention", pixels[None])


def markdown_table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Formats a table of sources, references and translations, with any characters."""
    lines = ["| source | reference | translation |", "|---|---|---|"]
    lines += [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Escapes text so that Markdown shows it unchanged: special characters become numbers."""
    return re.sub(r"[^\w\s.,;:?]|[\r\n_]", lambda match: f"&#{ord(match[0])};", text)


def _chosen(sources, references, is_short) -> list[tuple[str, str]]:
    pairs = zip(sources, references, strict=True)
    pairs = [(source, reference) for source, reference in pairs if not is_blank(source)]
    short = (pair for pair in pairs if is_short(pair[0]))
    return list(itertools.islice(short, NUM_SAMPLES)) or pairs[:NUM_SAMPLES]


def _first_rows(attention: AttentionWeights, num_rows: int) -> AttentionWeights:
    """Cuts a translation, since a model that has learned little may write without end."""
    return attention._replace(
        target_tokens=attention.target_tokens[:num_rows], weights=attention.weights[:, :num_rows]
    )


def _drawing_function():
    """Returns a function that draws attention; without Matplotlib, one that returns None."""
    try:
        from training.pictures.attention import attention_pixels
    except ImportError as error:
        LOGGER.warning("no pictures of attention for TensorBoard: %s", error)
        return lambda attention, dots_per_inch: None
    return attention_pixels


def _num_tokens(text: str, tokenizer) -> int:
    return len(tokenizer.encode(text)) + 1  # the end token
