"""Several devices to train on with TensorFlow, through `tf.distribute`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_transformer.data import Epochs
from keras_transformer.data.epochs import without_tuning
from keras_transformer.data.shares import share_of
from training.command_line.errors import InputError
from training.devices.base import Workers, default_signals, lost_worker
from training.devices.real_rows import weigh_real_rows
from training.devices.team import Team, cannot_listen
from training.runs.checkpoints import random_states
from training.settings import TrainingSettings

# The errors that a sum over workers raises in the other workers when one is lost.
_LOSSES = (
    tf.errors.UnavailableError,
    tf.errors.InternalError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)

# A worker that is silent for longer counts as lost.
_SECONDS_OF_SILENCE = 30

# Counted from when all workers have met, so it must be enough for the slowest to load TensorFlow.
_SECONDS_TO_CONNECT = 300

# The difference between the seeds of two replicas, so that each draws its own dropout.
_SEED_STEP = 1_000_003


class Replicas(Workers):
    """A copy of the model on each device.

    Args:
        strategy: The TensorFlow strategy that keeps the copies equal.
        worker: The number of this worker, from 0.
    """

    def __init__(self, strategy: tf.distribute.Strategy, worker: int = 0):
        super().__init__()
        self.strategy = strategy
        self.is_chief = worker == 0
        self.num_shares = strategy.num_replicas_in_sync
        num_own = len(strategy.extended.worker_devices)
        self.num_workers = self.num_shares // num_own
        self.shares = range(worker * num_own, (worker + 1) * num_own)
        self._sum = tf.function(self._sum_over_replicas, autograph=False, reduce_retracing=True)

    @classmethod
    def of_this_machine(cls) -> "Replicas":
        """Makes one replica per GPU or, without GPUs, per logical device of the CPU."""
        for kind in ("GPU", "CPU"):
            if devices := tf.config.list_logical_devices(kind):
                names = [f"{kind}:{number}" for number in range(len(devices))]
                return cls(tf.distribute.MirroredStrategy(names))
        return cls(tf.distribute.MirroredStrategy())

    @classmethod
    def of_workers(cls, team: Team) -> "Replicas":
        """Makes the replicas of all workers of a team, which must have gathered.

        Raises:
            InputError: If this worker cannot listen at its address, or another worker has gone.
        """
        _bear_with_slow_workers(len(team.addresses))
        try:
            with default_signals():
                return cls(tf.distribute.MultiWorkerMirroredStrategy(), team.worker)
        except tf.errors.DeadlineExceededError as error:
            raise lost_worker(error) from error
        except tf.errors.OpError as error:
            raise cannot_listen(team.addresses[team.worker], error) from error

    def scope(self) -> contextlib.AbstractContextManager:
        return self.strategy.scope()

    def equip(self, model: keras.Model) -> None:
        """Gives the model training and test steps over all replicas.

        Keras' own steps fail with several workers (keras-team/keras#20585): they average a
        structure that holds dictionaries to infer shapes, and average scalars over an axis. This
        sets only attributes of this object, so `save` writes an ordinary model.
        """
        weigh_real_rows(model)
        # This builds the metrics and the loss, for which the shape of the batch does not matter.
        ids = np.zeros((1, 2), "int32")
        model._symbolic_build(data_batch=({"source_ids": ids, "target_ids": ids}, ids))
        steps = {
            "_maybe_symbolic_build": lambda iterator=None, data_batch=None: None,
            "train_function": self._over_replicas(model.train_step),
            "make_train_function": lambda force=False: None,
            "test_function": self._over_replicas(model.test_step),
            "make_test_function": lambda force=False: None,
        }
        for name, step in steps.items():
            object.__setattr__(model, name, step)

    def compiles(self, settings: TrainingSettings) -> bool:
        return False

    def check(self, settings: TrainingSettings) -> None:
        if settings.xla:
            raise InputError(
                "xla must not be true on several devices with TensorFlow. Received: xla=true. Leave"
                " out xla, or choose --backend jax."
            )

    def started(self, model: keras.Model) -> None:
        """Gives each replica its own random states, derived from those of checkpoints."""
        for variable in random_states(model):
            copies = self.strategy.experimental_local_results(variable.value)
            seed, counter = copies[0].numpy()
            for share, copy in zip(self.shares, copies, strict=True):
                copy.assign(np.array([seed + share * _SEED_STEP, counter]))

    def _sum_over_workers(self, numbers: np.ndarray) -> Any:
        def value(context):
            is_first_of_worker = context.replica_id_in_sync_group == self.shares[0]
            return tf.constant(numbers if is_first_of_worker else np.zeros_like(numbers))

        values = self.strategy.experimental_distribute_values_from_function(value)
        return self._sum(values)

    @contextlib.contextmanager
    def losses_named(self) -> Iterator[None]:
        try:
            yield
        except _LOSSES as error:
            if self.num_workers == 1:
                raise
            raise lost_worker(error) from error

    def _sum_over_replicas(self, values):
        def summed(numbers):
            replica = tf.distribute.get_replica_context()
            # identity moves the numbers to the replica's device.
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(numbers))

        return self._one_of(self.strategy.run(summed, args=(values,)))

    def _over_replicas(self, step: Callable) -> Callable:
        """Wraps Keras' step as a function of an iterator, with the same logs in all workers."""

        def step_of_replica(data):
            logs = step(data)
            replica = tf.distribute.get_replica_context()
            means = replica.all_reduce(tf.distribute.ReduceOp.MEAN, tf.stack([*logs.values()]))
            return dict(zip(logs, tf.unstack(means, num=len(logs)), strict=True))

        def step_of_all(iterator):
            logs = self.strategy.run(step_of_replica, args=(iterator.get_next(),))
            return {name: self._one_of(values) for name, values in logs.items()}

        return tf.function(step_of_all, autograph=False)

    def _one_of(self, values):
        """Returns one replica's value of a result that is equal on all replicas."""
        return self.strategy.experimental_local_results(values)[0]

    def _data(self, epochs: Epochs, batch_of_step: Callable, num_steps: int | None = None):
        """Returns an endless dataset of single shares, which the replicas take in turn."""
        types = [tf.int32] * 3 + [tf.float32] * epochs.has_weights

        def own_shares(step):
            batch = batch_of_step(int(step))
            shares = [share_of(batch, share, self.num_shares) for share in self.shares]
            stacked = keras.tree.map_structure(lambda *share: np.stack(share), *shares)
            return keras.tree.flatten(stacked)  # (shares, rows, length) each

        def read(step):
            arrays = tf.numpy_function(own_shares, [step], types)
            source_ids, target_ids, labels, *weights = arrays
            for ids in (source_ids, target_ids, labels):
                ids.set_shape((None, None, None))
            for weight in weights:
                weight.set_shape((None, None))
            return {"source_ids": source_ids, "target_ids": target_ids}, labels, *weights

        # With finite data, workers would ask each other before each step whether it has ended.
        steps = tf.data.Dataset.counter()
        return self.strategy.distribute_datasets_from_function(
            lambda _: without_tuning(steps.map(read).prefetch(2).unbatch())
        )


def _bear_with_slow_workers(num_workers: int) -> None:
    """Sets how long workers may be silent before they count as lost.

    TensorFlow's default of 10 seconds is too short on a busy machine.
    """
    from tensorflow.python.eager import context  # no public function does this

    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=_SECONDS_TO_CONNECT * 1000,
        heartbeat_timeout_in_ms=_SECONDS_OF_SILENCE * 1000,
    )
    jobs = context.context().coordination_service.coordinated_job_list
    jobs.add(name="worker", num_tasks=num_workers)
