"""Reads lines as they arrive, from another program or a keyboard."""

import itertools
import os
import select
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Enough for a steady writer to send its next line, and too short for a person to notice.
SECONDS_OF_SILENCE = 0.02
_BYTES_AT_ONCE = 2**16


class ArrivingLines:
    r"""Iterates over lines of bytes, including the \n, and knows whether more have arrived.

    Args:
        descriptor: Descriptor of a file, pipe, terminal or socket that nothing else reads.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._lines = deque()
        self._parts = []  # of an incomplete line
        self._has_ended = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._lines:
            if self._has_ended:
                raise StopIteration
            self._read()
        return self._lines.popleft()

    def has_more(self) -> bool:
        """Whether a line has arrived, or arrives within `SECONDS_OF_SILENCE`."""
        while not self._lines and not self._has_ended and self._is_readable(SECONDS_OF_SILENCE):
            self._read()
        return bool(self._lines)

    def _is_readable(self, seconds: float | None) -> bool:
        return bool(select.select([self._descriptor], [], [], seconds)[0])

    def _read(self) -> None:
        self._is_readable(None)  # waits, even if the descriptor does not block
        chunk = os.read(self._descriptor, _BYTES_AT_ONCE)
        self._has_ended = not chunk
        if chunk and b"\n" not in chunk:
            self._parts.append(chunk)
            return
        *whole, rest = b"".join([*self._parts, chunk]).split(b"\n")
        self._lines.extend(line + b"\n" for line in whole)
        self._parts = [rest]
        if self._has_ended and rest:
            self._lines.append(rest)


def batches(
    rows: Iterable[Any], most: int, has_more: Callable[[], bool] = lambda: True
) -> Iterator[list]:
    """Groups rows into lists; ends a list early if no more rows have arrived.

    Args:
        rows: The rows.
        most: The most rows in a list.
        has_more: Returns whether the next row, or the end, is available without waiting.
    """
    rows = iter(rows)
    while batch := list(itertools.islice(rows, 1)):
        while len(batch) < most and has_more():
            batch += (more := list(itertools.islice(rows, 1)))
            if not more:
                break
        yield batch
