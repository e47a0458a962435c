"""Where a training runs: one device, all devices of a machine, or those of several machines.

Whatever runs it, an update is made from the same batch. n devices get an equal share of its rows
each, and the result is that of one device up to the order in which numbers are summed.

With several machines, each runs the same command: one worker process a machine. All workers go
through the same steps at the same time. One of them is the chief: it alone prints and writes the
run folder, which all must be able to read.
"""

import contextlib
import json
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_transformer.wording import counted
from training.command_line.errors import InputError
from training.command_line.running import handling_signals
from training.settings import TrainingSettings

if TYPE_CHECKING:
    import keras

    from keras_transformer.data import Epochs


class Feed(NamedTuple):
    """What `fit` and `evaluate` are given.

    Attributes:
        data: What Keras takes as `x`.
        steps: How many batches of it an epoch has; None where the data itself ends.
    """

    data: Any
    steps: int | None


class Devices:
    """One device, and what is the same for all: the part of a training that knows the devices.

    Attributes:
        is_chief: Whether this process prints and writes.
        chief_can_search: Whether it can translate with the model, while other workers wait.
    """

    is_chief = True
    chief_can_search = True

    def scope(self) -> contextlib.AbstractContextManager:
        """In which the model and its optimizer are made."""
        return contextlib.nullcontext()

    def apart(self) -> contextlib.AbstractContextManager:
        """In which a worker makes Keras objects that the others do not make, as saving does."""
        return contextlib.nullcontext()

    def equip(self, model: "keras.Model") -> None:
        """Hands a compiled model what `fit` needs on these devices. Called within the scope."""

    def check(self, settings: TrainingSettings) -> None:
        """Refuses settings that cannot be on these devices.

        Raises:
            InputError: If there is one.
        """

    def compiles(self, settings: TrainingSettings) -> bool:
        """Whether XLA compiles the update."""
        import tensorflow as tf

        if settings.xla is not None:
            return settings.xla
        return bool(tf.config.list_physical_devices("GPU"))

    def started(self, model: "keras.Model") -> None:
        """Is called once, when the model's variables have the values that training begins with."""

    def training_feed(self, epochs: "Epochs", epoch: int = 0, batch: int = 0) -> Feed:
        """The batches of an epoch and of all that follow it, or, if it is begun, of its rest.

        Args:
            epochs: The whole batches.
            epoch: The first epoch, from 0.
            batch: How many of its batches are done. If any, only the rest of that epoch is fed.
        """
        return Feed(epochs.dataset(epoch, batch), None)

    def validation_feed(self, epochs: "Epochs") -> Feed:
        """The batches of the first epoch, the same ones each time."""
        return Feed(epochs.dataset(), None)

    def from_chief(self, value: Any) -> Any:
        """The chief's value, in all workers; each waits until all have come to this point.

        Args:
            value: What JSON can hold; what the other workers pass does not matter.
        """
        return value

    def someone_wants(self, wanted: bool) -> bool:
        """Whether a worker wants something. All get the same answer, if all ask equally often.

        With several workers it is the answer to the question before, so that nobody waits.
        """
        return wanted

    @contextlib.contextmanager
    def losses_named(self) -> Iterator[None]:
        """Turns the errors by which the loss of a worker shows into one that says so.

        Raises:
            InputError: If a worker was lost.
        """
        yield


class Workers(Devices):
    """What workers say to each other, by means of sums of numbers over all of them.

    Attributes:
        num_workers: How many there are.
        num_shares: In how many shares all their devices divide a batch.
    """

    num_workers = num_shares = 1

    def __init__(self):
        self._asked = None

    def in_words(self) -> str:
        """How many devices there are, of how many workers."""
        words = counted(self.num_shares, "device")
        return words if self.num_workers == 1 else f"{words} of {self.num_workers} workers"

    def sum_over_workers(self, numbers: np.ndarray) -> Any:
        """The sum of an array over the workers.

        Args:
            numbers: Float32 (length,), equally long in all workers.

        Returns:
            What NumPy can make Float32 (length,) of, if possible before it is known.
        """
        raise NotImplementedError

    def from_chief(self, value: Any) -> Any:
        content = json.dumps(value).encode() if self.is_chief else b""
        length = int(np.asarray(self.sum_over_workers(np.array([len(content)], "float32")))[0])
        numbers = np.zeros(length, "float32")  # a byte each: few kinds of devices sum bytes
        numbers[: len(content)] = np.frombuffer(content, "uint8")
        numbers = np.asarray(self.sum_over_workers(numbers))
        return json.loads(numbers.astype("uint8").tobytes())

    def someone_wants(self, wanted: bool) -> bool:
        earlier = self._asked
        self._asked = self.sum_over_workers(np.array([wanted], "float32"))
        return earlier is not None and bool(np.asarray(earlier)[0])


def heard_by_the_system() -> contextlib.AbstractContextManager:
    """Lets signals end the process at once, for a block in which Python's handlers never run."""
    return handling_signals(signal.SIG_DFL, signal.SIGINT, signal.SIGTERM)


def lost_worker(error: Exception) -> InputError:
    """The error of a training that has lost a worker; `error` is how it showed."""
    lines = (line.strip() for line in str(error).splitlines())
    detail = next((line for line in lines if line and not line.endswith(":")), "")
    return InputError(
        "All workers must run until the training ends. Received: a worker was lost"
        f" ({type(error).__name__}: {detail[:100]}). Run the same command on all workers again to"
        " resume."
    )
