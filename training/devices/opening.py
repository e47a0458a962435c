"""Opens the devices that a command asks for. Only this module imports a backend's devices."""

import contextlib
from collections.abc import Iterator
from typing import Literal

from training.command_line.running import import_keras, import_tensorflow
from training.devices.base import Devices
from training.devices.team import Team

Strategy = Literal["one_device", "mirrored", "multi_worker"]


def leave_devices_to_children() -> None:
    """Keeps this process off the GPUs, whose memory TensorFlow or JAX takes at first use.

    Use this in a process that only starts child processes to train. Call it before any other use of
    the Keras backend.
    """
    import_keras()
    import keras

    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_platforms", "cpu")
        return
    import_tensorflow()
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # the caller has already used TensorFlow
        tf.config.set_visible_devices([], "GPU")


@contextlib.contextmanager
def open_devices(strategy: Strategy, team: Team | None = None) -> Iterator[Devices]:
    """Opens the devices to train on. Call this before any other use of the Keras backend.

    Args:
        strategy: "one_device", "mirrored" for all devices of this machine, or "multi_worker" for
            the devices of all machines that run this command.
        team: The workers, which must have gathered; only for "multi_worker".

    Raises:
        InputError: If the workers cannot reach each other, or a worker is lost.
    """
    devices = _devices(strategy, team)
    with devices.losses_named():
        yield devices


def _devices(strategy: Strategy, team: Team | None) -> Devices:
    import_keras()
    import keras

    if keras.backend.backend() == "jax":
        from training.devices.jax_devices import JaxDevices, join_workers

        if strategy == "multi_worker":
            join_workers()
        return JaxDevices(one_device=strategy == "one_device")
    if strategy == "one_device":
        return Devices()
    import_tensorflow()
    from training.devices.tensorflow_devices import Replicas

    return Replicas.of_this_machine() if strategy == "mirrored" else Replicas.of_workers(team)
