"""What every choice of devices offers a training, and how workers talk to each other.

Whatever the devices, an update is made from the same batch: n devices take equal shares of its
rows, and the result is that of one device, up to the order of summation.

With several machines, each runs the same command: one worker process per machine. All workers take
the same steps at the same time. One of them is the chief: it alone prints and writes the run
folder, which all must be able to read.
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
        data: What Keras takes as `x`.
        steps: The number of batches per epoch; None if the data itself ends.
    """

    data: Any
    steps: int | None


class Devices:
    """One device of TensorFlow; others override what they do differently.

    Attributes:
        is_chief: Whether this process prints and writes.
        chief_can_search: Whether it can translate with the model while other workers wait.
    """

    is_chief = True
    chief_can_search = True

    def scope(self) -> contextlib.AbstractContextManager:
        """The context for making the model and its optimizer."""
        return contextlib.nullcontext()

    def apart(self) -> contextlib.AbstractContextManager:
        """The context for making Keras objects in one worker only, as saving does."""
        return contextlib.nullcontext()

    def equip(self, model: "keras.Model") -> None:
        """Prepares a compiled model for `fit` on these devices. Call it within the scope."""

    def check(self, settings: TrainingSettings) -> None:
        """Raises InputError if these devices cannot train with the settings."""

    def compiles(self, settings: TrainingSettings) -> bool:
        """Whether XLA compiles the update."""
        import tensorflow as tf

        if settings.xla is not None:
            return settings.xla
        return bool(tf.config.list_physical_devices("GPU"))

    def started(self, model: "keras.Model") -> None:
        """Call it once, when the model's variables have the values that training starts from."""

    def training_feed(self, epochs: "Epochs", epoch: int = 0, batch: int = 0) -> Feed:
        """The batches from some point on.

        Args:
            epochs: The whole batches.
            epoch: The first epoch, from 0.
            batch: The number of its batches that are done. Unless it is 0, the feed serves for the
                rest of this epoch only.
        """
        return Feed(epochs.dataset(epoch, batch), None)

    def validation_feed(self, epochs: "Epochs") -> Feed:
        """The batches of the first epoch, the same ones each time."""
        return Feed(epochs.dataset(), None)

    def from_chief(self, value: Any) -> Any:
        """The chief's value, in all workers; each waits until all have reached this call.

        Args:
            value: Anything that JSON can hold; the other workers' values are ignored.
        """
        return value

    def someone_wants(self, wanted: bool) -> bool:
        """Whether any worker wants something; all get the same answer if all ask equally often.

        With several workers it answers the previous question, so that nobody waits.
        """
        return wanted

    @contextlib.contextmanager
    def losses_named(self) -> Iterator[None]:
        """Raises InputError in place of the errors that the loss of a worker causes."""
        yield


class Workers(Devices):
    """Devices that share batches, in one worker or several.

    Workers talk by summing arrays of numbers over all of them.

    Attributes:
        num_workers: The number of workers.
        num_shares: The number of shares of a batch, one for each device of all workers.
        shares: The numbers of this worker's shares, from 0.
    """

    num_workers: int
    num_shares: int
    shares: Sequence[int]

    def __init__(self):
        self._asked = None

    def in_words(self) -> str:
        """The number of devices and of workers."""
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
        """This worker's shares of the batch of each step.

        Args:
            epochs: Knows whether batches have weights.
            batch_of_step: Given the number of a step, from 0, returns the whole batch.
            num_steps: The number of steps; None if they do not end.
        """
        raise NotImplementedError

    def _sum_over_workers(self, numbers: np.ndarray) -> Any:
        """The sum of Float32 (length,), which NumPy can read; it need not be computed yet."""
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
    """Lets signals end the process at once, for a block that never runs Python's handlers."""
    return handling_signals(signal.SIG_DFL, signal.SIGINT, signal.SIGTERM)


def lost_worker(error: Exception) -> InputError:
    """The error to raise when a worker is lost; `error` is how the loss showed."""
    lines = (line.strip() for line in str(error).splitlines())
    detail = next((line for line in lines if line and not line.endswith(":")), "")
    return InputError(
        "All workers must run until the training ends. Received: a worker was lost"
        f" ({type(error).__name__}: {detail[:100]}). Run the same command on all workers again to"
        " resume."
    )
