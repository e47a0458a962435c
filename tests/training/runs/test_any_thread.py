"""Commands run in a thread, or with outputs that are not files."""

import io
import os
import signal
import sys
import threading

import pytest

from training.command_line.errors import InputError
from training.command_line.running import handling_signals, quiet_stderr, run_command


def in_a_thread(function):
    """Returns a function's result, from a thread other than the main thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def fail(arguments):
    raise InputError("wrong")


def leave(arguments):
    raise BrokenPipeError


@pytest.mark.parametrize(("command", "code"), [(print, 0), (fail, 1), (leave, 1)])
def test_a_command_runs_in_any_thread_and_with_any_output(monkeypatch, command, code):
    """A notebook's stdout has neither `reconfigure` nor a file."""
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    earlier = signal.getsignal(signal.SIGTERM)
    assert in_a_thread(lambda: run_command(command, ["words"])) == code
    assert signal.getsignal(signal.SIGTERM) == earlier
    assert output.getvalue() == ("['words']\n" if command is print else "")


def test_a_server_handles_signals_only_in_the_main_thread():
    import uvicorn

    from training.serving.http_server import _Server

    def capture():
        with _Server(uvicorn.Config(print)).capture_signals():
            return signal.getsignal(signal.SIGINT)

    earlier = signal.getsignal(signal.SIGINT)
    assert in_a_thread(capture) == earlier
    assert capture() != earlier
    assert signal.getsignal(signal.SIGINT) == earlier


def test_a_signal_handler_unknown_to_python_is_replaced_by_the_default(monkeypatch):
    set_handlers = []

    def set_handler(number, handler):
        set_handlers.append(handler)

    monkeypatch.setattr(
        signal, "signal", set_handler
    )  # returns None, as for a handler that Python did not set
    with handling_signals(print, signal.SIGTERM):
        pass
    assert set_handlers == [print, signal.SIG_DFL]


def test_quiet_stderr_works_without_stderr(monkeypatch):
    def closed(number):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    monkeypatch.setattr(sys, "stderr", None)
    with quiet_stderr():
        pass
