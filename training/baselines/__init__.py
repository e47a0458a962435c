"""The models that the Transformer replaced, with its inputs and outputs; not how they are trained.

    recurrence.py        GRU and LSTM over all positions, with their gradients
    recurrent.py         encoder-decoders of them, without and with attention
    convolutional.py     an encoder-decoder of gated convolutions
    encoder_decoder.py   what these share

Importing this package registers their classes, so that `Translator.load` can read a run of theirs
and search with it.
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
