"""The interface of devices to train on, and the communication between workers.

An update uses the same batch on any devices: n devices take equal shares of its rows, and the
result equals that of one device, up to the order of summation.

With several machines, each machine runs the same command in one worker process. All workers take
the same steps at the same time. One of them is the chief: only the chief prints and writes the run
folder, which all workers must be able to read.
"""

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from training.command_line.errors import InputError
from training.command_line.running import handling_signals
from training.settings import TrainingSettings

if TYPE_CHECKING:
    import keras

    from keras_transformer.data import Epochs


class Feed(NamedTuple):
    """The data for `fit` and `evaluate`.

    Attributes:
        data: The argument `x` of Keras.
        steps: The number of batches per epoch; None if the data itself ends after an epoch.
    """

    data: Any
    steps: int | None


class Devices:
    """One TensorFlow device, and the base class of all other devices.

    Attributes:
        is_chief: Whether this process prints and writes.
        chief_can_search: Whether the chief can translate while the other workers wait.
    """

    is_chief = True
    chief_can_search = True

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns the context in which to make the model and its optimizer."""
        return contextlib.nullcontext()

    def apart(self) -> contextlib.AbstractContextManager:
        """Returns the context in which one worker alone can make Keras objects, as saving does."""
        return contextlib.nullcontext()

    def equip(self, model: "keras.Model") -> None:
        """Prepares a compiled model for `fit` on these devices. Call this within `scope`."""

    def check(self, settings: TrainingSettings) -> None:
        """Raises InputError if these devices cannot train with the settings."""

    def compiles(self, settings: TrainingSettings) -> bool:
        """Returns whether XLA compiles the update."""
        import tensorflow as tf

        if settings.xla is not None:
            return settings.xla
        return bool(tf.config.list_physical_devices("GPU"))

    def started(self, model: "keras.Model") -> None:
        """Prepares training. Call this once, when the model's variables have their first values."""

    def training_feed(self, epochs: "Epochs", epoch: int = 0, batch: int = 0) -> Feed:
        """Returns the training batches from a given position on.

        Args:
            epochs: The whole batches.
            epoch: The first epoch, from 0.
            batch: The number of batches of that epoch to skip. Unless it is 0, the feed covers
                only the rest of that epoch.
        """
        return Feed(epochs.dataset(epoch, batch), None)

    def validation_feed(self, epochs: "Epochs") -> Feed:
        """Returns the batches of the first epoch, which are the same each time."""
        return Feed(epochs.dataset(), None)

    def from_chief(self, value: Any) -> Any:
        """Returns the chief's value in every worker, once all workers have made this call.

        Args:
            value: Anything that JSON can hold. The values of other workers are ignored.
        """
        return value

    def someone_wants(self, wanted: bool) -> bool:
        """Returns whether any worker passed True; all workers get the same answer.

        With several workers, the answer is to their previous call, so that none has to wait. All
        workers must call this equally often.
        """
        return wanted

    @contextlib.contextmanager
    def losses_named(self) -> Iterator[None]:
        """Replaces the errors that a lost worker causes with InputError."""
        yield


class Workers(Devices):
    """Devices that share each batch, in one or several workers.

    Workers communicate by summing arrays of numbers over all workers.

    Attributes:
        num_workers: The number of workers.
        num_shares: The number of shares of a batch: one per device, over all workers.
        shares: The indices of this worker's shares, from 0.
    """

    num_workers: int
    num_shares: int
    shares: Sequence[int]

    def __init__(self):
        self._asked = None

    def in_words(self) -> str:
        """Returns the numbers of devices and workers, in words."""
        devices = f"{self.num_shares} device{'s' * (self.num_shares != 1)}"
        return devices if self.num_workers == 1 else f"{devices} of {self.num_workers} workers"

    def training_feed(self, epochs: "Epochs", epoch: int = 0, batch: int = 0) -> Feed:
        first = epoch * len(epochs) + batch

        def batch_of_step(step):
            return epochs.batch(*divmod(first + step, len(epochs)))

        return Feed(self._data(epochs, batch_of_step), len(epochs) - batch)

    def validation_feed(self, epochs: "Epochs") -> Feed:
        def batch_of_step(step):
            return epochs.batch(0, step % len(epochs))

        return Feed(self._data(epochs, batch_of_step, len(epochs)), len(epochs))

    def _data(self, epochs: "Epochs", batch_of_step: Callable, num_steps: int | None = None) -> Any:
        """Returns data for Keras: this worker's shares of the batch of each step.

        Args:
            epochs: Tells whether batches have weights.
            batch_of_step: Returns the whole batch for the index of a step, from 0.
            num_steps: The number of steps; None for data without end.
        """
        raise NotImplementedError

    def _sum_over_workers(self, numbers: np.ndarray) -> Any:
        """Returns the sum over workers of `numbers`, Float32 (length,).

        NumPy can read the result, which need not be computed yet.
        """
        raise NotImplementedError

    def from_chief(self, value: Any) -> Any:
        if self.num_workers == 1:
            return value
        content = json.dumps(value).encode() if self.is_chief else b""
        length = int(np.asarray(self._sum_over_workers(np.array([len(content)], "float32")))[0])
        numbers = np.zeros(length, "float32")  # one per byte: few kinds of devices sum bytes
        numbers[: len(content)] = np.frombuffer(content, "uint8")
        numbers = np.asarray(self._sum_over_workers(numbers))
        return json.loads(numbers.astype("uint8").tobytes())

    def someone_wants(self, wanted: bool) -> bool:
        if self.num_workers == 1:
            return wanted
        earlier = self._asked
        self._asked = self._sum_over_workers(np.array([wanted], "float32"))
        return earlier is not None and bool(np.asarray(earlier)[0])


def default_signals() -> contextlib.AbstractContextManager:
    """Lets signals end the process at once, in a block where Python cannot run its handlers."""
    return handling_signals(signal.SIG_DFL, signal.SIGINT, signal.SIGTERM)


def lost_worker(error: Exception) -> InputError:
    """Returns the error to raise when a worker is lost; `error` is the backend's."""
    lines = (line.strip() for line in str(error).splitlines())
    detail = next((line for line in lines if line and not line.endswith(":")), "")
    return InputError(
        "All workers must run until the training ends. Received: a worker was lost"
        f" ({type(error).__name__}: {detail[:100]}). Run the same command on all workers again to"
        " resume."
    )
