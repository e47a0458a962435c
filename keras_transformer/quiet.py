"""Keeping information that nobody asked for off the terminal."""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

# What SentencePiece inside of TensorFlow Text says of each model that it loads, and what TensorFlow
# says where oneDNN leaves an operation to it. Neither can be turned off, and both change nothing.
_INFORMATION = re.compile(rb"\) LOG\(INFO\) |oneDNN supports DT_INT64 only on")

_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def without_information() -> Iterator[None]:
    """Drops lines of information that C++ code writes to stderr meanwhile.

    All else that is written comes out at the end.
    """
    with _one_at_a_time, contextlib.ExitStack() as stack:
        try:
            if sys.stderr is None:  # another file may have its number by now
                raise OSError
            stderr = os.dup(2)
            written = stack.enter_context(tempfile.TemporaryFile())
        except OSError:  # no stderr, or no room for a file: then with what is written
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
