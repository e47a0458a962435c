"""The systems that the Transformer replaced, with its inputs, outputs, search and commands.

    recurrence.py      GRU and LSTM over all positions, with their gradients
    recurrent.py       encoder-decoders of them, without and with attention
    convolutional.py   an encoder-decoder of gated convolutions

Importing this registers their classes: a model of theirs is then read from a file, by
`Translator.load` too, and driven by the same search.
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
