"""The choice of versions to serve, with a loader that the tests control."""

import asyncio
import threading

import pytest

from training.serving.errors import ServingError
from training.serving.saved_model import LoadedVersion
from training.serving.versions import Policy, Versions, find_versions


class Loader:
    """Loads empty versions; fails if the folder contains a file named "broken"."""

    def __init__(self):
        self.loaded = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, path, number):
        self.gate.wait(30)
        self.loaded.append(number)
        if (path / "broken").exists():
            raise OSError("half of it is missing")
        return LoadedVersion(number, {})


@pytest.fixture
def loader():
    return Loader()


def make(folder, *numbers, broken=False):
    for number in numbers:
        (folder / str(number)).mkdir(parents=True)
        if broken:
            (folder / str(number) / "broken").write_text("")


def remove(path):
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def states_of(versions):
    return {number: status.state for number, status in versions.statuses.items()}


async def settled(versions):
    """Refreshes once, and waits until retired versions have ended."""
    await versions.refresh()
    await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "policy, expected",
    [
        (Policy(), [10]),
        (Policy(newest=2), [9, 10]),
        (Policy(newest=7), [2, 9, 10]),
        (Policy(newest=None), [2, 9, 10]),
        (Policy(named=frozenset({2, 9, 77})), [2, 9]),
    ],
)
def test_the_policy_decides_which_versions_are_loaded(tmp_path, loader, policy, expected):
    make(tmp_path, 2, 9, 10)
    versions = Versions(tmp_path, "m", policy, load=loader)
    asyncio.run(versions.refresh())
    assert versions.available == expected == loader.loaded


def test_versions_are_folders_whose_names_are_numbers(tmp_path):
    make(tmp_path, "3", "0012", "notes", ".unfinished", "-1", "1.5", "٣", "9" * 30)
    (tmp_path / "4").write_text("")
    assert find_versions(tmp_path) == {3: tmp_path / "3", 12: tmp_path / "0012"}


def test_a_new_version_replaces_the_old_one_after_loading(tmp_path, loader):
    make(tmp_path, 1)
    told = []
    versions = Versions(tmp_path, "m", tell=told.append, load=loader)

    async def replace():
        await settled(versions)
        make(tmp_path, 2)
        loader.gate.clear()
        loading = asyncio.ensure_future(versions.refresh())
        await asyncio.sleep(0.1)
        during = states_of(versions), versions.available
        loader.gate.set()
        await loading
        async with asyncio.timeout(30):
            while len(told) < 5:
                await asyncio.sleep(0.05)
        return during

    assert asyncio.run(replace()) == ({1: "AVAILABLE", 2: "LOADING"}, [1])
    assert states_of(versions) == {1: "END", 2: "AVAILABLE"}
    assert [line.split(" (")[0] for line in told] == [
        f"loading {tmp_path} version 1 ...",
        "version 1 is available",
        f"loading {tmp_path} version 2 ...",
        "version 2 is available",
        "version 1 has ended",
    ]


def test_announced_versions_are_not_reported_again(tmp_path, loader):
    make(tmp_path, 1, 2)
    told = []
    versions = Versions(tmp_path, "m", Policy(newest=None), tell=told.append, load=loader)
    assert versions.announce() == [1, 2]
    asyncio.run(versions.refresh())
    assert [line.split(" (")[0] for line in told] == [
        f"loading {tmp_path} version 1 ...",
        f"loading {tmp_path} version 2 ...",
        "version 1 is available",
        "version 2 is available",
    ]
    assert Versions(tmp_path / "none", "m", tell=told.append, load=loader).announce() == []


def test_a_retired_version_finishes_its_requests_first(tmp_path, loader):
    make(tmp_path, 1)
    versions = Versions(tmp_path, "m", load=loader)

    async def replace():
        await settled(versions)
        make(tmp_path, 2)
        with versions.use(None, None) as in_use:
            await settled(versions)
            during = states_of(versions)
            with versions.use(None, None) as next_one:
                pass
        await asyncio.sleep(0.1)
        return in_use.number, next_one.number, during

    assert asyncio.run(replace()) == (1, 2, {1: "UNLOADING", 2: "AVAILABLE"})
    assert states_of(versions) == {1: "END", 2: "AVAILABLE"}


def test_a_broken_version_is_reported_once_and_the_older_one_stays(tmp_path, loader):
    make(tmp_path, 1)
    told = []
    versions = Versions(tmp_path, "m", tell=told.append, load=loader)

    async def break_and_mend():
        await settled(versions)
        make(tmp_path, 2, broken=True)
        for _ in range(3):
            await settled(versions)
        while_broken = versions.available, versions.statuses[2]
        (tmp_path / "2" / "broken").unlink()
        await settled(versions)
        return while_broken

    available, status = asyncio.run(break_and_mend())
    assert available == [1]
    assert (status.state, status.code, status.message) == (
        "END",
        "NOT_FOUND",
        "half of it is missing",
    )
    assert versions.available == [2]
    assert loader.loaded == [1, 2, 2]
    assert "version 2 could not be loaded: half of it is missing" in told


def test_removing_the_newest_version_restores_the_one_before(tmp_path, loader):
    make(tmp_path, 1, 2)
    versions = Versions(tmp_path, "m", load=loader)

    async def roll_back():
        await settled(versions)
        remove(tmp_path / "2")
        await settled(versions)

    asyncio.run(roll_back())
    assert versions.available == [1]
    assert states_of(versions) == {1: "AVAILABLE", 2: "END"}


def test_versions_stay_if_their_whole_folder_vanishes(tmp_path, loader):
    folder = tmp_path / "m"
    make(folder, 1)
    versions = Versions(folder, "m", load=loader)

    async def lose():
        await settled(versions)
        folder.rename(tmp_path / "elsewhere")
        await settled(versions)

    asyncio.run(lose())
    assert versions.available == [1]


def test_removing_the_only_version_retires_it(tmp_path, loader):
    make(tmp_path, 1)
    versions = Versions(tmp_path, "m", load=loader)

    async def empty():
        await settled(versions)
        remove(tmp_path / "1")
        await settled(versions)

    asyncio.run(empty())
    assert versions.available == []
    message = r"Servable not found for request: Latest\(m\)"
    with pytest.raises(ServingError, match=message), versions.use(None, None):
        pass


def test_a_label_stays_with_its_version_even_if_loading_failed(tmp_path, loader):
    make(tmp_path, 1, broken=True)
    versions = Versions(tmp_path, "m", labels={"stable": 1}, load=loader)
    asyncio.run(versions.refresh())
    assert versions.numbers(None, "stable") == [1]
    message = r"Servable not found for request: Specific\(m, 1\)"
    with pytest.raises(ServingError, match=message), versions.use(None, "stable"):
        pass
