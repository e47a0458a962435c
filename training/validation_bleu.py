"""The quality of translations while a model is trained."""

import keras

from keras_transformer.data import read_pairs
from keras_transformer.tokenizer import SubwordTokenizer
from keras_transformer.translator import Translator
from training.evaluate import score
from training.settings import TrainingSettings


class ValidationBleu(keras.callbacks.Callback):
    """Translates the validation text greedily after each epoch: `val_bleu` in the logs.

    Greedy search costs a fraction of beam search and ranks epochs alike. Put it before whatever
    reads the logs.

    Args:
        settings: Where the validation text is, and how much of a sentence is read.
        tokenizer: The model's.
    """

    def __init__(self, settings: TrainingSettings, tokenizer: SubwordTokenizer):
        super().__init__()
        self.sources, self.references = read_pairs(*settings.validation_files())
        self.tokenizer = tokenizer
        self.max_source_tokens = settings.max_source_tokens

    def on_train_begin(self, logs=None):
        self.translator = Translator(
            self.model, self.tokenizer, beam_size=1, max_source_tokens=self.max_source_tokens
        )

    def on_epoch_end(self, epoch, logs=None):
        hypotheses = self.translator(self.sources)
        if logs is not None:
            logs["val_bleu"] = score(hypotheses, self.references, tokenized=False).bleu
