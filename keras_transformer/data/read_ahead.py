"""A thread that prepares the next items while the present one is used."""

import atexit
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

_LAST = object()


def read_ahead(produce: Callable[[Callable[[], bool]], Iterator[Any]]) -> Iterator[Any]:
    """Yields what `produce` yields, which runs one item ahead in a thread of its own.

    The thread begins with the first item asked for, and ends with the iterator: when it is used
    up, closed, forgotten or left behind at the end of Python. What `produce` raises is raised
    where the item is asked for.

    Args:
        produce: Given a function that says whether the thread is to stop; an iterator over the
            items, which asks that function often and ends when told to. It must not refer to the
            iterator that this returns, which would then never be forgotten.
    """
    stopped = []
    # Simple queues, because the iterator may be forgotten at any moment in any thread, within a
    # call of an ordinary queue too, whose lock would then be taken twice.
    wanted, items = SimpleQueue(), SimpleQueue()
    thread = threading.Thread(
        target=_run, args=(produce, stopped, wanted, items), name="read_ahead", daemon=True
    )

    def stop():
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
            del item  # before the next one is waited for: two are enough to hold
    finally:
        if not stopped:  # else Python is ending, and modules may be gone
            atexit.unregister(stop)
            stop()


def _run(produce, stopped: list, wanted: SimpleQueue, items: SimpleQueue) -> None:
    """What the thread does: an item for each that is wanted."""
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
