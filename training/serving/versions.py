"""Which versions of a model are served: finds them in a folder, loads, watches and retires them.

As TensorFlow Serving does it: the newest versions, all, or named ones; a new one is loaded and
warmed up before an old one goes, and the old one ends the requests that it has. A version that
can't be loaded is reported and the older one goes on.

All but the loading happens in the thread of the event loop.
"""

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.serving.errors import ServingError, invalid, of_tensorflow
from training.serving.saved_model import LoadedVersion, load_version

LARGEST = 2**63 - 1  # a version is an int64


@dataclass(frozen=True)
class Policy:
    """Which of the versions that are there shall be served.

    Attributes:
        newest: So many, the highest numbers. None for all.
        named: These alone, whatever `newest` says.
    """

    newest: int | None = 1
    named: frozenset[int] = frozenset()

    def choose(self, there: set[int]) -> list[int]:
        """The versions to serve, in ascending order."""
        if self.named:
            return sorted(there & self.named)
        ascending = sorted(there)
        return ascending if self.newest is None else ascending[-self.newest :]


@dataclass(frozen=True)
class Status:
    """What can be told of a version.

    Attributes:
        state: START, LOADING, AVAILABLE, UNLOADING or END.
        code: OK, or why it could not be loaded.
        message: The same in words.
    """

    state: str
    code: str = "OK"
    message: str = ""


class Versions:
    """The versions of one model.

    Args:
        folder: saved_models/NAME.
        name: What the model is called in requests.
        policy: Which versions to serve.
        labels: Names for versions, as in {"stable": 1}.
        tell: Called with one line when a version comes, goes or can't be loaded.
        load: From a folder and a number to a loaded version.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        name: str,
        policy: Policy = Policy(),
        labels: dict[str, int] | None = None,
        tell: Callable[[str], None] = lambda line: None,
        load: Callable[[Path, int], LoadedVersion] = load_version,
    ):
        self.folder = Path(folder)
        self.name = name
        self.statuses = {}  # number -> Status, of all that were ever seen
        self._policy = policy
        self._labels = labels or {}
        self._tell = tell
        self._load = load
        self._loaded = {}  # number -> LoadedVersion, those that answer
        self._failed = {}  # number -> what its folder held when it could not be loaded
        self._retiring = {}  # number -> the task that ends it
        self._announced = set()  # what has been said to be loaded, and is not yet

    @property
    def available(self) -> list[int]:
        """The versions that answer requests, in ascending order."""
        return sorted(self._loaded)

    def numbers(self, number: int | None, label: str | None) -> list[int]:
        """The versions that a question for their state is about.

        Raises:
            ServingError: If there is none.
        """
        if label is not None:
            number = self._labelled(label)
        if number is None:
            if not self.statuses:
                raise self._not_found(f"Could not find any versions of model {self.name}")
            return sorted(self.statuses, reverse=True)
        if number not in self.statuses:
            raise self._not_found(f"Could not find version {number} of model {self.name}")
        return [number]

    @contextlib.contextmanager
    def use(self, number: int | None, label: str | None) -> Iterator[LoadedVersion]:
        """A version that answers, which is kept until the block ends.

        Args:
            number: Which; None for the newest.
            label: Which, by its label.

        Raises:
            ServingError: If it is not there.
        """
        if label is not None:
            number = self._labelled(label)
        if number is None and self._loaded:
            number = max(self._loaded)
        if number not in self._loaded:
            asked = f"Latest({self.name})" if number is None else f"Specific({self.name}, {number})"
            raise self._not_found(f"Servable not found for request: {asked}")
        version = self._loaded[number]
        version.num_running += 1
        try:
            yield version
        finally:
            version.num_running -= 1

    def announce(self) -> list[int]:
        """Says what `refresh` is about to load, for whoever has seconds of work before that.

        Returns:
            The numbers of these versions.
        """
        there = set()
        with contextlib.suppress(OSError):
            there = set(find_versions(self.folder))
        wanted = self._policy.choose(there)
        for number in wanted:
            self._tell_of_loading(number)
        return wanted

    async def watch(self, poll_seconds: float) -> None:
        """Follows what happens in the folder, for ever."""
        while True:
            await asyncio.sleep(poll_seconds)
            await self.refresh()

    async def refresh(self) -> None:
        """Loads what is new and should be served, then retires what should not be any more."""
        try:
            there = find_versions(self.folder)
        except OSError:
            return  # the folder itself is gone, or unreadable for now: what is served stays
        wanted = self._policy.choose(set(there))
        for number in wanted:
            if number not in self._loaded and number not in self._retiring:
                await self._bring(number, there[number])
        if not wanted or any(number in self._loaded for number in wanted):
            for number in set(self._loaded) - set(wanted):
                self._retire(number)
        for number in set(self._failed) - set(there):
            del self._failed[number]

    async def _bring(self, number: int, path: Path) -> None:
        """Loads a version, unless its folder is still as it was when that failed."""
        content = await asyncio.to_thread(_content, path)
        if self._failed.get(number) == content:
            return
        self.statuses[number] = Status("LOADING")
        self._tell_of_loading(number)
        self._announced.discard(number)
        start_seconds = time.monotonic()
        try:
            version = await asyncio.to_thread(self._load, path, number)
        except Exception as error:  # TensorFlow raises many kinds
            reason = of_tensorflow(error)
            self._failed[number] = content
            self.statuses[number] = Status("END", reason.code, reason.message)
            self._tell(f"version {number} could not be loaded: {reason.message}")
            return
        self._failed.pop(number, None)
        self._loaded[number] = version
        self.statuses[number] = Status("AVAILABLE")
        seconds = time.monotonic() - start_seconds
        self._tell(f"version {number} is available (loaded and warm after {seconds:.1f} s)")

    def _tell_of_loading(self, number: int) -> None:
        if number not in self._announced:
            self._tell(f"loading {self.folder} version {number} ...")
            self._announced.add(number)

    def _retire(self, number: int) -> None:
        version = self._loaded.pop(number)
        self.statuses[number] = Status("UNLOADING")
        self._retiring[number] = task = asyncio.create_task(self._end(version))
        task.add_done_callback(lambda _task: self._retiring.pop(number))

    async def _end(self, version: LoadedVersion) -> None:
        while version.num_running:
            await asyncio.sleep(0.05)
        self.statuses[version.number] = Status("END")
        number = version.number
        del version
        await asyncio.to_thread(gc.collect)  # TensorFlow's functions hold one another
        self._tell(f"version {number} has ended")

    def _labelled(self, label: str) -> int:
        if label not in self._labels:
            raise invalid(f"Unrecognized servable version label: {label}")
        return self._labels[label]

    def _not_found(self, message: str) -> ServingError:
        return ServingError("NOT_FOUND", message)


def find_versions(folder: Path) -> dict[int, Path]:
    """The versions in a folder: the folders in it whose names are numbers.

    Raises:
        OSError: If it is no folder that can be read.
    """
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name.isascii() and path.name.isdecimal() and path.is_dir():
            number = int(path.name)
            if number <= LARGEST:
                found[number] = path
    return found


def _content(path: Path) -> list[tuple]:
    """What tells whether a folder has changed: each file's name, size and time."""
    found = []
    for file in sorted(path.rglob("*")):
        with contextlib.suppress(OSError):  # goes away meanwhile
            state = file.stat()
            found.append((os.fspath(file), state.st_size, state.st_mtime_ns))
    return found
