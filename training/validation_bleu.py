"""The quality of translations while a model is trained."""

import keras

from keras_transformer.translator import Translator
from training.evaluate import score


class ValidationBleu(keras.callbacks.Callback):
    """Translates the validation text after each epoch: `val_bleu` in the logs.

    Greedy search costs a fraction of beam search and ranks epochs alike. Put it before whatever
    reads the logs.

    Args:
        translator: Of the model that is trained.
        sources: The validation text.
        references: Its translations.
    """

    def __init__(self, translator: Translator, sources: list[str], references: list[str]):
        super().__init__()
        self.translator = translator
        self.sources = sources
        self.references = references

    def on_epoch_end(self, epoch, logs=None):
        hypotheses = self.translator(self.sources)
        if logs is not None:
            logs["val_bleu"] = score(hypotheses, self.references, tokenized=False).bleu
