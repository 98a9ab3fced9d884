"""What a person sees of a run: a bar or lines, few failures, where the time goes."""

import io
import logging
import re
import time

import pytest
from fake_runner import FakeRunner, failed, ok

from vidcomp.config import load_recipe
from vidcomp.pipelines.extraction.engine import Waits
from vidcomp.pipelines.extraction.extract import extract
from vidcomp.pipelines.extraction.planning import Plan
from vidcomp.pipelines.extraction.progress import Console
from vidcomp.pipelines.extraction.summary import Receipt, Summary
from vidcomp.pipelines.extraction.watching import Watchers
from vidcomp.pipelines.inputs import Item

RECIPE = load_recipe("embedded", [])


def items(count, rows=1):
    return [Item(key=str(i), path=f"/nowhere/{i}", rows=rows) for i in range(count)]


class Screen(io.StringIO):
    """Standard error that is a terminal, or not."""

    def __init__(self, *, is_terminal):
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal


@pytest.fixture
def show(tmp_path, monkeypatch):
    """What is on standard error after ``tell`` was the worker."""

    def call(tell, todo, *, is_terminal=True, quiet=False, beat_s=60.0):
        screen = Screen(is_terminal=is_terminal)
        monkeypatch.setattr("sys.stderr", screen)
        monkeypatch.setattr("vidcomp.pipelines.extraction.extract.Worker", FakeRunner(tell))
        monkeypatch.setattr(
            "vidcomp.pipelines.extraction.extract.Watchers", lambda w: Watchers(w, beat_s=beat_s)
        )
        with Console(quiet=quiet) as console:
            extract(todo, tmp_path, RECIPE, watchers=[console])
        return screen.getvalue()

    return call


def test_a_terminal_shows_a_bar_with_counts_and_waits(show):
    def tell(todo):
        yield failed(todo[0])
        yield Receipt(key="1", path="/nowhere/1", status="cached")
        yield ok(todo[2])
        time.sleep(0.2)  # a bar is drawn ten times a second
        yield ok(todo[3])

    shown = show(tell, items(4, rows=2))
    assert "8/8" in shown
    assert "video/s, ok 4, failed 2, skipped 2" in shown
    assert "vidcomp: failed: /nowhere/0 is damaged" in shown
    assert "4 rows repeat a video that another row names" in shown


def test_the_bar_tells_where_the_time_goes_and_leaves_out_what_is_nothing(monkeypatch):
    monkeypatch.setattr("sys.stderr", Screen(is_terminal=True))
    with Console(quiet=False) as console:
        console._summary = Summary(store="c", recipe="r", planned=2, done=1)
        console.begun(FakeRunner(lambda _: iter(())))
        console._started -= 10
        console.receipt(ok(items(1)[0]), Waits(decode_wait_s=7.5, write_wait_s=1))
        assert console._bar.postfix == "ok 1, decode-wait 75%, write-wait 10%"


def test_what_earlier_runs_did_is_where_the_bar_begins(monkeypatch, tmp_path):
    screen = Screen(is_terminal=True)
    monkeypatch.setattr("sys.stderr", screen)
    summary = Summary(store="c", recipe="r", planned=10)
    cached = items(6)
    for one in cached:
        summary.add(Receipt(key=one.key, path=one.path, status="cached"))
    with Console(quiet=False) as console:
        console.planned(Plan(cached=cached, todo=items(10)[6:]), summary)
        console.begun(FakeRunner(lambda _: iter(())))
        assert console._bar.n == console._bar.initial == 6
        summary.add(ok(items(7)[6]))
        console.receipt(ok(items(7)[6]), Waits())
        assert console._bar.n == 7
    assert " 60%" in screen.getvalue()


def test_a_flood_of_failures_is_counted(show):
    shown = show(lambda todo: map(failed, todo), items(500), is_terminal=False)
    assert shown.count("failed: /nowhere/") == 10
    assert "further failures are counted only" in shown
    assert "490 more failures were not shown" in shown


def test_a_log_gets_lines_and_no_bar(show):
    def tell(todo):
        for one in todo:
            time.sleep(0.05)
            yield ok(one)

    shown = show(tell, items(6), is_terminal=False, beat_s=0.02)
    assert "\r" not in shown
    lines = shown.splitlines()
    assert len(lines) >= 3
    assert re.fullmatch(
        r"vidcomp: \d of 6 videos, [\d.]+ a second(, \S+ \S+ left)?: ok \d, failed 0, skipped 0, "
        r"decode-wait 0%, encode-wait 0%, write-wait 0%",
        lines[-1],
    )


@pytest.mark.parametrize("is_terminal", [True, False])
def test_quiet_shows_nothing_but_warnings(show, is_terminal):
    def tell(todo):
        yield failed(todo[0])
        logging.getLogger("vidcomp.x").warning("half of the memory is gone")
        yield ok(todo[1])

    shown = show(tell, items(2), is_terminal=is_terminal, quiet=True, beat_s=0.01)
    assert shown == "vidcomp: warning: half of the memory is gone\n"


def test_a_flood_of_warnings_is_counted_too(show):
    def tell(todo):
        for i in range(50):
            logging.getLogger("vidcomp.x").warning("number %d\nis odd", i)
        yield from map(ok, todo)

    shown = show(tell, items(1), is_terminal=False)
    assert shown.count("warning: number") == 10
    assert "number 3\\nis odd" in shown
    assert "40 more warnings were not shown" in shown


def test_nobody_reading_is_no_reason_to_stop(tmp_path, monkeypatch):
    class Closed(Screen):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed(is_terminal=False))
    monkeypatch.setattr(
        "vidcomp.pipelines.extraction.extract.Worker", FakeRunner(lambda t: map(failed, t))
    )
    with Console(quiet=False) as console:
        assert extract(items(3), tmp_path, RECIPE, watchers=[console]).failed == 3


def test_logging_is_left_as_it_was():
    before = list(logging.getLogger().handlers)
    with Console(quiet=True):
        pass
    assert logging.getLogger().handlers == before
