"""Chooses the versions of a model to serve: finds, loads, watches and retires them.

It follows TensorFlow Serving: it serves the newest versions, all, or named ones. A new one is
loaded and warm before an old one goes, and the old one finishes its requests. If a version cannot
be loaded, that is reported and the older one stays.

Everything but the loading happens in the event loop's thread.
"""

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.serving.errors import invalid, not_found, of_tensorflow
from training.serving.saved_model import LoadedVersion, load_version

LARGEST = 2**63 - 1  # a version is an int64


@dataclass(frozen=True)
class Policy:
    """Which of the versions in the folder to serve.

    Attributes:
        newest: How many, from the highest number down; None for all.
        named: These only, whatever `newest` says.
    """

    newest: int | None = 1
    named: frozenset[int] = frozenset()

    def choose(self, there: set[int]) -> list[int]:
        """The versions to serve, in ascending order."""
        if self.named:
            return sorted(there & self.named)
        return sorted(there)[-self.newest if self.newest else 0 :]


@dataclass(frozen=True)
class Status:
    """The state of a version.

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
        name: The model's name in requests.
        policy: Which versions to serve.
        labels: Names for versions, as in {"stable": 1}.
        tell: Called with a line when a version comes, goes or cannot be loaded.
        load: Loads the version in a folder, given its number.
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
        self.statuses = {}  # number -> Status, of all versions ever seen
        self._policy = policy
        self._labels = labels or {}
        self._tell = tell
        self._load = load
        self._loaded = {}  # number -> LoadedVersion, those that answer
        self._failed = {}  # number -> its folder's content when it could not be loaded
        self._retiring = {}  # number -> the task that ends it
        self._announced = set()  # numbers whose loading was told but has not begun

    @property
    def available(self) -> list[int]:
        """The versions that answer requests, in ascending order."""
        return sorted(self._loaded)

    def numbers(self, number: int | None, label: str | None) -> list[int]:
        """The versions that a status request is about, newest first.

        Raises:
            ServingError: If there is none.
        """
        number = self._labelled(number, label)
        if number is None and not self.statuses:
            raise not_found(f"Could not find any versions of model {self.name}")
        if number is not None and number not in self.statuses:
            raise not_found(f"Could not find version {number} of model {self.name}")
        return sorted(self.statuses, reverse=True) if number is None else [number]

    @contextlib.contextmanager
    def use(self, number: int | None, label: str | None) -> Iterator[LoadedVersion]:
        """Yields a version, which is kept until the block ends.

        Args:
            number: Its number; None for the newest.
            label: Its label, which counts before its number.

        Raises:
            ServingError: If it is not there.
        """
        number = self._labelled(number, label)
        if number is None and self._loaded:
            number = max(self._loaded)
        if number not in self._loaded:
            asked = f"Latest({self.name})" if number is None else f"Specific({self.name}, {number})"
            raise not_found(f"Servable not found for request: {asked}")
        version = self._loaded[number]
        version.num_running += 1
        try:
            yield version
        finally:
            version.num_running -= 1

    def announce(self) -> list[int]:
        """Tells which versions `refresh` is about to load, and returns their numbers.

        For callers that need seconds until they can call `refresh`.
        """
        wanted = []
        with contextlib.suppress(OSError):
            wanted = self._policy.choose(set(find_versions(self.folder)))
        for number in wanted:
            self._tell_of_loading(number)
        return wanted

    async def watch(self, poll_seconds: float) -> None:
        """Calls `refresh` forever."""
        while True:
            await asyncio.sleep(poll_seconds)
            await self.refresh()

    async def refresh(self) -> None:
        """Loads new versions that should be served, then retires those that should not."""
        try:
            there = find_versions(self.folder)
        except OSError:
            return  # the folder itself is gone or unreadable for now: keep serving
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
        """Loads a version, unless that failed and its folder has not changed since."""
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
        number = version.number
        self.statuses[number] = Status("END")
        del version
        await asyncio.to_thread(gc.collect)  # TensorFlow's functions refer to one another
        self._tell(f"version {number} has ended")

    def _labelled(self, number: int | None, label: str | None) -> int | None:
        if label is None:
            return number
        if label not in self._labels:
            raise invalid(f"Unrecognized servable version label: {label}")
        return self._labels[label]


def find_versions(folder: Path) -> dict[int, Path]:
    """The versions in a folder: its subfolders whose names are numbers.

    Raises:
        OSError: If it is not a readable folder.
    """
    return {
        int(path.name): path
        for path in sorted(folder.iterdir())
        if path.name.isascii() and path.name.isdecimal() and path.is_dir()
        if int(path.name) <= LARGEST
    }


def _content(path: Path) -> list[tuple]:
    """Each file's name, size and time, which tell whether a folder has changed."""
    found = []
    for file in sorted(path.rglob("*")):
        with contextlib.suppress(OSError):  # goes away meanwhile
            state = file.stat()
            found.append((os.fspath(file), state.st_size, state.st_mtime_ns))
    return found
