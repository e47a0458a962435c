"""Keeps unrequested information off the terminal."""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

# SentencePiece inside TensorFlow Text logs each model it loads, and TensorFlow logs operations that
# oneDNN leaves to it. Neither can be turned off, and neither matters to a user.
_INFORMATION = re.compile(rb"\) LOG\(INFO\) |oneDNN supports DT_INT64 only on")

_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def without_information() -> Iterator[None]:
    """Drops lines of information that C++ code writes to stderr inside the block.

    All other output appears when the block ends.
    """
    if sys.stderr is None:  # Python started without it, and 2 may be any file by now
        yield
        return
    with _one_at_a_time, contextlib.ExitStack() as stack:
        try:
            stderr = os.dup(2)
            written = stack.enter_context(tempfile.TemporaryFile())
        except OSError:  # no stderr, or no room for a file: drop nothing
            yield
            return
        sys.stderr.flush()
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            for line in written:
                if not _INFORMATION.search(line):
                    os.write(2, line)
