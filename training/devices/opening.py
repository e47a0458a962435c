"""Opens the devices of a training."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from training.command_line.running import import_keras, import_tensorflow
from training.devices.base import Devices
from training.devices.team import Team

if TYPE_CHECKING:
    pass


Strategy = Literal["one_device", "mirrored", "multi_worker"]


def leave_devices_to_children() -> None:
    """Keeps this process off the GPUs, whose memory TensorFlow or JAX would take at first use.

    For one that only starts others which train. It comes before any other use of the Keras backend.
    """
    import_keras()
    import keras

    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_platforms", "cpu")
        return
    import_tensorflow()
    import tensorflow as tf

    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        return  # in use already, by what called us


@contextlib.contextmanager
def open_devices(strategy: Strategy, team: Team | None = None) -> Iterator[Devices]:
    """The devices of a training. It comes before any other use of the Keras backend.

    Args:
        strategy: "one_device"; "mirrored" for all devices of this machine; "multi_worker" for
            those of all machines that run this command.
        team: The workers of "multi_worker", which have gathered.

    Raises:
        InputError: If workers cannot reach each other, or one is lost.
    """
    devices = _devices(strategy, team)
    with devices.losses_named():
        yield devices


def _devices(strategy: Strategy, team: Team | None) -> Devices:
    import_keras()
    import keras

    if keras.backend.backend() == "jax":
        from training.devices.jax_devices import JaxDevices

        return JaxDevices.of(strategy)
    if strategy == "one_device":
        return Devices()
    import_tensorflow()
    from training.devices.tensorflow_devices import Replicas

    return Replicas.of(strategy, team)
