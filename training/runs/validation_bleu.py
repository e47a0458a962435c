"""Measures translations of the validation text during training."""

import logging

import keras

from keras_transformer.translator import Translator
from training.runs.scores import score

LOGGER = logging.getLogger("keras_transformer")

EPOCHS_BEFORE_WARNING = 3


class ValidationBleu(keras.callbacks.Callback):
    """Translates the validation text after each epoch; adds `val_bleu` and `val_chrf` to the logs.

    Uses greedy search, which costs a fraction of beam search and ranks epochs alike. Place this
    callback before those that read the logs. Warns once if BLEU is still 0 after three epochs.

    Args:
        translator: Translates with the model in training.
        sources: The source sentences of the validation text.
        references: The reference translations of `sources`.
        bleu_tokenizer: How sacreBLEU splits text into words.
    """

    def __init__(
        self,
        translator: Translator,
        sources: list[str],
        references: list[str],
        bleu_tokenizer: str = "13a",
    ):
        super().__init__()
        self.translator = translator
        self.sources = sources
        self.references = references
        self.bleu_tokenizer = bleu_tokenizer
        self.epochs_at_zero = 0

    def on_epoch_end(self, epoch, logs=None):
        scores = self.measure()
        if logs is not None:
            logs.update(scores)
        # Rounded as printed. Once BLEU has been above 0, its tokenizer is not to blame for a 0.
        if self.epochs_at_zero is not None:
            is_zero = round(scores["val_bleu"], 2) == 0
            self.epochs_at_zero = self.epochs_at_zero + 1 if is_zero else None
        if self.epochs_at_zero == EPOCHS_BEFORE_WARNING:
            LOGGER.warning(
                "warning: validation BLEU is still 0 after %d epochs: the model may need more"
                " epochs, or bleu_tokenizer=%s may not suit the text (char suits any text without"
                " spaces); val_chrf and val_perplexity still rank such epochs",
                EPOCHS_BEFORE_WARNING,
                self.bleu_tokenizer,
            )

    def measure(self) -> dict[str, float]:
        """Measures BLEU and chrF of the current model, 0 to 100."""
        scores = score(self.translator(self.sources), self.references, self.bleu_tokenizer)
        return {"val_bleu": scores.bleu, "val_chrf": scores.chrf}
