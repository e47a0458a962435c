"""The models that the Transformer replaced, with the Transformer's inputs and outputs.

    recurrence.py        GRU and LSTM over all positions, with their gradients
    recurrent.py         recurrent encoder-decoders, without and with attention
    convolutional.py     an encoder-decoder of gated convolutions
    encoder_decoder.py   the base classes of all these models

Importing this package registers the classes, so that `Translator.load` can read runs of these
models and search with them.
"""

from training.baselines.convolutional import Convolutional, build_convolutional
from training.baselines.recurrent import Recurrent, RecurrentWithAttention, build_recurrent

__all__ = [
    "Convolutional",
    "Recurrent",
    "RecurrentWithAttention",
    "build_convolutional",
    "build_recurrent",
]
