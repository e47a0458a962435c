"""Refuses to work in forked processes, where TensorFlow and JAX hang.

A fork copies only the thread that makes it. A running backend hands its work to other threads,
which the fork lacks.
"""

import os
import sys

_parent = None  # the id of the process this one was forked from, if its backend was running


def is_fork() -> bool:
    """Whether this process was forked after its parent had used the backend."""
    return _parent is not None


def check_not_forked() -> None:
    """Raises RuntimeError in a process forked after its parent had used the backend."""
    if is_fork():
        raise RuntimeError(
            "TensorFlow and JAX cannot work in a process forked from one that has used them."
            f" Received: process {os.getpid()}, forked from {_parent}. Start processes with"
            " multiprocessing.get_context('spawn'), or fork before anything else."
        )


def _note_fork() -> None:
    global _parent
    if is_fork() or _is_backend_running():
        _parent = os.getppid()


def _is_backend_running() -> bool:
    # Neither backend has a public function that tells without starting it.
    tensorflow = sys.modules.get("tensorflow.python.eager.context")
    if tensorflow is not None:
        context = tensorflow.context_safe()
        if context is not None and context._initialized:
            return True
    jax = sys.modules.get("jax._src.xla_bridge")
    return jax is not None and jax.backends_are_initialized()


os.register_at_fork(after_in_child=_note_fork)
