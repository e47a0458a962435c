"""Training with JAX, on several devices with `keras.distribution`."""

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
from training.devices.base import Feed, Workers, heard_by_the_system, lost_worker
from training.devices.opening import Strategy
from training.devices.real_rows import weigh_real_rows
from training.settings import TrainingSettings

_SECONDS_TO_LEAVE_TOGETHER = 5


class JaxDevices(Workers):
    """Arrays that span devices: the batch by its rows, the model as a copy on each.

    Args:
        devices: All devices of all workers; of one device alone, JAX takes its first.
    """

    def __init__(self, devices: list):
        super().__init__()
        self.is_chief = jax.process_index() == 0
        self.num_workers = jax.process_count()
        self.num_shares = len(devices)
        self.chief_can_search = self.num_shares == 1
        self.shares = [
            share
            for share, device in enumerate(devices)
            if device.process_index == jax.process_index()
        ]
        self._sum = None
        if len(devices) > 1:
            names = [f"{device.platform}:{device.id}" for device in devices]
            distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
            keras.distribution.set_distribution(distribution)
            mesh = distribution.device_mesh.backend_mesh
            self._by_rows = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
            self._sum = jax.jit(
                lambda rows: rows.sum(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec())
            )

    @classmethod
    def of(cls, strategy: Strategy) -> "JaxDevices":
        """The devices of a strategy; of "multi_worker" when the team has gathered."""
        if strategy == "multi_worker":
            with heard_by_the_system():
                keras.distribution.initialize()
        return cls(jax.devices()[:1] if strategy == "one_device" else jax.devices())

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        # With a distribution, to make a variable is something that all workers do together.
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
                " search alone. Received: validation_bleu=true. Judge epochs by val_perplexity, or"
                " choose --strategy one_device or --backend tensorflow."
            )

    def equip(self, model: keras.Model) -> None:
        if self.num_shares > 1:
            weigh_real_rows(model)

    def compiles(self, settings: TrainingSettings) -> bool:
        return settings.xla is not False  # JAX is slow without

    def training_feed(self, epochs: Epochs, epoch: int = 0, batch: int = 0) -> Feed:
        first = epoch * len(epochs) + batch

        def batch_of_step(step):
            return epochs.batch(*divmod(first + step, len(epochs)))

        return Feed(_Steps(self._own_rows(batch_of_step), None), len(epochs) - batch)

    def validation_feed(self, epochs: Epochs) -> Feed:
        def batch_of_step(step):
            return epochs.batch(0, step)

        return Feed(_Steps(self._own_rows(batch_of_step), len(epochs)), len(epochs))

    def from_chief(self, value):
        return value if self.num_workers == 1 else super().from_chief(value)

    def someone_wants(self, wanted: bool) -> bool:
        return wanted if self.num_workers == 1 else super().someone_wants(wanted)

    def sum_over_workers(self, numbers: np.ndarray) -> jax.Array:
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

    def _own_rows(self, batch_of_step: Callable[[int], tuple]) -> Callable[[int], tuple]:
        """A step's batch -> the rows of it that this process feeds."""

        def own_rows(step):
            batch = batch_of_step(step)
            shares = [share_of(batch, share, self.num_shares) for share in self.shares]
            inputs = {
                name: np.concatenate([share[name] for share, *_ in shares]) for name in batch[0]
            }
            others = zip(*(others for _, *others in shares), strict=True)
            return inputs, *map(np.concatenate, others)

        return own_rows


class _Steps(keras.utils.PyDataset):
    """Batches by number.

    Args:
        batch_of_step: Given a number from 0, returns the batch.
        num_batches: How many there are; None where there is no end.
    """

    def __init__(self, batch_of_step: Callable[[int], tuple], num_batches: int | None):
        super().__init__()
        self._batch_of_step, self._num_batches = batch_of_step, num_batches

    @property
    def num_batches(self) -> int | None:
        return self._num_batches

    def __getitem__(self, index: int) -> tuple:
        return self._batch_of_step(index)


# At exit, JAX waits minutes for all workers, even for those that are lost or wait for this one.
# These two leave before that.


def _leave_soon() -> None:
    """Leaves in order if the others do so at the same time, because of the same fault."""
    shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(_SECONDS_TO_LEAVE_TOGETHER)
    _leave_at_once()


def _leave_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
