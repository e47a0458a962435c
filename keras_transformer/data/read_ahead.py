"""A thread that prepares the next item while the current one is in use."""

import atexit
import threading
from collections.abc import Callable, Generator, Iterator
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

_LAST = object()

Item = TypeVar("Item")
Produce: TypeAlias = Callable[[Callable[[], bool]], Iterator[Item]]
Wanted: TypeAlias = SimpleQueue[None]
Items: TypeAlias = SimpleQueue[tuple[Any, BaseException | None]]


def read_ahead(produce: Produce[Item]) -> Generator[Item, None, None]:
    """Yields the items of `produce`, which runs one item ahead in its own thread.

    The thread starts when the first item is requested. It ends when the iterator is used up, closed
    or garbage collected, or when Python exits. Errors in `produce` are raised when the item is
    requested.

    Args:
        produce: Returns an iterator over the items. Takes a function that tells whether to stop,
            which it must call often. It must not refer to the iterator returned here, which could
            then never be collected.
    """
    stopped: list[bool] = []
    # Simple queues, because the iterator may be collected at any time in any thread, even during a
    # call of an ordinary queue, whose lock would then be taken twice.
    wanted: Wanted = SimpleQueue()
    items: Items = SimpleQueue()
    thread = threading.Thread(
        target=_run, args=(produce, stopped, wanted, items), name="read_ahead", daemon=True
    )

    def stop() -> None:
        stopped.append(True)
        wanted.put(None)
        if thread is not threading.current_thread():
            thread.join()

    thread.start()
    atexit.register(stop)  # a daemon thread that outlives the interpreter may bring it down
    wanted.put(None)
    try:
        while True:
            item, error = items.get()
            if error is not None:
                raise error
            if item is _LAST:
                return
            wanted.put(None)
            yield item
            del item  # before waiting for the next one: holding two is enough
    finally:
        if not stopped:  # otherwise Python is exiting, and modules may be gone
            atexit.unregister(stop)
            stop()


def _run(
    produce: Produce[Any],
    stopped: list[bool],
    wanted: Wanted,
    items: Items,
) -> None:
    """Runs in the thread, and produces one item for each request."""
    try:
        wanted.get()
        for item in produce(lambda: bool(stopped)):
            if stopped:
                break
            items.put((item, None))
            del item
            wanted.get()
        items.put((_LAST, None))
    except BaseException as error:
        items.put((None, error))
