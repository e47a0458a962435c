"""Dynamic batching: runs the texts of many requests through the model together.

While the model runs, requests queue up and form the next batch. A batch holds texts of one version
and signature, and of similar length, because it takes as long as its longest text. A request with
many texts runs a few of them at a time, so that short requests can go in between. If a batch
fails, its requests run one by one, so that none fails because of another.

Everything runs in the event loop's thread, except the model, which runs in worker threads.
"""

import asyncio
import heapq
import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from training.serving.errors import ServingError, of_tensorflow

ROWS_IN_TURN = 8  # rows that a request may run at a time while others wait
SHORT_BYTES = 256  # texts up to this length share batches
RUN_AT_ONCE = 2**18  # a batch with more bytes of text takes no more rows


def num_processors() -> int:
    """Returns the number of processors that this process may use; on macOS, all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class BatchCounts:
    """The number of calls of the model, and of rows in them."""

    num_runs: int = 0
    num_rows: int = 0


@dataclass(eq=False)
class _Job:
    """A request: its inputs, and its outputs so far."""

    run: Callable
    inputs: dict[str, np.ndarray]
    num_rows: int
    done: asyncio.Future
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    num_rows_done: int = 0

    def take(self, outputs: dict[str, np.ndarray], places: list[int]) -> None:
        """Stores the outputs of some rows, and completes the request when none is missing.

        `places` are the rows' indices in the request; [None] for an undivided request.
        """
        if self.done.done():
            return
        if places == [None]:
            self.done.set_result(outputs)
            return
        for name, array in outputs.items():
            if name not in self.outputs:
                shape = (self.num_rows, *array.shape[1:])
                self.outputs[name] = np.empty(shape, array.dtype)
            self.outputs[name][places] = array
        self.num_rows_done += len(places)
        if self.num_rows_done == self.num_rows:
            self.done.set_result(self.outputs)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Batcher:
    """Runs requests in batches.

    Args:
        runs_at_once: Number of threads that run the model; None for one per processor.
        max_batch_size: The most rows in a batch.
        batch_timeout_seconds: How long a row waits for others while another batch runs.
        queue_rows: The most rows that may wait; further requests are refused.
    """

    def __init__(
        self,
        runs_at_once: int | None = None,
        max_batch_size: int = 32,
        batch_timeout_seconds: float = 0.02,
        queue_rows: int = 4000,
    ):
        self.max_batch_size = max_batch_size
        self.batch_timeout_seconds = batch_timeout_seconds
        self.queue_rows = queue_rows
        self.counts = BatchCounts()
        self._num_idle = self._runs_at_once = runs_at_once or num_processors()
        self._threads = ThreadPoolExecutor(self._runs_at_once, thread_name_prefix="model")
        self._waiting = {}  # (run, row shapes, length class) -> heap of rows, the next first
        self._num_waiting = 0
        self._sequence = itertools.count()
        self._turn = 0  # number of batches so far, which gives new requests their place in line
        self._pump_timer = None

    async def submit(self, run: Callable, inputs: dict, *, in_rows: bool) -> dict:
        """Runs a request, and returns its outputs.

        Args:
            run: A function from inputs to outputs, arrays by name. Requests with the same `run`
                may share batches.
            inputs: The request's arrays by name, with the batch as first axis.
            in_rows: Whether each row's outputs depend on its own inputs only, so that rows may be
                batched and split freely.

        Raises:
            ServingError: If the queue is full, or the model refuses the request.
        """
        lengths = {len(array) if array.ndim else None for array in inputs.values()}
        num_rows = lengths.pop() if len(lengths) == 1 else None
        num_waiting = num_rows or 1
        if self._num_waiting and self._num_waiting + num_waiting > self.queue_rows:
            raise ServingError(
                "UNAVAILABLE",
                f"The queue may hold {self.queue_rows:,} rows. Received: {num_waiting:,} more, with"
                f" {self._num_waiting:,} waiting. Try again later.",
            )
        job = _Job(run, inputs, num_rows or 1, asyncio.get_running_loop().create_future())
        if in_rows and num_rows:
            self._enqueue_rows(job)
        else:
            self._push((job,), self._turn, job, None, 0)
        self._pump_soon()
        return await job.done

    def close(self) -> None:
        """Ends the threads once they are idle."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _enqueue_rows(self, job: _Job) -> None:
        shapes = tuple((name, array.shape[1:]) for name, array in job.inputs.items())
        row_bytes = _row_bytes(job.inputs, job.num_rows)
        # Shortest first, so that the batches of a large request hold rows of similar length.
        for number, place in enumerate(sorted(range(job.num_rows), key=row_bytes.__getitem__)):
            key = (job.run, shapes, _length_class(row_bytes[place]))
            self._push(key, self._turn + number // ROWS_IN_TURN, job, place, row_bytes[place])

    def _push(self, key, turn: int, job: _Job, place, num_bytes: int) -> None:
        entry = (turn, next(self._sequence), time.monotonic(), num_bytes, job, place)
        heapq.heappush(self._waiting.setdefault(key, []), entry)
        self._num_waiting += 1

    def _pump_soon(self, seconds: float = 0) -> None:
        """Schedules `_pump`: by default after the loop has handled all requests at hand."""
        if self._pump_timer is not None:
            self._pump_timer.cancel()
        self._pump_timer = asyncio.get_running_loop().call_later(seconds, self._pump)

    def _pump(self) -> None:
        self._pump_timer = None
        while self._num_idle and self._waiting:
            key = min(self._waiting, key=lambda key: self._waiting[key][0][:2])
            seconds = self._seconds_to_wait(key)
            if seconds > 0:
                self._pump_soon(seconds)
                return
            if rows := self._pop_batch(key):
                self._num_idle -= 1
                self._turn += 1
                loop = asyncio.get_running_loop()
                loop.run_in_executor(self._threads, _run, rows).add_done_callback(self._finish)

    def _seconds_to_wait(self, key) -> float:
        """Returns how long a batch should wait for more rows; 0 if the model is idle."""
        heap = self._waiting[key]
        full = len(heap) >= self.max_batch_size
        if self._num_idle == self._runs_at_once or full or len(key) == 1:
            return 0
        return heap[0][2] + self.batch_timeout_seconds - time.monotonic()

    def _pop_batch(self, key) -> dict[_Job, list]:
        """Takes the next batch from a queue, as row indices by request; skips canceled requests."""
        heap, rows, num_rows, num_bytes = self._waiting[key], {}, 0, 0
        while heap and num_rows < self.max_batch_size and num_bytes <= RUN_AT_ONCE:
            _, _, _, bytes_of_row, job, place = heapq.heappop(heap)
            self._num_waiting -= 1
            if not job.done.done():
                rows.setdefault(job, []).append(place)
                num_rows += 1
                num_bytes += bytes_of_row
        if not heap:
            del self._waiting[key]
        return rows

    def _finish(self, running: asyncio.Future) -> None:
        self._num_idle += 1
        results, counts = running.result()
        self.counts.num_runs += counts.num_runs
        self.counts.num_rows += counts.num_rows
        for job, places, outcome in results:
            if isinstance(outcome, Exception):
                job.fail(outcome)
            else:
                job.take(outcome, places)
        self._pump_soon()


def _run(rows: dict[_Job, list]) -> tuple[list, BatchCounts]:
    """Runs a batch; returns each job with its row indices and its outputs or error."""
    counts = BatchCounts()
    outcomes = _attempt(rows, counts)
    if len(rows) > 1 and isinstance(outcomes[0], Exception):
        outcomes = [_attempt({job: places}, counts)[0] for job, places in rows.items()]
    return [(*item, outcome) for item, outcome in zip(rows.items(), outcomes, strict=True)], counts


def _attempt(rows: dict[_Job, list], counts: BatchCounts) -> list:
    """Calls the model once; returns the outputs of each job's rows, or the error for each."""
    first = next(iter(rows))
    whole = rows[first] == [None]
    counts.num_runs += 1
    counts.num_rows += first.num_rows if whole else sum(map(len, rows.values()))
    try:
        if whole:
            return [first.run(first.inputs)]
        merged = {
            name: np.concatenate([job.inputs[name][places] for job, places in rows.items()])
            for name in first.inputs
        }
        return _split(first.run(merged), [len(places) for places in rows.values()])
    except ServingError as error:
        return [error] * len(rows)
    except Exception as error:  # TensorFlow raises many kinds
        return [of_tensorflow(error)] * len(rows)


def _split(outputs: dict[str, np.ndarray], sizes: list[int]) -> list[dict]:
    """Splits a batch's outputs by request; `sizes` are the requests' numbers of rows."""
    for name, array in outputs.items():
        if array.shape[:1] != (sum(sizes),):
            raise ServingError(
                "INTERNAL",
                f"{name} must have a row for each of {sum(sizes)} inputs. Received: the shape"
                f" {list(array.shape)}.",
            )
    ends = np.cumsum(sizes)[:-1]
    parts = {name: np.split(array, ends) for name, array in outputs.items()}
    return [{name: part[n] for name, part in parts.items()} for n in range(len(sizes))]


def _row_bytes(inputs: dict[str, np.ndarray], num_rows: int) -> list[int]:
    """Returns the length in bytes of each row's longest string."""
    rows = [a.reshape(num_rows, -1) for a in inputs.values() if a.dtype == object]
    return [max((len(text) for row in rows for text in row[n]), default=0) for n in range(num_rows)]


def _length_class(num_bytes: int) -> int:
    """Returns 0 for short texts; longer texts of one class differ by less than a factor of 2."""
    return max(0, num_bytes.bit_length() - SHORT_BYTES.bit_length() + 1)
