"""The models that the Transformer replaced, with the Transformer's inputs and outputs.

    recurrence.py        GRU and LSTM over all positions, with their gradients
    recurrent.py         recurrent encoder-decoders, without and with attention
    convolutional.py     an encoder-decoder of gated convolutions
    encoder_decoder.py   the base classes of all these models
    architectures.py     how these models are built from a run's settings

Importing this package registers the models, so that `Translator.load` can read their runs and
search with them.
"""

from training.baselines.architectures import register_all
from training.baselines.convolutional import Convolutional, build_convolutional
from training.baselines.recurrent import Recurrent, RecurrentWithAttention, build_recurrent

register_all()

__all__ = [
    "Convolutional",
    "Recurrent",
    "RecurrentWithAttention",
    "build_convolutional",
    "build_recurrent",
]
