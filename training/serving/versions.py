"""Chooses the versions of a model to serve: finds, loads, watches and retires them.

As in TensorFlow Serving, the newest versions, all, or chosen ones are served. A new version is
loaded and warmed up before an old one is retired, and the old one finishes its requests. If a
version cannot be loaded, the failure is reported and the older version stays.

Everything except loading runs in the event loop's thread.
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
    """A rule for which of the versions in the folder to serve.

    Attributes:
        newest: How many versions, from the highest number down; None for all.
        named: The numbers of the only versions to serve; overrides `newest` unless empty.
    """

    newest: int | None = 1
    named: frozenset[int] = frozenset()

    def choose(self, there: set[int]) -> list[int]:
        """Returns the versions to serve, in ascending order; `there` has all existing ones."""
        if self.named:
            return sorted(there & self.named)
        return sorted(there)[-self.newest if self.newest else 0 :]


@dataclass(frozen=True)
class Status:
    """The state of a version.

    Attributes:
        state: START, LOADING, AVAILABLE, UNLOADING or END.
        code: OK, or the error code if loading failed.
        message: The error message if loading failed.
    """

    state: str
    code: str = "OK"
    message: str = ""


class Versions:
    """Manages the versions of one model.

    Args:
        folder: saved_models/NAME.
        name: The model's name in requests.
        policy: Which versions to serve.
        labels: Names for versions, as in {"stable": 1}.
        tell: Called with a line of text when a version is loaded, retired, or fails to load.
        load: Loads a version, from its folder and its number.
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
        self.statuses = {}  # number -> Status, for every version ever seen
        self._policy = policy
        self._labels = labels or {}
        self._tell = tell
        self._load = load
        self._loaded = {}  # number -> LoadedVersion, for versions that answer requests
        self._failed = {}  # number -> `_content` of its folder when it failed to load
        self._retiring = {}  # number -> the task that retires the version
        self._announced = set()  # numbers whose loading was announced but has not begun

    @property
    def available(self) -> list[int]:
        """The numbers of the versions that answer requests, in ascending order."""
        return sorted(self._loaded)

    def numbers(self, number: int | None, label: str | None) -> list[int]:
        """Returns the versions that a status request asks about, newest first.

        Raises:
            ServingError: If there is no such version.
        """
        number = self._labelled(number, label)
        if number is None and not self.statuses:
            raise not_found(f"Could not find any versions of model {self.name}")
        if number is not None and number not in self.statuses:
            raise not_found(f"Could not find version {number} of model {self.name}")
        return sorted(self.statuses, reverse=True) if number is None else [number]

    @contextlib.contextmanager
    def use(self, number: int | None, label: str | None) -> Iterator[LoadedVersion]:
        """Yields a version, and keeps it loaded until the block ends.

        Args:
            number: Its number; None for the newest.
            label: Its label; overrides `number` unless None.

        Raises:
            ServingError: If there is no such version.
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
        """Reports which versions `refresh` will load, and returns their numbers.

        For callers that need a few seconds before they can call `refresh`.
        """
        wanted = []
        with contextlib.suppress(OSError):
            wanted = self._policy.choose(set(find_versions(self.folder)))
        for number in wanted:
            self._tell_of_loading(number)
        return wanted

    async def watch(self, poll_seconds: float) -> None:
        """Calls `refresh` every `poll_seconds`, forever."""
        while True:
            await asyncio.sleep(poll_seconds)
            await self.refresh()

    async def refresh(self) -> None:
        """Loads the versions that should be served, then retires the others."""
        try:
            there = find_versions(self.folder)
        except OSError:
            return  # the folder itself is missing or unreadable for now: keep serving
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
        """Loads a version, unless loading failed before and its folder has not changed since."""
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
        await asyncio.to_thread(gc.collect)  # TensorFlow's functions form reference cycles
        self._tell(f"version {number} has ended")

    def _labelled(self, number: int | None, label: str | None) -> int | None:
        if label is None:
            return number
        if label not in self._labels:
            raise invalid(f"Unrecognized servable version label: {label}")
        return self._labels[label]


def find_versions(folder: Path) -> dict[int, Path]:
    """Returns the versions in a folder: its subfolders whose names are numbers.

    Raises:
        OSError: If `folder` is not a readable folder.
    """
    return {
        int(path.name): path
        for path in sorted(folder.iterdir())
        if path.name.isascii() and path.name.isdecimal() and path.is_dir()
        if int(path.name) <= LARGEST
    }


def _content(path: Path) -> list[tuple]:
    """Returns each file's name, size and time, to detect changes in a folder."""
    found = []
    for file in sorted(path.rglob("*")):
        with contextlib.suppress(OSError):  # the file may vanish in between
            state = file.stat()
            found.append((os.fspath(file), state.st_size, state.st_mtime_ns))
    return found
