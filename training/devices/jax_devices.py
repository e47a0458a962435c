"""The devices to train on with JAX: one device, or several with `keras.distribution`."""

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import keras
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from keras_transformer.data import Epochs
from keras_transformer.data.shares import share_of
from training.command_line.errors import InputError
from training.devices.base import Workers, default_signals, lost_worker
from training.devices.real_rows import weigh_real_rows
from training.settings import TrainingSettings

_SECONDS_TO_LEAVE_TOGETHER = 5


def join_workers() -> None:
    """Joins the workers that the environment names, after all of them have gathered."""
    with default_signals():
        keras.distribution.initialize()


class JaxDevices(Workers):
    """JAX devices, which share the rows of each batch and hold a copy of the model each.

    Args:
        one_device: Whether to use one device instead of all devices of all workers.
    """

    def __init__(self, one_device: bool):
        super().__init__()
        devices = jax.devices()[:1] if one_device else jax.devices()
        self.is_chief = jax.process_index() == 0
        self.num_workers = jax.process_count()
        self.num_shares = len(devices)
        self.chief_can_search = self.num_shares == 1
        self.shares = [
            share
            for share, device in enumerate(devices)
            if device.process_index == jax.process_index()
        ]
        if self.num_shares > 1:
            names = [f"{device.platform}:{device.id}" for device in devices]
            distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
            keras.distribution.set_distribution(distribution)
            mesh = distribution.device_mesh.backend_mesh
            self._by_rows = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
            self._sum = jax.jit(
                lambda rows: rows.sum(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec())
            )

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        # With a distribution, all workers must make a variable together.
        distribution = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(distribution)

    def check(self, settings: TrainingSettings) -> None:
        if settings.validation_bleu and not self.chief_can_search:
            raise InputError(
                "validation_bleu must be false on several devices with JAX, where one worker cannot"
                " translate alone. Received: validation_bleu=true. Judge epochs by val_perplexity,"
                " or choose --strategy one_device or --backend tensorflow."
            )

    def equip(self, model: keras.Model) -> None:
        if self.num_shares > 1:
            weigh_real_rows(model)

    def compiles(self, settings: TrainingSettings) -> bool:
        return settings.xla is not False  # JAX is slow without XLA

    def _data(self, epochs: Epochs, batch_of_step: Callable, num_steps: int | None = None):
        def own_rows(step):
            batch = batch_of_step(step)
            shares = [share_of(batch, share, self.num_shares) for share in self.shares]
            return keras.tree.map_structure(lambda *rows: np.concatenate(rows), *shares)

        return _Steps(own_rows, num_steps)

    def _sum_over_workers(self, numbers: np.ndarray) -> jax.Array:
        rows = np.zeros((len(self.shares), len(numbers)), "float32")
        rows[0] = numbers
        return self._sum(jax.make_array_from_process_local_data(self._by_rows, rows))

    @contextlib.contextmanager
    def losses_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self.num_workers == 1:
                raise
            if not isinstance(error, jax.errors.JaxRuntimeError):
                atexit.register(_leave_soon)
                raise
            atexit.register(_leave_at_once)
            raise lost_worker(error) from error


class _Steps(keras.utils.PyDataset):
    """A sequence of one batch per step; endless if `num_steps` is None."""

    def __init__(self, batch_of_step: Callable[[int], tuple], num_steps: int | None):
        super().__init__()
        self._batch_of_step, self._num_steps = batch_of_step, num_steps

    @property
    def num_batches(self) -> int | None:
        return self._num_steps

    def __getitem__(self, index: int) -> tuple:
        return self._batch_of_step(index)


# At exit, JAX waits for minutes for all workers, even for lost ones and for those that wait for
# this one. The next two functions leave earlier.


def _leave_soon() -> None:
    """Shuts JAX down cleanly if the other workers do so, too, because of the same error."""
    shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(_SECONDS_TO_LEAVE_TOGETHER)
    _leave_at_once()


def _leave_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
