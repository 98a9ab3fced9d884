"""The first signal drains a run, the second one ends it, and nothing of it stays behind."""

import io
import os
import signal
import sys
import threading

import pytest

from vidcomp.pipelines.extraction.stopping import stops_on_signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


class Deaf(io.TextIOBase):
    """A stream that nobody reads, or that is being written to already."""

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error


def send(number):
    """To this process; Python's handler has run when it returns."""
    signal.raise_signal(number)


@pytest.mark.parametrize(
    ("number", "code", "end"),
    [(signal.SIGINT, 130, KeyboardInterrupt), (signal.SIGTERM, 143, SystemExit)],
)
def test_the_first_drains_and_the_second_ends(number, code, end, capsys):
    drained = []
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with stops_on_signals(lambda: drained.append(1)) as stop:
        assert (stop.signal, stop.exit_code) == (None, 0)
        send(number)
        assert (stop.signal, stop.exit_code, drained) == (number, code, [1])
        assert "finishing what has begun" in capsys.readouterr().err
        with pytest.raises(end) as ended:
            send(number)
    assert drained == [1]
    assert end is KeyboardInterrupt or ended.value.code == code
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_the_first_signal_decides_the_exit_code():
    with stops_on_signals(lambda: None) as stop:
        send(signal.SIGINT)
        with pytest.raises(SystemExit):
            send(signal.SIGTERM)
    assert stop.exit_code == 130


@pytest.mark.parametrize(
    "stream", [Deaf(BrokenPipeError()), Deaf(ValueError()), Deaf(RuntimeError()), None]
)
def test_a_run_drains_though_nobody_hears_of_it(monkeypatch, capsys, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    drained = []
    with stops_on_signals(lambda: drained.append(1)) as stop:
        send(signal.SIGTERM)
    assert (drained, stop.exit_code) == ([1], 143)
    assert capsys.readouterr().out == ""


def test_an_error_of_the_run_passes_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stops_on_signals(lambda: None):
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def run():
        with stops_on_signals(lambda: None) as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.exit_code))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, 0)]
