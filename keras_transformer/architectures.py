"""The kinds of models that a run may hold: how each is built from the settings in config.yaml.

A run names its kind in the setting `model`. The library knows the Transformer; importing
`training.baselines` adds the others.
"""

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, NamedTuple

import keras

from keras_transformer.config import TransformerConfig
from keras_transformer.model import build_transformer

_LARGEST = 2**31 - 1
# A layer takes a tenth of a second to build, however small it is.
_MOST_LAYERS = 1000

# The settings that all kinds read, with their types.
SHARED_SETTINGS: dict[str, tuple[type, ...]] = {
    "vocabulary_size": (int,),
    "num_layers": (int,),
    "model_dim": (int,),
    "dropout": (float, int),
}


class Architecture(NamedTuple):
    """A kind of model.

    Attributes:
        settings: The settings that it reads, with their types. All but vocabulary_size may be
            missing from older runs; they then have their defaults.
        build: Builds the model from these settings.
        num_parameters: Computes the number of the model's parameters from these settings, in next
            to no time and memory.
    """

    settings: Mapping[str, tuple[type, ...]]
    build: Callable[..., keras.Model]
    num_parameters: Callable[..., int]

    def chosen(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns those of a run's settings that this kind reads.

        Raises:
            ValueError: If one has another type, or is out of range.
        """
        values = {name: settings[name] for name in self.settings if name in settings}
        if "vocabulary_size" not in values:
            raise ValueError("no vocabulary_size")
        for name, value in values.items():
            least = 0 if float in self.settings[name] else 1
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            most = _MOST_LAYERS if name.endswith("_layers") else _LARGEST
            is_in_range = not is_number or least <= value <= most
            if type(value) not in self.settings[name] or not is_in_range:
                raise ValueError(f"{name}={str(value)[:80]!r}")
        return values


_ARCHITECTURES: dict[str, Architecture] = {}


def register_architecture(name: str, architecture: Architecture) -> None:
    """Adds the kind of model that the setting `model` calls `name`."""
    _ARCHITECTURES[name] = architecture


def architecture_named(name: str) -> Architecture | None:
    """Returns a kind of model by its name; None if no imported package has added it."""
    return _ARCHITECTURES.get(name)


def transformer_parameters(config: TransformerConfig) -> int:
    """Returns the number of parameters of the model that `build_transformer` makes."""
    width, inner = config.model_dim, config.feed_forward_dim
    head_dim = config.head_dim or width // config.num_heads
    keys = config.num_heads * head_dim
    values = config.num_heads * (config.value_dim or head_dim)
    attention = (width + 1) * (2 * keys + values) + (values + 1) * width
    feed_forward = (width + 1) * inner + (inner + 1) * width
    normalization = 2 * width
    encoder_block = attention + feed_forward + 2 * normalization
    decoder_block = 2 * attention + feed_forward + 3 * normalization
    rows = config.vocabulary_size
    rows += config.max_positions if config.position_encoding == "learned" else 0
    if config.source_vocabulary_size is not None:
        rows += config.source_vocabulary_size
        rows += config.max_positions if config.position_encoding == "learned" else 0
    blocks = config.num_layers * encoder_block + config.decoder_layers * decoder_block
    last = 2 * normalization if config.normalize_first else 0
    return rows * width + blocks + last + (config.vocabulary_size if config.output_bias else 0)


register_architecture(
    "transformer",
    Architecture(
        settings={
            **SHARED_SETTINGS,
            "num_decoder_layers": (int, NoneType),
            "source_vocabulary_size": (int, NoneType),
            "output_bias": (bool,),
            "layer_norm_epsilon": (float,),
            "feed_forward_dim": (int,),
            "num_heads": (int,),
            "head_dim": (int, NoneType),
            "value_dim": (int, NoneType),
            "activation": (str,),
            "normalize_first": (bool,),
            "position_encoding": (str,),
            "max_positions": (int,),
            "max_source_tokens": (int,),
        },
        build=lambda **settings: build_transformer(TransformerConfig(**settings)),
        num_parameters=lambda **settings: transformer_parameters(TransformerConfig(**settings)),
    ),
)
