"""Says how the models that the Transformer replaced are built from a run's settings."""

import functools
from types import NoneType

from keras_transformer.architectures import SHARED_SETTINGS, Architecture, register_architecture
from training.baselines.convolutional import build_convolutional
from training.baselines.recurrence import CELLS
from training.baselines.recurrent import build_recurrent


def recurrent_parameters(
    *,
    cell: str,
    attention: bool,
    vocabulary_size: int,
    num_layers: int,
    model_dim: int,
    recurrent_dim: int | None = None,
    **_,
) -> int:
    """Returns the number of parameters of the model that `build_recurrent` makes."""
    width = recurrent_dim or model_dim
    half, states = width // 2, CELLS[cell].num_states

    def recurrence(inputs: int, units: int, context: int = 0) -> int:
        return CELLS[cell].num_gates * units * (inputs + context + units + 2)

    encoder = 2 * recurrence(model_dim, half) + (num_layers - 1) * 2 * recurrence(width, half)
    first_states = num_layers * (width + 1) * states * width
    decoder = recurrence(model_dim, width) + (num_layers - 1) * recurrence(width, width, width)
    attended = 4 * (width + 1) * width if attention else 0
    output = (2 * width + 1) * model_dim
    return vocabulary_size * model_dim + encoder + first_states + decoder + attended + output


def convolutional_parameters(
    *,
    vocabulary_size: int,
    num_layers: int,
    model_dim: int,
    kernel_size: int = 3,
    position_encoding: str = "sinusoidal",
    max_positions: int = 512,
    **_,
) -> int:
    """Returns the number of parameters of the model that `build_convolutional` makes."""
    rows = vocabulary_size + (max_positions if position_encoding == "learned" else 0)
    convolution = (kernel_size * model_dim + 1) * 2 * model_dim
    linear = (model_dim + 1) * model_dim
    return rows * model_dim + num_layers * (2 * convolution + 2 * linear) + linear


def register_all() -> None:
    """Adds the models to those that a run may hold."""
    for cell in CELLS:
        for attention in (False, True):
            name = f"{cell}_attention" if attention else cell
            options = {"cell": cell, "attention": attention}
            register_architecture(
                name,
                Architecture(
                    settings={**SHARED_SETTINGS, "recurrent_dim": (int, NoneType)},
                    build=functools.partial(build_recurrent, name=name, **options),
                    num_parameters=functools.partial(recurrent_parameters, **options),
                ),
            )
    register_architecture(
        "convolution",
        Architecture(
            settings={
                **SHARED_SETTINGS,
                "kernel_size": (int,),
                "position_encoding": (str,),
                "max_positions": (int,),
            },
            build=functools.partial(build_convolutional, name="convolution"),
            num_parameters=convolutional_parameters,
        ),
    )
